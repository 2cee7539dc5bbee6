//! The loader is linked as a flat file that begins with its own PE header (`uefi.ld`).

fn main() {
    let dir = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rustc-link-arg-bins=-T{dir}/uefi.ld");
    println!("cargo::rustc-link-arg-bins=--oformat=binary");
    println!("cargo::rerun-if-changed=uefi.ld");
}
