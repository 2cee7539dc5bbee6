//! Image files in every format: QEMU's tools agree with us, the same input gives the same bytes, conversion loses
//! nothing, and what cannot be done is told in one line.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Sandbox, assert_error, fsck, text};

/// Suffix, and QEMU's name of the format.
const FORMATS: [(&str, &str); 5] =
    [("img", "raw"), ("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vdi", "vdi"), ("vhd", "vpc")];

/// A kernel with loaders beside it: none that run, but of their kind.
fn boot_files(s: &Sandbox) -> PathBuf {
    let mut elf = vec![0x5a; 300_000];
    elf[..64].fill(0);
    elf[1000..1021].copy_from_slice(b"#1 SMP Coracle 9.8.7\0");
    elf[..20].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    s.write("boot/bios.bin", [vec![0x90; 512], vec![0x91; 5000]].concat());
    s.write("boot/bootx64.efi", [b"MZ".to_vec(), vec![0x92; 70_000]].concat());
    s.write("boot/kernel", elf)
}

fn build(s: &Sandbox, name: &str, more: &[&str]) -> PathBuf {
    let kernel = boot_files(s);
    let mut command = s.coracle();
    command.args(["build", "-o", name, "--timestamp", "0"]).args(more).arg("--kernel").arg(kernel);
    let out = command.args(["sh", "-c", "exit 3"]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    s.path(name)
}

fn convert(s: &Sandbox, from: &str, to: &str) {
    let out = s.coracle().args(["convert", from, to]).output().unwrap();
    assert!(out.status.success(), "{from} to {to}: {}", text(&out.stderr));
}

fn qemu_img(words: &[&str], files: &[&Path]) -> String {
    let out = Command::new("qemu-img").args(words).args(files).output();
    let out = out.expect("qemu-img is needed: apt-get install qemu-utils");
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "qemu-img {words:?} {files:?}: {said}");
    said
}

#[test]
fn qemu_reads_every_format_as_the_same_disk() {
    let s = Sandbox::new();
    let raw = build(&s, "x.img", &[]);
    for (suffix, name) in FORMATS {
        let path = build(&s, &format!("x.{suffix}"), &[]);
        assert!(qemu_img(&["compare", "-f", "raw", "-F", name], &[&raw, &path]).contains("identical"), "{name}");
        if matches!(name, "qcow2" | "vmdk" | "vdi") {
            assert!(qemu_img(&["check", "-f", name], &[&path]).contains("No errors"), "{name}");
        }
    }
    let info = qemu_img(&["info", "-f", "vmdk"], &[&s.path("x.vmdk")]);
    assert!(info.contains("streamOptimized"), "{info}");
    let size = std::fs::metadata(&raw).unwrap().len();
    assert_eq!(size % (1 << 20), 0);
    assert_eq!(std::fs::metadata(s.path("x.vhd")).unwrap().len(), size + 512);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let s = Sandbox::new();
    for suffix in ["img", "qcow2", "vmdk", "ova", "vdi", "vhd", "erofs"] {
        let name = format!("x.{suffix}");
        let first = std::fs::read(build(&s, &name, &[])).unwrap();
        std::fs::remove_file(s.path(&name)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(std::fs::read(build(&s, &name, &[])).unwrap() == first, "{suffix}");
    }
    let other = std::fs::read(build(&s, "y.img", &["--append", "log=info"])).unwrap();
    assert!(other != std::fs::read(s.path("x.img")).unwrap());
}

#[test]
fn conversion_loses_nothing() {
    let s = Sandbox::new();
    let raw = std::fs::read(build(&s, "x.img", &[])).unwrap();
    build(&s, "x.erofs", &[]);
    for suffix in ["qcow2", "vmdk", "ova", "vdi", "vhd"] {
        let name = format!("x.{suffix}");
        convert(&s, "x.img", &name);
        let converted = std::fs::read(s.path(&name)).unwrap();
        assert!(converted == std::fs::read(build(&s, &name, &[])).unwrap(), "{suffix}: build and convert differ");
        convert(&s, &name, "back.raw");
        assert!(std::fs::read(s.path("back.raw")).unwrap() == raw, "{suffix}");
        convert(&s, &name, "back.erofs");
        assert!(std::fs::read(s.path("back.erofs")).unwrap() == std::fs::read(s.path("x.erofs")).unwrap());
    }
    // What others write.
    for (format, options) in [("qcow2", "-c"), ("qcow2", "-q"), ("vmdk", "-q"), ("vdi", "-q"), ("vpc", "-q")] {
        qemu_img(&["convert", options, "-f", "raw", "-O", format], &[&s.path("x.img"), &s.path("theirs")]);
        let out = s.coracle().args(["convert", "theirs", "back.raw"]).output().unwrap();
        assert!(out.status.success(), "{format}: {}", text(&out.stderr));
        let back = std::fs::read(s.path("back.raw")).unwrap();
        // A dynamic VHD of QEMU's is as large as its geometry.
        assert!(back.len() >= raw.len() && back[..raw.len()] == raw, "{format} {options}");
    }
}

#[test]
fn the_partitions_are_what_their_types_say() {
    let s = Sandbox::new();
    let raw = std::fs::read(build(&s, "x.img", &["--append", "log=info ip=dhcp"])).unwrap();
    let esp = s.write("esp", &raw[1 << 20..9 << 20]);
    let out = Command::new("fsck.fat").arg("-n").arg(&esp).output();
    let out = out.expect("fsck.fat is needed: apt-get install dosfstools");
    assert!(out.status.success(), "{}", text(&out.stdout));
    convert(&s, "x.img", "root.erofs");
    fsck(&s.path("root.erofs"), None);
    let out = s.coracle().args(["inspect", "x.img"]).output().unwrap();
    let said = text(&out.stdout);
    for words in [
        "raw, ",
        "partitions: GPT",
        "1: sectors 64 to 2047, BIOS boot",
        "2: sectors 2048 to ",
        "EFI system",
        "3: sectors 18432 to ",
        "boot block: stage 2 at sector 65 (10 sectors)",
        "kernel: Coracle 9.8.7, 300000 bytes, SHA-256",
        "command line: \"log=info ip=dhcp\"",
        "root: EROFS",
        "arguments: \"sh\" \"-c\" \"exit 3\"",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
    // The files lie in one piece where the boot block says.
    let lba = |key: &str| {
        let number = said.split(key).nth(1).unwrap().split([',', '\n', ' ']).next().unwrap();
        number.parse::<usize>().unwrap() * 512
    };
    assert!(raw[lba("kernel at ")..].starts_with(&std::fs::read(s.path("boot/kernel")).unwrap()));
    assert!(raw[lba("command line at ")..].starts_with(b"log=info ip=dhcp\0"));
    let menu = "search --no-floppy --set=root --file /coracle/kernel\nmenuentry 'Coracle' {\n\tlinux /coracle/kernel log=info ip=dhcp\n}";
    assert!(raw.windows(menu.len()).any(|w| w == menu.as_bytes()));
}

#[test]
fn a_disk_image_runs_with_its_own_kernel() {
    let s = Sandbox::new();
    build(&s, "x.img", &["--append", "log=info"]);
    for (suffix, drive) in [
        ("img", "format=raw"),
        ("qcow2", "format=qcow2"),
        ("vhd", "format=vpc"),
        ("ova", "format=vmdk,readonly=on,file.driver=raw"),
    ] {
        let name = format!("x.{suffix}");
        if suffix != "img" {
            convert(&s, "x.img", &name);
        }
        let script = "echo \"$@\" >line; while [ $1 != -kernel ]; do shift; done; cp $2 used; printf '\\036 coracle:exit 5\\n'; exit 11";
        let out = s.with_qemu(script).args(["run", "-q", &name, "more"]).output().unwrap();
        assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
        assert!(std::fs::read(s.path("used")).unwrap() == std::fs::read(s.path("boot/kernel")).unwrap());
        let line = std::fs::read_to_string(s.path("line")).unwrap();
        assert!(line.contains("arg=more") && line.contains("log=info framing=on") && line.contains(drive), "{line}");
    }
    let out = s
        .with_qemu("echo \"$@\" >line; printf '\\036 coracle:exit 0\\n'; exit 1")
        .args(["run", "-q", "--firmware", "bios", "x.qcow2"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(!std::fs::read_to_string(s.path("line")).unwrap().contains("-kernel"));
    let out = s.with_qemu("exit 9").args(["run", "--firmware", "bios", "x.qcow2", "argument"]).output().unwrap();
    assert_error(&out, 125, &["as it was built", "build the image with them"]);
}

#[test]
fn mistakes_are_told() {
    let s = Sandbox::new();
    build(&s, "x.img", &[]);
    let run = |words: &[&str]| s.coracle().args(words).output().unwrap();
    s.write("bare/kernel", std::fs::read(s.path("boot/kernel")).unwrap());
    let out = run(&["build", "-o", "y.img", "--kernel", "bare/kernel", "sh"]);
    assert_error(&out, 125, &["bare/bios.bin", "./x build", "-o NAME.erofs"]);
    assert_error(&run(&["convert", "x.img", "y.what"]), 125, &["y.what", "--format"]);
    assert_error(&run(&["convert", "x.img", "x.img"]), 125, &["onto itself"]);
    std::fs::create_dir(s.path("folder.img")).unwrap();
    assert_error(&run(&["convert", "x.img", "folder.img"]), 125, &["folder.img is not a file", "dd bs=1M"]);
    assert_error(&run(&["build", "-o", "/dev/null", "--format", "erofs", "sh"]), 125, &["/dev/null is not a file"]);
    assert_error(&run(&["convert", "none.img", "y.vdi"]), 125, &["cannot open none.img"]);
    let whole = std::fs::read(s.path("x.img")).unwrap();
    s.write("cut.img", &whole[..9 << 20]);
    assert_error(&run(&["inspect", "-l", "cut.img"]), 125, &["shorter than it was made", "again"]);
    assert_error(&s.with_qemu("exit 9").args(["run", "cut.img"]).output().unwrap(), 125, &["shorter"]);
    let mut damaged = whole.clone();
    damaged[1 << 20 | 200_000] ^= 1;
    s.write("damaged.img", damaged);
    assert_error(&s.with_qemu("exit 9").args(["run", "damaged.img"]).output().unwrap(), 125, &["kernel's checksum"]);
    convert(&s, "x.img", "x.qcow2");
    let qcow2 = std::fs::read(s.path("x.qcow2")).unwrap();
    s.write("cut.qcow2", &qcow2[..qcow2.len() / 2]);
    assert_error(&run(&["convert", "cut.qcow2", "y.img"]), 125, &["cut.qcow2", "bad qcow2", "truncated or corrupt"]);
    assert!(!s.path("y.img").exists());
}
