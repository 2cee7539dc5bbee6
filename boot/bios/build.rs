//! The loader is linked at fixed addresses, as the bytes that go on the disk.

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rustc-link-arg-bins=-T{dir}/bios.ld");
    println!("cargo::rustc-link-arg-bins=--no-pie");
    println!("cargo::rustc-link-arg-bins=--oformat=binary");
    println!("cargo::rerun-if-changed=bios.ld");
}
