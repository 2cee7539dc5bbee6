//! Finding the program: on the search path, behind links, and through `#!` lines.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::Result;

use crate::elf_info::{What, look};
use crate::{EXIT_NOT_FOUND, EXIT_NOT_RUNNABLE, failure};

/// The search path that programs get in the guest.
pub const GUEST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As many `#!` steps as Linux follows.
const MAX_STEPS: usize = 5;

/// `path` without `.` and without double slashes. `..` stays: what it means depends on links.
pub fn clean(path: &Path) -> PathBuf {
    path.components().filter(|c| !matches!(c, Component::CurDir)).collect()
}

/// The absolute path of the program that the user means: a path when there is a slash in it, else the first file of
/// that name on `$PATH` and then on the guest's path (so that programs in sbin are found by every user).
pub fn find_program(name: &OsStr, cwd: &Path) -> Result<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        let path = clean(&cwd.join(name));
        if path.is_file() {
            return Ok(path);
        }
        let what = if path.is_dir() { "is a directory" } else { "does not exist" };
        return Err(failure(EXIT_NOT_FOUND, format!("no such program: {} {what}; check the path", path.display())));
    }
    let host_path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&host_path).chain(std::env::split_paths(GUEST_PATH));
    let mut found = None;
    for dir in all.filter(|d| d.is_absolute()) {
        let path = dir.join(name);
        if path.is_file() {
            if rustix::fs::access(&path, rustix::fs::Access::EXEC_OK).is_ok() {
                return Ok(path);
            }
            found.get_or_insert(path);
        }
    }
    let shown = name.to_string_lossy();
    match found {
        Some(path) => Err(failure(
            EXIT_NOT_RUNNABLE,
            format!("{} may not be executed; run: chmod +x {}", path.display(), path.display()),
        )),
        None => Err(failure(
            EXIT_NOT_FOUND,
            format!(
                "no such program: {shown} is not on the search path; install it, or give its path (as in ./{shown})"
            ),
        )),
    }
}

/// The program and the interpreters that its `#!` lines lead to; the last is an ELF file. `/usr/bin/env NAME` leads on
/// to NAME.
pub fn chain(start: &Path) -> Result<Vec<PathBuf>> {
    let mut all = vec![start.to_owned()];
    let mut at = start.to_owned();
    for _ in 0..=MAX_STEPS {
        match look(&at)? {
            What::Elf(elf) if elf.executable => return Ok(all),
            What::Elf(_) => {
                return Err(failure(
                    EXIT_NOT_RUNNABLE,
                    format!("{} is a library, not a program; name a program to run", at.display()),
                ));
            }
            What::Other(what) => {
                let cure = "Coracle runs ELF programs for x86-64 Linux, and scripts that name one in a #! line";
                return Err(failure(
                    EXIT_NOT_RUNNABLE,
                    format!("{} is not an x86-64 ELF program: it is {what}; {cure}", at.display()),
                ));
            }
            What::Script(interpreter, argument) => {
                let by = at;
                at = existing(&interpreter, &by)?;
                all.push(at.clone());
                if interpreter.file_name() == Some(OsStr::new("env"))
                    && let Some(name) = env_program(argument.as_deref())
                {
                    at = find_program(&OsString::from(name), Path::new("/"))?;
                    all.push(at.clone());
                }
            }
        }
    }
    Err(failure(EXIT_NOT_RUNNABLE, format!("{}: its #! lines lead in a circle", start.display())))
}

fn existing(interpreter: &Path, by: &Path) -> Result<PathBuf> {
    if interpreter.is_file() {
        return Ok(clean(interpreter));
    }
    let message =
        format!("{} names the interpreter {}, which does not exist; install it", by.display(), interpreter.display());
    Err(failure(EXIT_NOT_RUNNABLE, message))
}

/// The program in the argument of an `env` line: `NAME`, `-S NAME ARGS`, with assignments before it.
fn env_program(argument: Option<&str>) -> Option<String> {
    argument?.split_whitespace().find(|w| !w.starts_with('-') && !w.contains('=')).map(str::to_owned)
}

/// `path` and every path that its links lead to, in order.
pub fn links_of(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    let mut at = path.to_owned();
    while let Ok(target) = std::fs::read_link(&at) {
        at = clean(&at.parent().unwrap_or(Path::new("/")).join(target));
        if all.len() > 40 {
            break;
        }
        all.push(at.clone());
    }
    if let Ok(real) = std::fs::canonicalize(path)
        && !all.contains(&real)
    {
        all.push(real);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn scripts_lead_to_their_interpreters() {
        let dir = tempfile::tempdir().unwrap();
        let path = script(dir.path(), "a", "#!/bin/sh -e\n");
        assert_eq!(chain(&path).unwrap(), [path.clone(), "/bin/sh".into()]);
        let env = script(dir.path(), "b", "#!/usr/bin/env -S A=1 sh -e\n");
        let all = chain(&env).unwrap();
        assert_eq!(all[1], Path::new("/usr/bin/env"));
        assert_eq!(all[2].file_name().unwrap(), "sh");
        let circle = script(dir.path(), "c", &format!("#!{}\n", dir.path().join("c").display()));
        assert!(chain(&circle).unwrap_err().to_string().contains("circle"));
        let gone = script(dir.path(), "d", "#!/no/such/thing\n");
        assert!(chain(&gone).unwrap_err().to_string().contains("/no/such/thing"));
    }

    #[test]
    fn names_that_are_nothing() {
        let e = find_program(OsStr::new("no-such-program-here"), Path::new("/")).unwrap_err();
        assert!(e.to_string().starts_with("no such program"), "{e}");
        let e = find_program(OsStr::new("./usr"), Path::new("/")).unwrap_err();
        assert!(e.to_string().contains("is a directory"), "{e}");
    }

    #[test]
    fn a_library_is_not_a_program() {
        let mut libs = super::super::libs::Libraries::of_host();
        let libc = libs.find("libm.so.6", Path::new("/"), &Default::default(), &[], false).unwrap();
        let e = chain(&libc).unwrap_err().to_string();
        assert!(e.contains("library") || e.contains("not an x86-64"), "{e}");
    }
}
