//! Packing: from a program of the host to the tree of files that it needs in a VM of its own.
//!
//! What is taken, in this order: the layout of the root and the files of /etc that everything reads; the program, the
//! interpreters of its `#!` line, their packages' files; files and folders that the arguments name; what the user adds;
//! /bin/sh; then the libraries of every ELF file that is in the tree by then. Nothing here knows a particular program,
//! with one exception that is a kind of program: a busybox brings the names of its applets.

mod dpkg;
mod ldcache;
mod libs;
mod program;
mod system;

use std::collections::{BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

pub use program::{GUEST_PATH, find_program};
pub use system::host_name_servers;

use crate::elf_info::{Elf, What, look};
use crate::tree::{Kind, Node, Source, Tree};
use dpkg::Dpkg;
use libs::Libraries;

/// What to pack.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The program as the user wrote it: a name to be searched, or a path.
    pub program: OsString,
    /// Its arguments; paths among them are packed.
    pub args: Vec<OsString>,
    /// Where the user stands: relative paths start here, and so does the program in the guest.
    pub cwd: PathBuf,
    /// Files or folders of the host to add, and where.
    pub with: Vec<(PathBuf, PathBuf)>,
    /// For /etc/resolv.conf.
    pub name_servers: Vec<String>,
}

/// The outcome.
pub struct Packed {
    /// The root file system.
    pub tree: Tree,
    /// Path of the program in it.
    pub init: PathBuf,
    /// Remarks for the user, one line each.
    pub notes: Vec<String>,
}

/// A folder named among the arguments may not bring more than this many bytes.
const MAX_NAMED_FOLDER: u64 = 2 << 30;
/// Folders that an argument may name without bringing all that is in them.
const NEVER_WHOLE: [&str; 17] = [
    "/", "/bin", "/boot", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/root", "/sbin", "/srv",
    "/tmp", "/usr", "/var", "/var/tmp",
];
/// File systems of the kernel: a path below them means the guest's own.
const GUESTS_OWN: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];

struct Packer {
    tree: Tree,
    libs: Libraries,
    dpkg: Dpkg,
    notes: Vec<String>,
    /// ELF files whose libraries are in the tree.
    done: HashSet<PathBuf>,
    /// Folders of the libraries that were taken.
    lib_files: BTreeSet<PathBuf>,
    glibc: bool,
}

/// Packs a program.
pub fn pack(request: &Request) -> Result<Packed> {
    let start = find_program(&request.program, &request.cwd)?;
    let chain = program::chain(&start)?;
    let mut p = Packer {
        tree: Tree::default(),
        libs: Libraries::of_host(),
        dpkg: Dpkg::read(Path::new("/var/lib/dpkg")),
        notes: Vec::new(),
        done: HashSet::new(),
        lib_files: BTreeSet::new(),
        glibc: false,
    };
    system::add_layout(&mut p.tree)?;
    system::add_files(&mut p.tree, &request.name_servers)?;
    p.tree.add_host(&request.cwd)?;
    for path in &chain {
        let real = p.tree.add_host(path)?;
        p.add_libraries(&real, true)?;
    }
    p.add_packages(&chain)?;
    for arg in &request.args {
        p.add_named(arg, &request.cwd)?;
    }
    for (from, to) in &request.with {
        p.add_with(from, to)?;
    }
    for path in &chain {
        p.add_applets(path)?;
    }
    if Path::new("/bin/sh").exists() {
        p.tree.add_host(Path::new("/bin/sh"))?;
    }
    p.finish()?;
    Ok(Packed { tree: p.tree, init: start, notes: p.notes })
}

/// Packs no program: the given folder is the root, whole.
pub fn pack_folder(folder: &Path) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.add_tree(folder, Path::new("/"))?;
    for (path, mode) in [("/dev", 0o755), ("/proc", 0o555), ("/sys", 0o555), ("/tmp", 0o1777), ("/run", 0o755)] {
        if tree.resolve(Path::new(path)).is_none() {
            tree.put(Path::new(path), Node::dir(mode))?;
        }
    }
    Ok(tree)
}

impl Packer {
    /// Adds the loader and the libraries of the ELF file `path` (links resolved) and of those libraries in turn.
    /// `must`: a library that is not there is an error, not a remark.
    fn add_libraries(&mut self, path: &Path, must: bool) -> Result<()> {
        if self.done.contains(path) {
            return Ok(());
        }
        let What::Elf(elf) = look(path)? else { return Ok(()) };
        let musl = elf.interp.as_deref().is_some_and(libs::is_musl);
        if let Some(loader) = &elf.interp {
            if loader.exists() {
                self.tree.add_host(loader)?;
            } else if must {
                libs::missing(&loader.to_string_lossy(), path)?;
            }
        }
        let inherited = libs::inherited_dirs(path, &elf);
        let mut todo: Vec<(PathBuf, Elf)> = vec![(path.to_owned(), elf)];
        self.done.insert(path.to_owned());
        while let Some((by, elf)) = todo.pop() {
            for name in &elf.needed {
                let Some(found) = self.libs.find(name, &by, &elf, &inherited, musl) else {
                    if must {
                        libs::missing(name, &by)?;
                    }
                    continue;
                };
                self.glibc |= name.starts_with("libc.so.6");
                let real = self.tree.add_host(&found)?;
                self.lib_files.insert(found);
                if self.done.insert(real.clone())
                    && let What::Elf(its) = look(&real)?
                {
                    todo.push((real, its));
                }
            }
        }
        Ok(())
    }

    /// Adds the files of the packages that the program and its interpreters belong to or are named like, and of what
    /// these packages need.
    fn add_packages(&mut self, chain: &[PathBuf]) -> Result<()> {
        let mut roots = BTreeSet::new();
        let mut loaders = BTreeSet::new();
        for path in chain {
            for step in program::links_of(path) {
                if let Some(name) = self.dpkg.owner(&step) {
                    roots.insert(name.to_owned());
                }
                if let Some(name) = step.file_name().and_then(OsStr::to_str)
                    && self.dpkg.has(name)
                {
                    roots.insert(name.to_owned());
                }
            }
            // The loader's package is the C library itself: what a program needs of it was found by name.
            if let Ok(What::Elf(Elf { interp: Some(loader), .. })) = look(path) {
                let real = std::fs::canonicalize(&loader).unwrap_or(loader);
                loaders.extend(self.dpkg.owner(&real).map(str::to_owned));
            }
        }
        let mut packages = self.dpkg.closure(&roots, &loaders);
        let (mut files, mut own) = self.dpkg.files(&packages);
        // Configuration may name parts of packages that nothing depends on (modules that were switched on): links there
        // lead to them.
        loop {
            let linked = own.iter().flat_map(|d| linked_from(d)).filter_map(|p| self.dpkg.owner(&p).map(str::to_owned));
            let before = roots.len();
            roots.extend(linked.filter(|n| !packages.contains(n) && !loaders.contains(n)).collect::<Vec<_>>());
            if roots.len() == before {
                break;
            }
            packages = self.dpkg.closure(&roots, &loaders);
            (files, own) = self.dpkg.files(&packages);
        }
        let mut caches = BTreeSet::new();
        for path in &files {
            if path.extension().is_some_and(|e| e == "py")
                && let Some(parent) = path.parent()
            {
                caches.insert(parent.join("__pycache__"));
            }
            self.add_lenient(path)?;
        }
        // Compiled modules are made when the package is installed, so that no list has them.
        for cache in caches.iter().filter(|c| c.is_dir()) {
            self.tree.add_tree(cache, cache)?;
        }
        for folder in &own {
            self.tree.add_tree(folder, folder)?;
        }
        Ok(())
    }

    /// Adds a path that may be gone, or be a link to nowhere.
    fn add_lenient(&mut self, path: &Path) -> Result<()> {
        if path.exists() {
            self.tree.add_host(path)?;
        } else if path.is_symlink()
            && let Some(parent) = path.parent()
        {
            self.tree.add_host(parent)?;
            self.tree.add_tree(path, path)?;
        }
        Ok(())
    }

    /// Adds what an argument names, if it names something: `PATH`, `--option=PATH` or `-oPATH`.
    fn add_named(&mut self, arg: &OsStr, cwd: &Path) -> Result<()> {
        let Some(path) = named_path(arg, cwd) else { return Ok(()) };
        if GUESTS_OWN.iter().any(|own| path.starts_with(own)) {
            return Ok(());
        }
        let real = self.tree.add_host(&path)?;
        if !path.is_dir() || NEVER_WHOLE.iter().any(|n| Path::new(n) == real) {
            if let Ok(What::Script(..)) = look(&path) {
                for step in program::chain(&path).unwrap_or_default() {
                    self.tree.add_host(&step)?;
                }
            }
            return Ok(());
        }
        if folder_size(&real, MAX_NAMED_FOLDER) > MAX_NAMED_FOLDER {
            bail!(
                "the argument {} names a folder of more than 2 GiB; give only what is needed with --with",
                path.display()
            );
        }
        self.tree.add_tree(&real, &real)
    }

    fn add_with(&mut self, from: &Path, to: &Path) -> Result<()> {
        if !from.exists() {
            bail!("there is no {} to add; check --with and -v", from.display());
        }
        if from == to {
            let real = self.tree.add_host(from)?;
            return if from.is_dir() { self.tree.add_tree(&real, &real) } else { Ok(()) };
        }
        let real = std::fs::canonicalize(from)?;
        self.tree.add_tree(&real, to)
    }

    /// A busybox is many programs under one name: adds the links that a Debian or Alpine system has for its applets,
    /// where the tree has no file of that name.
    fn add_applets(&mut self, path: &Path) -> Result<()> {
        if path.file_name() != Some(OsStr::new("busybox")) {
            return Ok(());
        }
        let out = std::process::Command::new(path).arg("--list-full").output()?;
        for line in String::from_utf8_lossy(&out.stdout).lines() {
            let link = Path::new("/").join(line.trim());
            if self.tree.resolve(&link).is_none() {
                self.tree.put_resolved(&link, Node::link(path))?;
            }
        }
        Ok(())
    }

    /// Adds the libraries of every ELF file that came by other ways, and the loader's cache.
    fn finish(&mut self) -> Result<()> {
        // Links that came with folders: where they lead on the host belongs to them, when the tree has nothing there.
        let mut links = Vec::new();
        self.tree.walk(&mut |path, node| {
            if matches!(node.kind, Kind::Link(_)) {
                links.push(path.to_owned());
            }
        });
        for link in links {
            if self.tree.resolve(&link).is_none() && link.is_symlink() && link.is_file() {
                self.tree.add_host(&link)?;
            }
        }
        if self.glibc {
            for name in libs::OPENED_BY_GLIBC {
                if let Some(path) = self.libs.find(name, Path::new("/"), &Elf::default(), &[], false) {
                    let real = self.tree.add_host(&path)?;
                    self.lib_files.insert(path);
                    self.add_libraries(&real, false)?;
                }
            }
        }
        let mut files = Vec::new();
        self.tree.walk(&mut |_, node| {
            if let Kind::File(Source::Host { path, size, .. }) = &node.kind
                && *size > 64
            {
                files.push(path.clone());
            }
        });
        for path in files.iter().filter(|p| may_be_elf(p)) {
            self.add_libraries(path, false)?;
        }
        if self.glibc {
            ldcache::add(&mut self.tree, &self.lib_files)?;
        }
        for path in self.tree.unreadable() {
            self.notes.push(format!("left out {}, which this user may not read", path.display()));
        }
        Ok(())
    }
}

/// Reads the first four bytes, unless the name already says that it is something else.
fn may_be_elf(path: &Path) -> bool {
    const NOT: [&str; 12] = ["py", "pyc", "pem", "crt", "conf", "html", "txt", "lua", "pm", "pl", "js", "h"];
    if path.extension().and_then(OsStr::to_str).is_some_and(|e| NOT.contains(&e)) {
        return false;
    }
    let mut magic = [0; 4];
    std::fs::File::open(path).and_then(|mut f| std::io::Read::read_exact(&mut f, &mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

/// Where the links directly in `folder` and in its folders lead to, as far as there is something.
fn linked_from(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().filter_map(|e| e.ok()).map(|e| e.path()) {
        if path.is_symlink() {
            found.extend(std::fs::canonicalize(&path));
        } else if path.is_dir() {
            found.extend(linked_from(&path));
        }
    }
    found
}

/// The existing path that an argument names.
fn named_path(arg: &OsStr, cwd: &Path) -> Option<PathBuf> {
    let bytes = arg.as_bytes();
    let after_equals = bytes.iter().position(|b| *b == b'=').map(|at| &bytes[at + 1..]);
    let after_letter =
        (bytes.len() > 2 && bytes[0] == b'-' && bytes[1] != b'-' && bytes[2] == b'/').then(|| &bytes[2..]);
    let whole = (!bytes.starts_with(b"-")).then_some(bytes);
    [whole, after_letter, after_equals]
        .into_iter()
        .flatten()
        .filter(|b| !b.is_empty() && b.len() < 4096)
        .map(|b| program::clean(&cwd.join(OsStr::from_bytes(b))))
        .find(|p| p.exists())
}

/// Bytes of the files below `folder`; stops counting above `limit`.
fn folder_size(folder: &Path, limit: u64) -> u64 {
    let mut sum = 0;
    let mut todo = vec![folder.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()) {
            match entry.metadata() {
                Ok(m) if m.is_dir() => todo.push(entry.path()),
                Ok(m) => sum += m.len(),
                Err(_) => {}
            }
            if sum > limit {
                return sum;
            }
        }
    }
    sum
}
