//! Any bytes as a root image: it mounts or not, and every directory and file of it can be read or not.
#![no_main]

use std::sync::Arc;

use base::{Errno, Frame, Result};
use fs::erofs::{Erofs, Image};
use fs::tmpfs::Lower;
use libfuzzer_sys::fuzz_target;

struct Bytes(Vec<u8>);

impl Image for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
    fn pages(&self, first: u64, count: u64, put: &mut dyn FnMut(u64, Frame)) -> Result<()> {
        for index in first..first.saturating_add(count.min(64)) {
            let frame = Frame::zeroed()?;
            let start = usize::try_from(index).ok().and_then(|i| i.checked_mul(4096)).ok_or(Errno::EIO)?;
            frame.write(0, self.0.get(start..).unwrap_or(&[]));
            put(index, frame);
        }
        Ok(())
    }
}

fn walk(node: &Arc<dyn Lower>, budget: &mut u32) {
    let stat = node.stat();
    let _ = node.readlink();
    let _ = node.pages(0, 4, &mut |_, _| {});
    let _ = node.pages(stat.size / 4096, 1, &mut |_, _| {});
    let mut names = Vec::new();
    let _ = node.readdir(&mut |name, _, _| names.push(name.to_vec()));
    for name in names {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        if let Ok(child) = node.lookup(&name) {
            walk(&child, budget);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    if let Ok(root) = Erofs::mount(Arc::new(Bytes(data.to_vec()))) {
        walk(&root, &mut 200);
    }
});
