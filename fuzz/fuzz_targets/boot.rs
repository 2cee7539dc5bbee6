//! What the boot loaders read: any bytes as a boot block, as a kernel, as a memory map. A kernel that is taken lies in
//! free memory.
#![no_main]

use boot_layout::{BootBlock, SECTOR};
use boot_plan::firmware;
use boot_plan::kernel::{BOTTOM, HEAD, Kernel};
use boot_plan::memory::{self, RANGES_MAX, Range};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(sector) = data.first_chunk::<SECTOR>() {
        let _ = BootBlock::decode(sector);
    }
    let _ = firmware::find_rsdp(data);
    let Some((&ranges, data)) = data.split_first() else { return };
    let (entries, file) = data.split_at(data.len().min(usize::from(ranges) * 24));
    let mut map: Vec<Range> =
        entries.as_chunks::<24>().0.iter().filter_map(|entry| firmware::from_e820(entry, 20)).collect();
    map.push(Range { start: 1 << 20, len: 64 << 20, kind: memory::kind::USABLE });
    let count = memory::compact(&mut map, RANGES_MAX);
    let map = &map[..count];
    let Ok(kernel) = Kernel::parse(&file[..file.len().min(HEAD)], file.len() as u64) else { return };
    let Ok(kernel) = kernel.placed(map) else { return };
    for segment in kernel.segments() {
        assert!(segment.at >= BOTTOM && memory::is_free(map, segment.at, segment.len), "{segment:?}");
    }
    for piece in kernel.pieces(0, file.len()) {
        assert!(memory::is_free(map, piece.to, piece.len as u64) && piece.from + piece.len <= file.len());
    }
    for (at, len) in kernel.notes() {
        let piece = kernel.pieces(0, file.len()).find(|p| p.to <= at && at + len <= p.to + p.len as u64);
        let Some(piece) = piece else { continue };
        let from = piece.from + (at - piece.to) as usize;
        let _ = kernel.entry(&file[from..from + len as usize]);
    }
});
