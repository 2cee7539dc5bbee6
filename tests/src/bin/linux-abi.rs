//! Writes docs/linux-abi.md.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
    std::fs::write(root.join("docs/linux-abi.md"), tests::abi::generate(root)?)
}
