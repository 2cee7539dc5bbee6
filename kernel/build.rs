//! Tells the linker where the kernel's script is, and builds the vDSO: a shared object that the kernel embeds.

use std::path::Path;
use std::process::Command;

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let out = std::env::var("OUT_DIR").expect("cargo sets it");
    println!("cargo::rustc-link-arg-bins=-T{dir}/kernel.ld");
    for file in ["kernel.ld", "vdso/vdso.rs", "vdso/vdso.ld", "vdso/vdso.map"] {
        println!("cargo::rerun-if-changed={file}");
    }
    vdso(Path::new(&dir), Path::new(&out));
}

/// Compiles `vdso/vdso.rs` for the kernel's target and links it as a shared object.
fn vdso(dir: &Path, out: &Path) {
    let rustc = std::env::var("RUSTC").expect("cargo sets it");
    let target = std::env::var("TARGET").expect("cargo sets it");
    let object = out.join("vdso.o");
    run(Command::new(rustc)
        .args(["--edition=2024", "--crate-type=lib", "--crate-name=vdso", "--emit=obj", "--target", &target])
        .args(["-Copt-level=2", "-Cpanic=abort", "-Crelocation-model=pic", "-Ccodegen-units=1"])
        .args(["-Cforce-unwind-tables=yes", "-Coverflow-checks=off"])
        .arg("-o")
        .arg(&object)
        .arg(dir.join("vdso/vdso.rs")));
    run(Command::new("ld.lld")
        .args([
            "-shared",
            "-soname",
            "linux-vdso.so.1",
            "--hash-style=both",
            "--eh-frame-hdr",
            "-z",
            "max-page-size=4096",
        ])
        .args(["-Bsymbolic", "--no-undefined", "-s"])
        .arg("-T")
        .arg(dir.join("vdso/vdso.ld"))
        .arg("--version-script")
        .arg(dir.join("vdso/vdso.map"))
        .arg("-o")
        .arg(out.join("vdso.so"))
        .arg(&object));
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(status.success(), "{command:?} failed: {status}");
}
