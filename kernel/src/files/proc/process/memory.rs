//! The memory of a process as /proc/PID/maps, smaps, smaps_rollup and statm show it.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use base::Result;

use crate::mm::{Prot, VmaFlags};
use crate::process::Process;

pub(super) fn statm(process: &Arc<Process>) -> Result<String> {
    let s = process.space().map(|space| space.stats()).unwrap_or_default();
    Ok(format!("{} {} {} {} 0 {} 0\n", s.mapped, s.anonymous + s.file, s.file, s.text, s.data + s.stack))
}

pub(super) fn maps(process: &Arc<Process>, detailed: bool) -> Result<String> {
    let mut out = String::new();
    let Some(space) = process.space() else {
        return Ok(out);
    };
    let mut regions = Vec::new();
    space.for_each_vma(|vma| regions.push(vma.clone()));
    for vma in &regions {
        let has = |right, letter| if vma.prot.contains(right) { letter } else { '-' };
        let shared = if vma.flags.contains(VmaFlags::SHARED) { 's' } else { 'p' };
        let (dev, ino) = vma.identity;
        let line = format!(
            "{:08x}-{:08x} {}{}{}{shared} {:08x} {:02x}:{:02x} {ino}",
            vma.range.start,
            vma.range.end,
            has(Prot::READ, 'r'),
            has(Prot::WRITE, 'w'),
            has(Prot::EXEC, 'x'),
            vma.offset,
            fs::types::major(dev),
            fs::types::minor(dev),
        );
        match vma.name.as_str() {
            "" => {
                let _ = writeln!(out, "{line} ");
            }
            name => {
                let _ = writeln!(out, "{line:<72} {name}");
            }
        }
        if detailed {
            let size = vma.range.len() / 1024;
            let present = space.present_pages(vma.range.clone()) * 4;
            detail(&mut out, Some(size), present, vma.flags.contains(VmaFlags::SHARED));
            let _ = writeln!(out, "THPeligible:    0\nVmFlags: rd wr mr mw me ac");
        }
    }
    Ok(out)
}

fn detail(out: &mut String, size: Option<usize>, present: usize, shared: bool) {
    if let Some(size) = size {
        let _ = write!(out, "Size:           {size:>8} kB\nKernelPageSize:        4 kB\nMMUPageSize:           4 kB\n");
    }
    let (in_common, own) = if shared { (present, 0) } else { (0, present) };
    let rows = [
        ("Rss", present),
        ("Pss", present),
        ("Pss_Dirty", own),
        ("Shared_Clean", in_common),
        ("Shared_Dirty", 0),
        ("Private_Clean", 0),
        ("Private_Dirty", own),
        ("Referenced", present),
        ("Anonymous", own),
        ("LazyFree", 0),
        ("AnonHugePages", 0),
        ("ShmemPmdMapped", 0),
        ("FilePmdMapped", 0),
        ("Shared_Hugetlb", 0),
        ("Private_Hugetlb", 0),
        ("Swap", 0),
        ("SwapPss", 0),
        ("Locked", 0),
    ];
    for (name, kib) in rows {
        let _ = writeln!(out, "{:<15} {kib:>8} kB", format!("{name}:"));
    }
}

pub(super) fn rollup(process: &Arc<Process>) -> Result<String> {
    let stats = process.space().map(|space| space.stats()).unwrap_or_default();
    let mut out = format!("{:<72} [rollup]\n", "00400000-7ffffffff000 ---p 00000000 00:00 0");
    detail(&mut out, None, (stats.anonymous + stats.file) * 4, false);
    Ok(out)
}
