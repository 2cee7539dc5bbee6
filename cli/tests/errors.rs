//! Every mistake that a user can make gives one line with the cure, and the right exit code.

mod common;

use common::{Sandbox, assert_error};

#[test]
fn no_such_program() {
    let s = Sandbox::new();
    let out = s.with_qemu("exit 9").args(["run", "no-such-program"]).output().unwrap();
    assert_error(&out, 127, &["no such program", "no-such-program", "install it"]);
    let out = s.with_qemu("exit 9").args(["run", "./nothing"]).output().unwrap();
    assert_error(&out, 127, &["does not exist", "check the path"]);
}

#[test]
fn not_a_program() {
    let s = Sandbox::new();
    s.script("text", "just text\n");
    let out = s.with_qemu("exit 9").args(["run", "./text"]).output().unwrap();
    assert_error(&out, 126, &["not an x86-64 ELF", "a text file without a #! line"]);
    let mut arm = vec![0; 64];
    arm[..6].copy_from_slice(b"\x7fELF\x02\x01");
    arm[18] = 183;
    s.write("arm", arm);
    let out = s.with_qemu("exit 9").args(["run", "./arm"]).output().unwrap();
    assert_error(&out, 126, &["not an x86-64 ELF", "a 64-bit ELF file for ARM64"]);
    s.script("lost", "#!/no/interpreter\n");
    let out = s.with_qemu("exit 9").args(["run", "./lost"]).output().unwrap();
    assert_error(&out, 126, &["/no/interpreter", "install it"]);
}

#[test]
fn qemu_is_missing() {
    let out = Sandbox::new().coracle().args(["run", "sh"]).output().unwrap();
    assert_error(&out, 125, &["QEMU is missing", "apt-get install qemu-system-x86"]);
}

#[test]
fn port_in_use_is_told_before_boot() {
    let s = Sandbox::new();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let pair = format!("{port}:80");
    let out = s.with_qemu("touch booted").args(["run", "-p", &pair, "sh"]).output().unwrap();
    assert_error(&out, 125, &[&format!("port {port} is in use"), "choose another: -p"]);
    assert!(!s.path("booted").exists());
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let out = s.with_qemu("touch booted").args(["run", "-p", &format!("{port}:53/udp"), "sh"]).output().unwrap();
    assert_error(&out, 125, &[&format!("UDP port {port} is in use")]);
}

#[test]
fn ports_need_the_user_network() {
    let out =
        Sandbox::new().with_qemu("exit 9").args(["run", "-p", "18081:80", "--net", "none", "sh"]).output().unwrap();
    assert_error(&out, 125, &["-p works with --net user"]);
}

#[test]
fn images_that_are_none() {
    let s = Sandbox::new();
    let run = |name: &str| s.with_qemu("exit 9").args(["run", name]).output().unwrap();
    let ok = s.coracle().args(["build", "-o", "good.erofs", "sh"]).output().unwrap();
    assert!(ok.status.success());
    let good = std::fs::read(s.path("good.erofs")).unwrap();
    s.write("short.erofs", &good[..good.len() - 4096]);
    assert_error(&run("short.erofs"), 125, &["truncated", "build it again"]);
    s.write("tiny.erofs", "x");
    assert_error(&run("./tiny.erofs"), 125, &["truncated"]);
    let mut flipped = good.clone();
    flipped[1024 + 40] ^= 1;
    s.write("flipped.erofs", &flipped);
    assert_error(&run("flipped.erofs"), 125, &["corrupt", "checksum", "build it again"]);
    s.write("zero.erofs", vec![0; 8192]);
    assert_error(&run("zero.erofs"), 125, &["not a Coracle image", "coracle build"]);
    let out = s.coracle().args(["inspect", "short.erofs"]).output().unwrap();
    assert_error(&out, 125, &["truncated"]);
}

#[test]
fn an_image_without_a_program() {
    let s = Sandbox::new();
    s.write("root/etc/x", "x");
    let status = std::process::Command::new("mkfs.erofs").arg(s.path("other.img")).arg(s.path("root")).output();
    assert!(status.expect("mkfs.erofs is needed: apt-get install erofs-utils").status.success());
    let out = s.with_qemu("exit 9").args(["run", "other.img"]).output().unwrap();
    assert_error(&out, 125, &["does not say what to run", "coracle build"]);
}

#[test]
fn folders_and_files_of_configuration() {
    let s = Sandbox::new();
    let run = |words: &[&str]| s.with_qemu("exit 9").arg("run").args(words).output().unwrap();
    s.write("root/bin/x", "no program");
    assert_error(&run(&["root"]), 125, &["without a Coracle.toml", "name the program"]);
    assert_error(&run(&["root", "/bin/y"]), 127, &["no such program", "/bin/y"]);
    assert_error(&run(&["root", "/bin/x"]), 126, &["not an x86-64 ELF"]);
    s.write("app/Coracle.toml", "program = \"sh\"\nmemroy = \"1G\"\n");
    let out = run(&["app"]);
    assert_eq!(out.status.code(), Some(125));
    assert!(common::text(&out.stderr).contains("memroy"));
}

#[test]
fn wrong_options() {
    let s = Sandbox::new();
    let usage = |words: &[&str], part: &str| {
        let out = s.with_qemu("exit 9").arg("run").args(words).output().unwrap();
        let said = common::text(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    };
    usage(&["--nonsense", "sh"], "--nonsense");
    usage(&["-m", "1M", "sh"], "too little memory");
    usage(&["-m", "much", "sh"], "512M");
    usage(&["-p", "http", "sh"], "HOST:GUEST");
    usage(&["-v", "data", "sh"], "DIR:/PATH");
    usage(&["-c", "0", "sh"], "0");
    usage(&["--net", "wifi", "sh"], "tap=NAME");
    usage(&["--machine", "vax", "sh"], "microvm");
    usage(&[], "PROGRAM");
}

#[test]
fn kernels() {
    let s = Sandbox::new();
    s.write("k", "no kernel");
    let out = s.with_qemu("exit 9").args(["run", "--kernel", "k", "sh"]).output().unwrap();
    assert_error(&out, 125, &["not a kernel", "text file"]);
    let out = s.with_qemu("exit 9").args(["run", "--kernel", "gone", "sh"]).output().unwrap();
    assert_error(&out, 125, &["no kernel at gone"]);
}

#[test]
fn a_module_larger_than_memory() {
    let s = Sandbox::new();
    s.write("big", vec![1; 40 << 20]);
    let out = s
        .with_qemu("exit 9")
        .args(["run", "--root", "module", "-m", "32M", "--with", "big:/big", "sh"])
        .output()
        .unwrap();
    assert_error(&out, 125, &["too little memory", "give -m"]);
}
