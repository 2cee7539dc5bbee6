//! `execve`: reading the program, building its address space, and becoming it.
//!
//! Everything that can fail without harm comes first, in a new address space that nothing uses yet; then the
//! other threads end, and the rest either succeeds or kills the process.

mod load;
mod stack;
mod start;

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use base::{Errno, Result};
use elf_plan::script;
use fs::types::MAY_EXEC;
use fs::vfs::Resolve;
use fs::{File, FileType, OpenFlags, Path};

use super::limits::resource;
use super::process::{Program, flag};
use super::signal::SIGKILL;
use super::thread::AltStack;
use super::{ExitStatus, Process, exit, signal};
use crate::mm::AddressSpace;
use crate::sched::{self, Thread};
use crate::{files, mm};

pub use start::{Init, spawn_init};

/// Longest single argument or environment string, with its zero (`MAX_ARG_STRLEN`).
const MOST_STRING: usize = 32 * 4096;
/// Scripts that are each other's interpreters.
const MOST_SCRIPTS: usize = 5;

/// The strings of a new program.
#[derive(Clone, Default)]
pub struct Strings {
    /// Arguments, the first being the name.
    pub arguments: Vec<Vec<u8>>,
    /// Environment.
    pub environment: Vec<Vec<u8>>,
}

impl Strings {
    /// Bytes that they and their pointers take.
    fn size(&self) -> usize {
        self.arguments.iter().chain(&self.environment).map(|s| s.len() + 1 + 8).sum()
    }

    fn check(&self, stack_limit: u64) -> Result<()> {
        // As Linux: a quarter of the stack, at least 128 KiB, at most 6 MiB.
        let most = (stack_limit / 4).clamp(128 << 10, 6 << 20) as usize;
        let too_long = |s: &Vec<u8>| s.len() >= MOST_STRING;
        if self.size() > most || self.arguments.iter().chain(&self.environment).any(too_long) {
            return Err(Errno::E2BIG);
        }
        Ok(())
    }
}

/// Opens a file for execution: a regular file that the caller may execute.
fn open(path: &Path) -> Result<Arc<dyn File>> {
    let inode = path.inode()?;
    if inode.kind() != FileType::Regular {
        return Err(Errno::EACCES);
    }
    files::credentials().check(&inode.stat()?, MAY_EXEC)?;
    inode.open(inode, path, OpenFlags::empty())
}

/// Reads up to `len` bytes at `offset`; fewer only at the end of the file.
fn read(file: &dyn File, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
    bytes.resize(len, 0);
    let mut done = 0;
    while done < len {
        let mut out = base::io::Out::kernel(&mut bytes[done..]);
        match file.read_at(offset + done as u64, &mut out, fs::IoFlags::empty())? {
            0 => break,
            n => done += n,
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// What is about to run.
struct Image {
    file: Arc<dyn File>,
    /// For `AT_EXECFN`.
    name: Vec<u8>,
    strings: Strings,
}

/// Follows `#!` lines until an ELF file is found.
fn resolve_scripts(mut image: Image) -> Result<Image> {
    for _ in 0..MOST_SCRIPTS {
        let start = read(&*image.file, 0, script::LINE_SIZE)?;
        let Some(line) = script::parse(&start) else { return Ok(image) };
        let (interpreter, argument) = line.ok_or(Errno::ENOEXEC)?;
        let old = core::mem::take(&mut image.strings.arguments);
        let arguments = &mut image.strings.arguments;
        arguments.push(interpreter.to_vec());
        arguments.extend(argument.map(|argument| argument.to_vec()));
        arguments.push(image.name.clone());
        arguments.extend(old.into_iter().skip(1));
        image.file = open(&files::lookup(interpreter, Resolve::FOLLOW)?)?;
        image.name = interpreter.to_vec();
    }
    Err(Errno::ELOOP)
}

/// A program ready to run.
struct Prepared {
    space: Arc<AddressSpace>,
    loaded: load::Loaded,
    image: Image,
}

fn prepare(image: Image, process: &Process) -> Result<Prepared> {
    let stack_limit = process.limit(resource::STACK);
    image.strings.check(stack_limit)?;
    let image = resolve_scripts(image)?;
    image.strings.check(stack_limit)?;
    const NO_RANDOMIZE: u32 = 0x0004_0000;
    let randomize = process.personality.load(Ordering::Relaxed) & NO_RANDOMIZE == 0;
    let space = AddressSpace::new()?;
    space.set_limit(usize::try_from(process.limit(resource::AS)).unwrap_or(usize::MAX));
    space.set_stack_limit(usize::try_from(stack_limit).unwrap_or(usize::MAX));
    let loaded = load::load(&space, &image.file, stack_limit, randomize)?;
    Ok(Prepared { space, loaded, image })
}

/// `execve` of the file at `path`, which the caller knows as `name`. On success the caller's registers are the new
/// program's.
pub fn execve(path: &Path, name: Vec<u8>, strings: Strings) -> Result<()> {
    let thread = sched::current();
    let process = thread.process().ok_or(Errno::EINVAL)?;
    let mut strings = strings;
    if strings.arguments.is_empty() {
        // As Linux since 5.18: never an empty list.
        strings.arguments.push(Vec::new());
    }
    let file = open(path)?;
    let set_id = set_id_bits(process, &file)?;
    let prepared = prepare(Image { file, name, strings }, process)?;
    end_other_threads(thread, process)?;
    become_program(thread, process, prepared, set_id)
}

/// The user and group that a set-id file gives.
fn set_id_bits(process: &Process, file: &Arc<dyn File>) -> Result<(Option<u32>, Option<u32>)> {
    let stat = file.stat()?;
    if process.flags.load(Ordering::Relaxed) & flag::NO_NEW_PRIVS != 0 {
        return Ok((None, None));
    }
    let gid = stat.mode & 0o2010 == 0o2010;
    Ok(((stat.mode & 0o4000 != 0).then_some(stat.uid), gid.then_some(stat.gid)))
}

/// Ends all other threads of the process and waits until they are gone. `EAGAIN` if another one came first.
fn end_other_threads(thread: &Thread, process: &Process) -> Result<()> {
    if process.execer.compare_exchange(0, thread.tid, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return Err(Errno::ERESTARTNOINTR);
    }
    process.for_each_thread(|other| {
        if other.tid != thread.tid {
            other.ext.killed.store(true, Ordering::SeqCst);
            other.interrupt();
        }
    });
    loop {
        thread.waiter().reset();
        if process.thread_count() == 1 {
            break;
        }
        if process.is_dying() {
            process.execer.store(0, Ordering::SeqCst);
            return Err(Errno::EINTR);
        }
        thread.waiter().sleep(None);
    }
    process.execer.store(0, Ordering::SeqCst);
    Ok(())
}

/// The point of no return.
fn become_program(
    thread: &Thread,
    process: &Arc<Process>,
    prepared: Prepared,
    (uid, gid): (Option<u32>, Option<u32>),
) -> Result<()> {
    let Prepared { space, loaded, image } = prepared;
    // Futexes and the vfork parent are told while the old memory is still there.
    exit::release_user_memory(thread);
    let old = process.space.lock().replace(space.clone());
    thread.set_space(Some(space));
    drop(old);
    let secure = process.change_credentials(|cred| {
        let before = (cred.uid, cred.gid);
        cred.uid.effective = uid.unwrap_or(cred.uid.effective);
        cred.gid.effective = gid.unwrap_or(cred.gid.effective);
        cred.after_exec();
        Ok(before.0.effective != cred.uid.effective || before.1.effective != cred.gid.effective)
    })?;
    process.flags.fetch_and(!flag::KEEP_CAPS, Ordering::Relaxed);
    if secure {
        process.death_signal.store(0, Ordering::Relaxed);
    }
    let handlers = process.actions().without_handlers(false);
    process.set_actions(handlers);
    process.timers.delete_posix();
    thread.ext.update(|own| {
        own.alt_stack = AltStack::NONE;
        own.restart = super::thread::Restart::None;
    });
    thread.ext.rseq.forget();
    process.exit_signal.store(signal::SIGCHLD, Ordering::SeqCst);
    process.relations.lock().execed = true;
    // The table must be this process's alone before descriptors are closed in it.
    let table = thread.ext.files.with(|table| table.clone());
    if let Some(table) = table {
        let own = if Arc::strong_count(&table) > 2 { table.duplicate() } else { table };
        files::close_on_exec(&own);
        drop(thread.ext.files.replace(Some(own)));
    }
    thread.set_name(name_of(&image.name));
    finish(thread, process, &loaded, &image, secure).inspect_err(|error| {
        log::warn!("exec of {}: {error} after the old program was gone", process.pid);
        // Whatever is left cannot run.
        process.begin_end(ExitStatus::killed(SIGKILL));
        thread.interrupt();
    })
}

/// What `comm` shows of a path.
fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

/// With the new space loaded: zeroes the rest of pages from files, fills the stack, sets the registers.
fn finish(thread: &Thread, process: &Process, loaded: &load::Loaded, image: &Image, secure: bool) -> Result<()> {
    for (address, len) in &loaded.to_zero {
        mm::user::zero(*address, *len)?;
    }
    let credentials = process.credentials();
    let made = stack::fill(loaded, &image.strings, &image.name, &credentials, secure)?;
    process.set_program(Program {
        path: image.file.path().cloned(),
        arguments: made.arguments,
        environment: made.environment,
        stack: made.pointer,
        auxv: made.auxv,
    });
    let context = thread.context();
    *context = hal_core::UserContext {
        rip: loaded.entry,
        rsp: made.pointer as u64,
        rflags: 0x202,
        full: 1,
        ..hal_core::UserContext::default()
    };
    thread.reset_fpu();
    hal_core::cpu::set_fs_base(0);
    Ok(())
}
