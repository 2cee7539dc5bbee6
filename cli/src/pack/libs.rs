//! Finds the libraries that ELF files name, as the loader of glibc or musl would, without running anything.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::elf_info::{Elf, What, look};

/// Folders that glibc's loader knows by itself (with Debian's multiarch ones first).
const DEFAULT_DIRS: [&str; 6] =
    ["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// Those of musl's, where its path file does not say otherwise.
const MUSL_DIRS: [&str; 5] =
    ["/usr/lib/x86_64-linux-musl", "/lib/x86_64-linux-musl", "/lib", "/usr/local/lib", "/usr/lib"];

/// Searches libraries and remembers what it found.
pub struct Libraries {
    configured: Vec<PathBuf>,
    found: HashMap<(String, bool), Option<PathBuf>>,
}

impl Libraries {
    /// Reads the host's list of library folders.
    pub fn of_host() -> Self {
        let mut configured = Vec::new();
        read_conf(Path::new("/etc/ld.so.conf"), &mut configured, 0);
        configured.extend(DEFAULT_DIRS.iter().map(PathBuf::from));
        Libraries { configured, found: HashMap::new() }
    }

    /// Where the loader would find `name` for the file `by` (its own path, links resolved) with the names `elf`;
    /// `program` is the folder list that the program hands down (its DT_RPATH).
    pub fn find(&mut self, name: &str, by: &Path, elf: &Elf, program: &[PathBuf], musl: bool) -> Option<PathBuf> {
        if name.contains('/') {
            let path = expand(name, by);
            return is_library(&path).then_some(path);
        }
        let own = if elf.runpath.is_empty() { &elf.rpath } else { &elf.runpath };
        let own = own.iter().filter(|d| !d.is_empty()).map(|d| expand(d, by));
        let inherited = if elf.runpath.is_empty() { program } else { &[] };
        for dir in own.chain(inherited.iter().cloned()) {
            let path = dir.join(name);
            if is_library(&path) {
                return Some(path);
            }
        }
        if let Some(known) = self.found.get(&(name.to_owned(), musl)) {
            return known.clone();
        }
        let musl_dirs: Vec<PathBuf> = MUSL_DIRS.iter().map(PathBuf::from).collect();
        let dirs = if musl { &musl_dirs } else { &self.configured };
        let path = dirs.iter().map(|d| d.join(name)).find(|p| is_library(p));
        self.found.insert((name.to_owned(), musl), path.clone());
        path
    }
}

/// DT_RPATH of a program as folders, which its libraries inherit.
pub fn inherited_dirs(path: &Path, elf: &Elf) -> Vec<PathBuf> {
    if !elf.runpath.is_empty() {
        return Vec::new();
    }
    elf.rpath.iter().filter(|d| !d.is_empty()).map(|d| expand(d, path)).collect()
}

/// Replaces what the loader replaces in a folder name.
fn expand(dir: &str, by: &Path) -> PathBuf {
    let origin = by.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
    let text = dir
        .replace("${ORIGIN}", &origin)
        .replace("$ORIGIN", &origin)
        .replace("${LIB}", "lib/x86_64-linux-gnu")
        .replace("$LIB", "lib/x86_64-linux-gnu")
        .replace("${PLATFORM}", "x86_64")
        .replace("$PLATFORM", "x86_64");
    PathBuf::from(text)
}

fn is_library(path: &Path) -> bool {
    path.is_file() && matches!(look(path), Ok(What::Elf(_)))
}

/// Reads `/etc/ld.so.conf` with its includes (`include` takes a pattern with `*` in the last part).
fn read_conf(path: &Path, dirs: &mut Vec<PathBuf>, depth: usize) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include ") {
            if depth < 8 {
                for file in expand_pattern(Path::new(pattern.trim())) {
                    read_conf(&file, dirs, depth + 1);
                }
            }
        } else if line.starts_with('/') {
            dirs.push(PathBuf::from(line));
        }
    }
}

fn expand_pattern(pattern: &Path) -> BTreeSet<PathBuf> {
    let (Some(dir), Some(last)) = (pattern.parent(), pattern.file_name().and_then(|n| n.to_str())) else {
        return BTreeSet::new();
    };
    let Some((before, after)) = last.split_once('*') else { return BTreeSet::from([pattern.to_owned()]) };
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    entries
        .filter_map(|e| e.ok())
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(before) && n.ends_with(after)))
        .map(|e| e.path())
        .collect()
}

/// Whether a loader is musl's.
pub fn is_musl(loader: &Path) -> bool {
    loader.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("ld-musl"))
}

/// Libraries that glibc opens by name while it runs: users and groups, thread cancellation, C++ exceptions.
pub const OPENED_BY_GLIBC: [&str; 4] = ["libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2", "libgcc_s.so.1"];

/// A result that says which library is missing.
pub fn missing(name: &str, by: &Path) -> Result<()> {
    Err(crate::failure(
        crate::EXIT_NOT_RUNNABLE,
        format!("{} needs the library {name}, which is not on this machine; install it, or give --with", by.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_replaced() {
        let by = Path::new("/opt/app/bin/prog");
        assert_eq!(expand("$ORIGIN/../lib", by), Path::new("/opt/app/bin/../lib"));
        assert_eq!(expand("${ORIGIN}/x", by), Path::new("/opt/app/bin/x"));
    }

    #[test]
    fn conf_follows_includes() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("d");
        fs::create_dir(&sub).unwrap();
        fs::write(sub.join("a.conf"), "/opt/a # comment\n").unwrap();
        fs::write(sub.join("b.txt"), "/opt/no\n").unwrap();
        let main = dir.path().join("ld.so.conf");
        fs::write(&main, format!("include {}/*.conf\n/opt/b\n", sub.display())).unwrap();
        let mut dirs = Vec::new();
        read_conf(&main, &mut dirs, 0);
        assert_eq!(dirs, [PathBuf::from("/opt/a"), PathBuf::from("/opt/b")]);
    }

    #[test]
    fn runpath_comes_before_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let exe = std::env::current_exe().unwrap();
        fs::copy(exe, dir.path().join("libc.so.6")).unwrap();
        let elf = Elf { runpath: vec!["$ORIGIN".into()], ..Elf::default() };
        let mut libs = Libraries::of_host();
        let by = dir.path().join("prog");
        assert_eq!(libs.find("libc.so.6", &by, &elf, &[], false), Some(dir.path().join("libc.so.6")));
        let plain = libs.find("libc.so.6", &by, &Elf::default(), &[], false).unwrap();
        assert!(!plain.starts_with(dir.path()));
        assert_eq!(libs.find("libnothing.so.9", &by, &elf, &[], false), None);
    }
}
