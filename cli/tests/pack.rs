//! Packing real programs of this machine, and reading the images back: by our reader and by erofs-utils.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Sandbox, fsck, text};
use coracle::erofs::Image;

fn build(s: &Sandbox, words: &[&str]) -> PathBuf {
    let out = s.coracle().args(["build", "-o", "out.erofs"]).args(words).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    s.path("out.erofs")
}

fn listing(image: &Path) -> BTreeMap<PathBuf, coracle::erofs::Entry> {
    Image::open(image).unwrap().list().unwrap().into_iter().map(|e| (e.path.clone(), e)).collect()
}

/// A tree with everything that an image can hold.
fn strange_tree(s: &Sandbox) -> PathBuf {
    let root = s.path("tree");
    s.write("tree/empty", "");
    s.write("tree/small", "hello");
    s.write("tree/block", vec![7; 4096]);
    s.write("tree/large", (0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    for i in 0..700 {
        s.write(&format!("tree/many/a-rather-long-name-number-{i:05}"), i.to_string());
    }
    s.write("tree/odd names/+plus", "+");
    s.write("tree/odd names/ spaces ", " ");
    s.write("tree/odd names/\u{fc}ber", "u");
    s.write(&format!("tree/{}", "x".repeat(255)), "longest");
    s.write("tree/deep/a/b/c/d/e/f", "deep");
    std::fs::hard_link(root.join("small"), root.join("small too")).unwrap();
    symlink("small", root.join("link")).unwrap();
    symlink("y".repeat(3000), root.join("long link")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    std::fs::set_permissions(root.join("small"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(root.join("many"), PermissionsExt::from_mode(0o1777)).unwrap();
    assert!(Command::new("mkfifo").arg(root.join("pipe")).status().unwrap().success());
    root
}

fn assert_same(a: &Path, b: &Path) {
    let (x, y) = (a.symlink_metadata().unwrap(), b.symlink_metadata().unwrap());
    let shown = a.display();
    // fsck.erofs loses the set-id bits when it extracts.
    assert_eq!(x.mode() & !0o6000, y.mode() & !0o6000, "{shown}");
    if x.is_symlink() {
        assert_eq!(std::fs::read_link(a).unwrap(), std::fs::read_link(b).unwrap(), "{shown}");
    } else if x.is_file() {
        assert!(std::fs::read(a).unwrap() == std::fs::read(b).unwrap(), "{shown}");
        assert_eq!(x.mtime(), y.mtime(), "{shown}");
    } else if x.is_dir() {
        let names = |d: &Path| {
            let mut all: Vec<_> = std::fs::read_dir(d).unwrap().map(|e| e.unwrap().file_name()).collect();
            all.sort();
            all
        };
        assert_eq!(names(a), names(b), "{shown}");
        for name in names(a) {
            assert_same(&a.join(&name), &b.join(&name));
        }
    }
}

#[test]
fn a_strange_tree_survives() {
    let s = Sandbox::new();
    let root = strange_tree(&s);
    let image = build(&s, &["--with", "tree:/tree", "sh"]);
    let list = listing(&image);
    assert_eq!(list[Path::new("/tree/many")].mode, 0o041777);
    assert_eq!(list[Path::new("/tree/small")].nid, list[Path::new("/tree/small too")].nid);
    assert_eq!(list[Path::new("/tree/small")].links, 2);
    assert_eq!(list[Path::new("/tree/small")].mode, 0o104751);
    assert_eq!(list.keys().filter(|p| p.starts_with("/tree/many/")).count(), 701);
    let reader = Image::open(&image).unwrap();
    assert_eq!(reader.read("/tree/large").unwrap().unwrap(), std::fs::read(root.join("large")).unwrap());
    assert_eq!(reader.read("/tree/many/a-rather-long-name-number-00699").unwrap().unwrap(), b"699");
    assert_eq!(reader.read("/tree/nothing").unwrap(), None);
    fsck(&image, Some(&s.path("extracted")));
    assert_same(&root, &s.path("extracted/tree"));
}

#[test]
fn a_folder_is_a_root() {
    let s = Sandbox::new();
    strange_tree(&s);
    std::fs::create_dir(s.path("tree/bin")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_coracle"), s.path("tree/bin/prog")).unwrap();
    let image = build(&s, &["./tree", "prog", "an argument"]);
    fsck(&image, None);
    let text = Image::open(&image).unwrap().read("/.coracle/cmdline").unwrap().unwrap();
    assert!(text.starts_with(b"init=/bin/prog\narg=prog\narg=an%20argument\n"), "{}", common::text(&text));
    assert!(!listing(&image).contains_key(Path::new("/etc/passwd")));
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let s = Sandbox::new();
    s.write("data/x", "x");
    let first = std::fs::read(build(&s, &["--timestamp", "1000", "--with", "data:/data", "sh"])).unwrap();
    s.write("data/x", "x");
    let second = std::fs::read(build(&s, &["--timestamp", "1000", "--with", "data:/data", "sh"])).unwrap();
    assert!(first == second);
}

/// The loader of the packed root, on the packed root alone, finds every library: the program runs there.
#[test]
fn a_packed_program_runs_in_its_root() {
    let s = Sandbox::new();
    let image = build(&s, &["sh", "-c", "true"]);
    fsck(&image, Some(&s.path("root")));
    let list = listing(&image);
    for needed in ["/etc/passwd", "/etc/hosts", "/etc/resolv.conf", "/etc/ld.so.cache", "/proc", "/tmp"] {
        assert!(list.contains_key(Path::new(needed)), "{needed}");
    }
    assert_eq!(list[Path::new("/tmp")].mode, 0o041777);
    if Path::new("/bin").is_symlink() {
        assert_eq!(list[Path::new("/bin")].mode, 0o120777);
    }
    let root = s.path("root");
    let loader = root.join("lib64/ld-linux-x86-64.so.2");
    let loader = if loader.exists() { loader } else { root.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2") };
    let out = Command::new(loader)
        .args(["--inhibit-cache", "--library-path"])
        .arg(root.join("usr/lib/x86_64-linux-gnu"))
        .arg(std::fs::canonicalize(root.join("usr/bin/dash")).unwrap())
        .args(["-c", "echo packed"])
        .output()
        .unwrap();
    assert_eq!(text(&out.stdout), "packed\n", "{}", text(&out.stderr));
}

#[test]
fn interpreters_come_with_their_modules() {
    let s = Sandbox::new();
    s.script("tool", "#!/usr/bin/env python3\nimport json\n");
    let list = listing(&build(&s, &["./tool"]));
    let has = |end: &str| list.keys().any(|p| p.to_string_lossy().ends_with(end));
    assert!(has("/tool") && has("/usr/bin/env"), "the script and env");
    assert!(has("/json/__init__.py") && has("/http/server.py") && has("/asyncio/__init__.py"), "the standard library");
    assert!(has("/json/__pycache__/__init__.cpython-311.pyc") || !Path::new("/usr/lib/python3.11").exists());
    assert!(list.keys().any(|p| p.to_string_lossy().contains("lib-dynload/_ssl")), "compiled modules");
    assert!(list.keys().any(|p| p.to_string_lossy().contains("/libssl.so")), "and their libraries");
    assert!(!list.keys().any(|p| p.starts_with("/usr/share/doc") || p.starts_with("/usr/share/man")));
}

#[test]
fn named_files_are_packed() {
    let s = Sandbox::new();
    s.write("conf/a.conf", "a");
    s.write("b.conf", "b");
    s.write("site/index.html", "c");
    s.write("unnamed", "d");
    let conf = s.path("conf/a.conf").display().to_string();
    let list = listing(&build(&s, &["sh", &format!("--config={conf}"), "b.conf", "site", "-x", "no-file"]));
    let has = |name: &str| list.contains_key(&s.path(name));
    assert!(has("conf/a.conf") && has("b.conf") && has("site/index.html"));
    assert!(!has("unnamed"));
}

#[test]
fn volumes_are_copied_and_said() {
    let s = Sandbox::new();
    s.write("data/x", "x");
    let out = s.coracle().args(["build", "-o", "v.erofs", "-v", "data:/mnt/data", "sh"]).output().unwrap();
    assert!(text(&out.stderr).contains("does not come back"), "{}", text(&out.stderr));
    assert!(listing(&s.path("v.erofs")).contains_key(Path::new("/mnt/data/x")));
}

#[test]
fn a_second_run_packs_nothing() {
    let s = Sandbox::new();
    s.write("data/x", "one");
    let images = || std::fs::read_dir(s.path("cache/coracle/images")).unwrap().count();
    let run = || {
        let out = s.with_qemu("exit 1").args(["run", "-q", "--with", "data:/data", "sh", "-c", "x"]).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    };
    run();
    run();
    assert_eq!(images(), 1);
    s.write("data/x", "two");
    run();
    assert_eq!(images(), 2);
}

#[test]
fn an_image_runs_with_its_own_words_or_others() {
    let s = Sandbox::new();
    build(&s, &["-e", "A=b c", "-w", "/tmp", "sh", "-c", "first"]);
    let line = |words: &[&str]| {
        let out = s.with_qemu("echo \"$@\"; exit 1").arg("run").args(["-q", "out.erofs"]).args(words).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        text(&out.stdout)
    };
    let own = line(&[]);
    assert!(own.contains("init=/usr/bin/sh arg=sh arg=-c arg=first env=PATH="), "{own}");
    assert!(own.contains("env=A=b%20c cwd=/tmp"), "{own}");
    let other = line(&["-x", "y z"]);
    assert!(other.contains("arg=sh arg=-x arg=y%20z env="), "{other}");
    let out = s.coracle().args(["inspect", "-l", "out.erofs"]).output().unwrap();
    let said = text(&out.stdout);
    assert!(said.contains("arguments: \"sh\" \"-c\" \"first\"") && said.contains("/etc/passwd"), "{said}");
}

#[test]
fn a_coracle_toml_is_the_whole_story() {
    let s = Sandbox::new();
    s.write("app/site.conf", "conf");
    s.write(
        "app/Coracle.toml",
        "program = \"sh\"\nargs = [\"-c\", \"exit 3\"]\nmemory = \"96M\"\ncpus = 2\nmachine = \"pc\"\nnet = \"none\"\n\
         with = [\"site.conf:/etc/site.conf\"]\nhostname = \"toml\"\nenv = { COLOUR = \"red\" }\n",
    );
    let out = s.with_qemu("echo \"$@\"; exit 1").args(["run", "-q", "-m", "128M", "app"]).output().unwrap();
    let line = text(&out.stdout);
    for part in ["-machine pc", "-m 131072k", "-smp 2", "arg=exit%203", "hostname=toml", "env=COLOUR=red", "ip=none"] {
        assert!(line.contains(part), "{part} is not in {line}{}", text(&out.stderr));
    }
}
