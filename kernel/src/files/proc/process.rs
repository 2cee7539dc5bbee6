//! /proc/PID and /proc/PID/task/TID: the directories, and the files that do not show state or memory.

mod memory;
mod status;

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use fs::synth::{dynamic, file, file_rw, magic};
use fs::vfs::{Dentry, Mount};
use fs::{FileType, Inode, OpenFlags, Path};

use super::{TICK_NS, text};
use crate::files::dev::FileInode;
use crate::files::{FdTable, FsContext, net_files};
use crate::process::limits::{INFINITY, resource};
use crate::process::{Process, ids};
use crate::sched::Thread;

use memory::{maps, rollup, statm};
use status::{stat, status};

type Node = Arc<dyn Inode>;

fn process(pid: u32) -> Result<Arc<Process>> {
    ids::process(pid).ok_or(Errno::ESRCH)
}

/// The thread `tid` of a process, or its oldest one.
fn thread(pid: u32, tid: u32) -> Result<Arc<Thread>> {
    let process = process(pid)?;
    let threads = process.threads();
    threads.iter().find(|t| t.tid == tid).or(threads.first()).cloned().ok_or(Errno::ESRCH)
}

fn table(pid: u32, tid: u32) -> Result<Arc<FdTable>> {
    thread(pid, tid)?.ext.files.peek().ok_or(Errno::ENOENT)
}

fn context(pid: u32, tid: u32) -> Result<Arc<FsContext>> {
    thread(pid, tid)?.ext.fs.peek().ok_or(Errno::ENOENT)
}

const FILES: &[&str] = &[
    "arch_status",
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "coredump_filter",
    "environ",
    "io",
    "limits",
    "loginuid",
    "maps",
    "mountinfo",
    "mounts",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "pagemap",
    "personality",
    "sessionid",
    "smaps",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
    "timerslack_ns",
    "wchan",
];
const LINKS: &[&str] = &["cwd", "exe", "root"];

/// /proc/PID.
pub fn directory(pid: u32) -> Node {
    dynamic(
        Vec::new(),
        move |name| entry(pid, pid, name, true),
        move || {
            process(pid)?;
            let mut names = list();
            names.push((b"task".to_vec(), FileType::Directory));
            Ok(names)
        },
    )
}

fn list() -> Vec<(Vec<u8>, FileType)> {
    let of = |names: &'static [&'static str], kind| names.iter().map(move |n| (n.as_bytes().to_vec(), kind));
    of(FILES, FileType::Regular)
        .chain(of(LINKS, FileType::Symlink))
        .chain(of(&["fd", "fdinfo", "net", "ns"], FileType::Directory))
        .collect()
}

fn task(pid: u32) -> Node {
    dynamic(
        Vec::new(),
        move |name| {
            let tid = super::parse(name)?;
            process(pid)?.threads().iter().find(|t| t.tid == tid).ok_or(Errno::ENOENT)?;
            Ok(dynamic(Vec::new(), move |name| entry(pid, tid, name, false), || Ok(list())))
        },
        move || {
            let threads = process(pid)?.threads();
            Ok(threads.iter().map(|t| (format!("{}", t.tid).into_bytes(), FileType::Directory)).collect())
        },
    )
}

/// A file whose text is made from the process when it is read.
fn of(pid: u32, make: fn(&Arc<Process>) -> Result<String>) -> Node {
    file(move || Ok(make(&process(pid)?)?.into_bytes()))
}

fn entry(pid: u32, tid: u32, name: &[u8], leader: bool) -> Result<Node> {
    process(pid)?;
    Ok(match name {
        b"task" if leader => task(pid),
        b"fd" => fds(pid, tid),
        b"fdinfo" => fdinfos(pid, tid),
        b"net" => net_files::tree(),
        b"ns" => dynamic(Vec::new(), |_| Err(Errno::ENOENT), || Ok(Vec::new())),
        b"cwd" => place(pid, move || Ok(context(pid, tid)?.cwd())),
        b"root" => place(pid, move || Ok(context(pid, tid)?.root())),
        b"exe" => place(pid, move || process(pid)?.program().path.clone().ok_or(Errno::ENOENT)),
        b"cmdline" => file(move || strings(pid, |program| program.arguments)),
        b"environ" => file(move || strings(pid, |program| program.environment)),
        b"auxv" => file(move || Ok(process(pid)?.program().auxv.to_vec())),
        b"comm" => file_rw(
            move || {
                let mut name = name_of(&*thread(pid, tid)?);
                name.push('\n');
                Ok(name.into_bytes())
            },
            move |name| {
                let end = name.iter().position(|&b| b == b'\n' || b == 0).unwrap_or(name.len());
                thread(pid, tid)?.set_name(&name[..end.min(15)]);
                Ok(())
            },
        ),
        b"status" => file(move || Ok(status(pid, tid)?.into_bytes())),
        b"stat" => file(move || Ok(stat(pid, tid, leader)?.into_bytes())),
        b"statm" => of(pid, statm),
        b"maps" => of(pid, |p| maps(p, false)),
        b"smaps" => of(pid, |p| maps(p, true)),
        b"smaps_rollup" => of(pid, rollup),
        b"limits" => of(pid, limits),
        b"mounts" => file(move || mounts(pid, tid, false)),
        b"mountinfo" => file(move || mounts(pid, tid, true)),
        b"cgroup" => text(|| String::from("0::/\n")),
        b"io" => text(|| {
            String::from(
                "rchar: 0\nwchar: 0\nsyscr: 0\nsyscw: 0\nread_bytes: 0\nwrite_bytes: 0\ncancelled_write_bytes: 0\n",
            )
        }),
        b"oom_score" => text(|| String::from("0\n")),
        b"oom_score_adj" => file_rw(
            move || Ok(format!("{}\n", process(pid)?.oom_score_adj.load(Ordering::Relaxed)).into_bytes()),
            move |bytes| {
                let value: i32 = number(bytes)?;
                if !(-1000..=1000).contains(&value) {
                    return Err(Errno::EINVAL);
                }
                process(pid)?.oom_score_adj.store(value, Ordering::Relaxed);
                Ok(())
            },
        ),
        b"oom_adj" => text(|| String::from("0\n")),
        b"loginuid" | b"sessionid" => text(|| String::from("4294967295")),
        b"personality" => of(pid, |p| Ok(format!("{:08x}\n", p.personality.load(Ordering::Relaxed)))),
        b"timerslack_ns" => text(|| String::from("50000\n")),
        b"wchan" => text(|| String::from("0")),
        b"coredump_filter" => text(|| String::from("00000033\n")),
        b"arch_status" | b"pagemap" => text(String::new),
        _ => return Err(Errno::ENOENT),
    })
}

fn number<T: core::str::FromStr>(bytes: &[u8]) -> Result<T> {
    core::str::from_utf8(bytes).ok().and_then(|t| t.trim().parse().ok()).ok_or(Errno::EINVAL)
}

/// A link to a place in the tree.
fn place(pid: u32, find: impl Fn() -> Result<Path> + Clone + Send + Sync + 'static) -> Node {
    let shown = find.clone();
    magic(
        move || {
            process(pid)?;
            shown().map(|path| render(&path))
        },
        find,
    )
}

/// As readlink shows it.
fn render(path: &Path) -> Vec<u8> {
    let root = crate::files::with_context(|context| Ok(context.root()));
    let root = root.unwrap_or_else(|_| path.mount().root_path());
    let (mut text, linked) = path.render(&root);
    if !linked {
        text.extend_from_slice(b" (deleted)");
    }
    text
}

fn fds(pid: u32, tid: u32) -> Node {
    dynamic(
        Vec::new(),
        move |name| {
            let fd = descriptor(name)?;
            table(pid, tid)?.get(fd).map_err(|_| Errno::ENOENT)?;
            let open = move || table(pid, tid)?.get(fd).map_err(|_| Errno::ENOENT);
            Ok(magic(
                move || {
                    let file = open()?;
                    Ok(file.path().map_or_else(|| file.describe().into_bytes(), render))
                },
                move || {
                    let file = open()?;
                    if let Some(path) = file.path() {
                        return Ok(path.clone());
                    }
                    let name = file.describe();
                    let dentry = Dentry::unnamed(Arc::new(FileInode(file)), None, name.as_bytes());
                    Ok(Path::new(Mount::detached(dentry.clone(), "pipefs"), dentry))
                },
            ))
        },
        move || Ok(names(&*table(pid, tid)?, FileType::Symlink)),
    )
}

fn descriptor(name: &[u8]) -> Result<i32> {
    if name == b"0" { Ok(0) } else { super::parse(name).map(|n| n as i32) }
}

fn names(table: &FdTable, kind: FileType) -> Vec<(Vec<u8>, FileType)> {
    table.numbers().iter().map(|fd| (format!("{fd}").into_bytes(), kind)).collect()
}

fn fdinfos(pid: u32, tid: u32) -> Node {
    dynamic(
        Vec::new(),
        move |name| {
            let fd = descriptor(name)?;
            table(pid, tid)?.get(fd).map_err(|_| Errno::ENOENT)?;
            Ok(file(move || {
                let table = table(pid, tid)?;
                let file = table.get(fd).map_err(|_| Errno::ENOENT)?;
                let position = file.seek(0, fs::file::Whence::Current).unwrap_or(0);
                let mut flags = file.status().get();
                flags.set(OpenFlags::CLOEXEC, table.close_on_exec(fd).unwrap_or(false));
                let mount = file.path().map_or(15, |path| path.mount().id());
                let ino = file.stat().map_or(0, |stat| stat.ino);
                let more = file.fdinfo();
                Ok(format!("pos:\t{position}\nflags:\t0{:o}\nmnt_id:\t{mount}\nino:\t{ino}\n{more}", flags.bits())
                    .into_bytes())
            }))
        },
        move || Ok(names(&*table(pid, tid)?, FileType::Regular)),
    )
}

fn strings(pid: u32, which: fn(&crate::process::process::Program) -> (usize, usize)) -> Result<Vec<u8>> {
    let process = process(pid)?;
    let (start, end) = which(&process.program());
    let Some(space) = process.space() else {
        return Ok(Vec::new());
    };
    let mut bytes = alloc::vec![0; end.saturating_sub(start).min(2 << 20)];
    let n = space.read_from(start, &mut bytes)?;
    bytes.truncate(n);
    Ok(bytes)
}

fn name_of(thread: &Thread) -> String {
    let name = thread.name();
    let end = name.iter().position(|&b| b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

fn limits(process: &Arc<Process>) -> Result<String> {
    let rows = [
        ("Max cpu time", resource::CPU, "seconds"),
        ("Max file size", resource::FSIZE, "bytes"),
        ("Max data size", resource::DATA, "bytes"),
        ("Max stack size", resource::STACK, "bytes"),
        ("Max core file size", resource::CORE, "bytes"),
        ("Max resident set", resource::RSS, "bytes"),
        ("Max processes", resource::NPROC, "processes"),
        ("Max open files", resource::NOFILE, "files"),
        ("Max locked memory", resource::MEMLOCK, "bytes"),
        ("Max address space", resource::AS, "bytes"),
        ("Max file locks", 10, "locks"),
        ("Max pending signals", resource::SIGPENDING, "signals"),
        ("Max msgqueue size", resource::MSGQUEUE, "bytes"),
        ("Max nice priority", resource::NICE, ""),
        ("Max realtime priority", resource::RTPRIO, ""),
        ("Max realtime timeout", 15, "us"),
    ];
    let show = |n: u64| if n == INFINITY { String::from("unlimited") } else { format!("{n}") };
    let mut out = format!("{:<26}{:<21}{:<21}{:<10}\n", "Limit", "Soft Limit", "Hard Limit", "Units");
    let limits = process.limits();
    for (name, resource, unit) in rows {
        let limit = limits.0[resource];
        let _ = writeln!(out, "{name:<26}{:<21}{:<21}{unit:<10}", show(limit.soft), show(limit.hard));
    }
    Ok(out)
}

/// Spaces and the like as octal escapes.
fn escape(path: &[u8], out: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            byte => out.push(byte),
        }
    }
}

fn mounts(pid: u32, tid: u32, detailed: bool) -> Result<Vec<u8>> {
    context(pid, tid)?;
    let mut out = Vec::new();
    for mount in fs::vfs::mounts() {
        let rights = if mount.read_only { "ro" } else { "rw" };
        let kind = if mount.kind == "none" { "overlay" } else { mount.kind };
        if detailed {
            let (major, minor) = (fs::types::major(mount.dev), fs::types::minor(mount.dev));
            out.extend_from_slice(format!("{} {} {major}:{minor} ", mount.id, mount.parent).as_bytes());
            escape(&mount.root, &mut out);
            out.push(b' ');
            escape(&mount.at, &mut out);
            out.extend_from_slice(format!(" {rights},relatime - {kind} ").as_bytes());
            escape(mount.source.as_bytes(), &mut out);
            out.extend_from_slice(format!(" {rights}\n").as_bytes());
        } else {
            escape(mount.source.as_bytes(), &mut out);
            out.push(b' ');
            escape(&mount.at, &mut out);
            out.extend_from_slice(format!(" {kind} {rights},relatime 0 0\n").as_bytes());
        }
    }
    Ok(out)
}
