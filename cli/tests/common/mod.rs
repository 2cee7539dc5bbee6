//! What the integration tests share: the command under test in a folder of its own, and a stand-in for QEMU.

#![allow(dead_code, missing_docs)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub struct Sandbox {
    pub dir: tempfile::TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        Sandbox { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.write(name, text);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// The command, with a cache of its own, our test program as kernel, and no QEMU of the machine.
    pub fn coracle(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command
            .current_dir(self.dir.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("CORACLE_KERNEL", env!("CARGO_BIN_EXE_coracle"))
            .env("CORACLE_QEMU", "/no/qemu/here")
            .stdin(std::process::Stdio::null());
        command
    }

    /// The command with a shell script in QEMU's place. The script sees QEMU's arguments.
    pub fn with_qemu(&self, script: &str) -> Command {
        let qemu = self.script("qemu", &format!("#!/bin/sh\n{script}\n"));
        let mut command = self.coracle();
        command.env("CORACLE_QEMU", qemu);
        command
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command failed with `code` and said one line that has all of `words`.
pub fn assert_error(output: &Output, code: i32, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    let lines: Vec<&str> = said.lines().filter(|l| !l.contains("no hardware virtualization")).collect();
    assert_eq!(lines.len(), 1, "not one line: {said}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} is not in {:?}", lines[0]);
    }
}

/// What erofs-utils says about an image; they must be installed.
pub fn fsck(image: &Path, extract: Option<&Path>) {
    let mut command = Command::new("fsck.erofs");
    if let Some(to) = extract {
        command.arg(format!("--extract={}", to.display()));
    }
    let output = command.arg(image).output().expect("fsck.erofs is needed: apt-get install erofs-utils");
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}
