//! Any bytes as an image file, whatever the format: its disk can be read or not, and so can what is on it.
#![no_main]

use std::path::Path;
use std::sync::Arc;

use coracle::container::disk_in;
use coracle::disk::Inside;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok((_, disk)) = disk_in(Arc::new(data.to_vec())) else { return };
    let mut bytes = vec![0; disk.size().min(1 << 17) as usize];
    for at in [0, disk.size() / 2, disk.size() - bytes.len() as u64] {
        let at = at.min(disk.size() - bytes.len() as u64);
        let _ = disk.read_at(at, &mut bytes);
        disk.is_hole(at, bytes.len() as u64);
    }
    if let Ok(inside) = Inside::of(disk) {
        let _ = inside.kernel();
        let _ = inside.command_line();
        let _ = inside.image(Path::new("fuzz")).and_then(|image| image.list());
    }
});
