//! From what the user named (a program, an image, a folder, a `Coracle.toml`) to a root and a program to start in it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::args::{BuildArgs, Net, Pair, RunArgs, With};
use crate::cmdline::{self, Program};
use crate::config::{self, Config};
use crate::container::{self, Format};
use crate::disk::Inside;
use crate::elf_info::{What, look};
use crate::erofs;
use crate::pack::{self, GUEST_PATH, Request};
use crate::tree::{Kind, Node, Source, Tree};
use crate::{EXIT_NOT_FOUND, EXIT_NOT_RUNNABLE, failure};

/// QEMU's name server for user networking.
pub const USER_NET_DNS: &str = "10.0.2.3";

/// Where the root file system comes from.
pub enum Root {
    /// It is to be written as an image.
    Tree(Tree),
    /// An image file that is there: a root file system alone.
    Image(PathBuf),
    /// An image file that is there: a disk.
    Disk(PathBuf, Format, Inside),
}

/// What to boot.
pub struct Plan {
    /// The root file system.
    pub root: Root,
    /// The program in it.
    pub program: Program,
    /// Remarks for the user, a line each.
    pub notes: Vec<String>,
    /// Settings of a `Coracle.toml`; empty without one.
    pub config: Config,
}

/// What the first word after the options names.
#[derive(Debug, PartialEq, Eq)]
enum Subject {
    Program,
    Image(PathBuf),
    Folder(PathBuf),
    Config(PathBuf),
}

fn classify(name: &OsStr, cwd: &Path) -> Subject {
    let path = cwd.join(name);
    let extension = path.extension().and_then(OsStr::to_str);
    if extension == Some("toml") && path.is_file() {
        return Subject::Config(path);
    }
    let is_name = !name.as_bytes().contains(&b'/');
    if is_name && pack::find_program(name, cwd).is_ok() {
        return Subject::Program;
    }
    if path.is_dir() {
        let config = path.join(config::NAME);
        return if config.is_file() { Subject::Config(config) } else { Subject::Folder(path) };
    }
    if path.is_file() && (Format::of_name(&path).is_some() || erofs::Image::is_one(&path)) {
        return Subject::Image(path);
    }
    Subject::Program
}

/// What `run` and `build` have in common.
struct Wish<'a> {
    words: &'a [OsString],
    with: &'a [With],
    volumes: &'a [Pair],
    env: &'a [OsString],
    workdir: Option<&'a Path>,
    name_servers: Vec<String>,
}

/// Plans a run.
pub fn plan_run(args: &RunArgs) -> Result<Plan> {
    let name_servers = match &args.net {
        Some(Net::Tap(_)) => pack::host_name_servers(),
        _ => vec![USER_NET_DNS.to_owned()],
    };
    plan(&Wish {
        words: &args.program,
        with: &args.with,
        volumes: &args.volume,
        env: &args.env,
        workdir: args.workdir.as_deref(),
        name_servers,
    })
}

/// Plans an image file; its own command line is in the tree.
pub fn plan_build(args: &BuildArgs) -> Result<(Tree, Plan)> {
    let mut plan = plan(&Wish {
        words: &args.program,
        with: &args.with,
        volumes: &args.volume,
        env: &args.env,
        workdir: args.workdir.as_deref(),
        name_servers: vec![USER_NET_DNS.to_owned()],
    })?;
    let Root::Tree(mut tree) = std::mem::replace(&mut plan.root, Root::Tree(Tree::default())) else {
        bail!(
            "{} is an image already; name a program, a folder or a {} to build from",
            args.program[0].display(),
            config::NAME
        );
    };
    let mut lines = plan.program.tokens();
    lines.extend(plan.config.hostname.iter().map(|h| format!("hostname={}", cmdline::encode(h.as_bytes()))));
    let text = lines.join("\n") + "\n";
    if text.len() > cmdline::MAX_IMAGE_FILE {
        bail!("arguments and environment need {} bytes, an image can keep {}", text.len(), cmdline::MAX_IMAGE_FILE);
    }
    tree.put(Path::new(cmdline::IMAGE_FILE), Node::file(0o644, text))?;
    Ok((tree, plan))
}

fn plan(wish: &Wish<'_>) -> Result<Plan> {
    let cwd = std::env::current_dir().context("cannot tell the working folder; change to one that exists")?;
    let (name, rest) = wish.words.split_first().context("name a program to run")?;
    match classify(name, &cwd) {
        Subject::Program => plan_program(wish, name, rest, &cwd, Config::default()),
        Subject::Image(path) => plan_image(wish, path, rest),
        Subject::Folder(path) => match rest.split_first() {
            Some((program, args)) => plan_folder(wish, &path, program, args, Config::default()),
            None => bail!(
                "{} is a folder without a {}; name the program in it too: coracle run {} /PROGRAM",
                path.display(),
                config::NAME,
                name.display()
            ),
        },
        Subject::Config(path) => {
            let config = Config::read(&path)?;
            let args: Vec<OsString> =
                if rest.is_empty() { config.args.iter().map(OsString::from).collect() } else { rest.to_vec() };
            let program = OsString::from(&config.program);
            match config.root.clone() {
                Some(root) => plan_folder(wish, &root, &program, &args, config),
                None => plan_program(wish, &program, &args, &cwd, config),
            }
        }
    }
}

fn plan_program(wish: &Wish<'_>, name: &OsStr, args: &[OsString], cwd: &Path, config: Config) -> Result<Plan> {
    let (with, mut notes) = additions(wish, &config, cwd);
    let packed = pack::pack(&Request {
        program: name.to_owned(),
        args: args.to_vec(),
        cwd: cwd.to_owned(),
        with,
        name_servers: wish.name_servers.clone(),
    })?;
    notes.extend(packed.notes);
    let program = program(wish, &config, name, packed.init, args, cwd);
    Ok(Plan { root: Root::Tree(packed.tree), program, notes, config })
}

fn plan_folder(wish: &Wish<'_>, folder: &Path, name: &OsStr, args: &[OsString], config: Config) -> Result<Plan> {
    if !folder.is_dir() {
        bail!("the root folder {} does not exist; check root = in {}", folder.display(), config::NAME);
    }
    let mut tree = pack::pack_folder(folder)?;
    let (with, notes) = additions(wish, &config, &std::env::current_dir()?);
    for (from, to) in with {
        tree.add_tree(
            &std::fs::canonicalize(&from).with_context(|| format!("there is no {} to add", from.display()))?,
            &to,
        )?;
    }
    let init = find_in_tree(&tree, name)?;
    let program = program(wish, &config, name, init, args, Path::new("/"));
    Ok(Plan { root: Root::Tree(tree), program, notes, config })
}

fn plan_image(wish: &Wish<'_>, path: PathBuf, args: &[OsString]) -> Result<Plan> {
    if !wish.with.is_empty() || !wish.volumes.is_empty() {
        bail!("an image is complete: --with and -v work when it is built (coracle build)");
    }
    let (format, disk) = container::open(&path)?;
    let inside = Inside::of(disk.clone()).with_context(|| format!("the image {} cannot be used", path.display()))?;
    let is_disk = inside.has_table() || !matches!(format, Format::Raw | Format::Erofs);
    let image = if is_disk {
        inside.image(&path).with_context(|| format!("the image {} cannot be used", path.display()))?
    } else {
        erofs::Image::new(disk, &path)?
    };
    let text = image.read(cmdline::IMAGE_FILE)?.with_context(|| {
        format!(
            "the image {} does not say what to run (no {}); make one with: coracle build",
            path.display(),
            cmdline::IMAGE_FILE
        )
    })?;
    let mut program = Program::parse(&String::from_utf8_lossy(&text)).with_context(|| {
        format!("the image {} is corrupt: its {} is not right", path.display(), cmdline::IMAGE_FILE)
    })?;
    if !args.is_empty() {
        program.args.truncate(1);
        program.args.extend(args.iter().cloned());
    }
    add_env(&mut program, wish.env);
    if let Some(dir) = wish.workdir {
        program.cwd = dir.into();
    }
    let root = if is_disk { Root::Disk(path, format, inside) } else { Root::Image(path) };
    Ok(Plan { root, program, notes: Vec::new(), config: Config::default() })
}

/// What `--with`, `-v` and their like in the file add; and a remark for volumes.
fn additions(wish: &Wish<'_>, config: &Config, cwd: &Path) -> (Vec<(PathBuf, PathBuf)>, Vec<String>) {
    let mut all = Vec::new();
    let mut notes = Vec::new();
    for with in config.with.iter().chain(wish.with) {
        let host = cwd.join(&with.host);
        let guest = with.guest.clone().unwrap_or_else(|| host.clone());
        all.push((host, guest));
    }
    for pair in config.volumes.iter().chain(wish.volumes) {
        all.push((cwd.join(&pair.host), pair.guest.clone()));
        notes.push(format!(
            "{} is copied to {}: what the guest writes there does not come back",
            pair.host.display(),
            pair.guest.display()
        ));
    }
    (all, notes)
}

fn program(wish: &Wish<'_>, config: &Config, name: &OsStr, init: PathBuf, args: &[OsString], cwd: &Path) -> Program {
    let mut program = Program {
        init: init.into_os_string(),
        args: std::iter::once(name.to_owned()).chain(args.iter().cloned()).collect(),
        env: vec![format!("PATH={GUEST_PATH}").into(), "HOME=/root".into()],
        cwd: wish.workdir.or(config.workdir.as_deref()).unwrap_or(cwd).into(),
    };
    for (key, value) in &config.env {
        program.set_env(OsStr::new(&format!("{key}={value}")));
    }
    add_env(&mut program, wish.env);
    program
}

/// `-e K=V` sets, `-e K` passes on what is set here.
fn add_env(program: &mut Program, env: &[OsString]) {
    for pair in env {
        if pair.as_bytes().contains(&b'=') {
            program.set_env(pair);
        } else if let Some(value) = std::env::var_os(pair) {
            let mut both = pair.clone();
            both.push("=");
            both.push(value);
            program.set_env(&both);
        }
    }
}

/// The program's path in a tree that is a whole root: as given, or on the guest's search path.
fn find_in_tree(tree: &Tree, name: &OsStr) -> Result<PathBuf> {
    let candidates: Vec<PathBuf> = if name.as_bytes().contains(&b'/') {
        vec![Path::new("/").join(name)]
    } else {
        std::env::split_paths(GUEST_PATH).map(|d| d.join(name)).collect()
    };
    for path in &candidates {
        let Some(real) = tree.resolve(path) else { continue };
        if let Some(Node { kind: Kind::File(Source::Host { path: host, .. }), .. }) = tree.get(&real) {
            return match look(host)? {
                What::Elf(_) | What::Script(..) => Ok(path.clone()),
                What::Other(what) => Err(failure(
                    EXIT_NOT_RUNNABLE,
                    format!("{} is not an x86-64 ELF program: it is {what}", host.display()),
                )),
            };
        }
    }
    Err(failure(
        EXIT_NOT_FOUND,
        format!("no such program: {} is not in the root folder; check its path there", name.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path();
        let is = |name: &str| classify(OsStr::new(name), d);
        std::fs::create_dir(d.join("root")).unwrap();
        std::fs::create_dir(d.join("app")).unwrap();
        std::fs::write(d.join("app").join(config::NAME), "").unwrap();
        std::fs::write(d.join("x.img"), "nothing").unwrap();
        std::fs::write(d.join("y.toml"), "").unwrap();
        assert_eq!(is("sh"), Subject::Program);
        assert_eq!(is("./sh"), Subject::Program);
        assert_eq!(is("root"), Subject::Folder(d.join("root")));
        assert_eq!(is("./app"), Subject::Config(d.join("./app/Coracle.toml")));
        assert_eq!(is("x.img"), Subject::Image(d.join("x.img")));
        assert_eq!(is("y.toml"), Subject::Config(d.join("y.toml")));
    }
}
