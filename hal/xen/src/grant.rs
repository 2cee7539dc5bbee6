//! Grants: which frames another domain may reach (grant_table.h, version 1).
//!
//! A reference is given out, names one frame to one domain, and comes back only when Xen says that the other domain has the frame
//! mapped no more. Until then neither reference nor frame may serve anything else; that is the caller's part.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use hal_core::{Error, PAGE_SIZE, PhysAddr, Result, VirtAddr};
use spin::mutex::SpinMutex as Mutex;

use crate::abi::{DOMID_SELF, grant};
use crate::{hypercall, mode};

/// `struct grant_entry_v1`.
#[repr(C)]
struct Entry {
    flags: AtomicU16,
    domain: AtomicU16,
    frame: AtomicU32,
}

const PER_FRAME: u32 = (PAGE_SIZE / size_of::<Entry>()) as u32;

struct Table {
    frames: Vec<VirtAddr>,
    /// Most frames that Xen gives this domain; 0 before the first use.
    most: u32,
    free: Vec<u32>,
}

static TABLE: Mutex<Table> = Mutex::new(Table { frames: Vec::new(), most: 0, free: Vec::new() });

impl Table {
    fn entry(&self, reference: u32) -> Option<&'static Entry> {
        let frame = self.frames.get((reference / PER_FRAME) as usize)?;
        // SAFETY: the frame is mapped for ever and holds this many entries, which both sides access atomically.
        Some(unsafe { &*(frame.0 as *const Entry).add((reference % PER_FRAME) as usize) })
    }

    /// Another frame of entries.
    fn grow(&mut self) -> Result<()> {
        if self.most == 0 {
            self.most = begin()?;
        }
        let index = self.frames.len() as u32;
        if index >= self.most {
            return Err(Error::Exhausted);
        }
        self.frames.push((mode::get().map_grant_frame)(index)?);
        let first = (index * PER_FRAME).max(grant::RESERVED);
        self.free.extend((first..(index + 1) * PER_FRAME).rev());
        Ok(())
    }
}

/// Version 1, and how many frames there can be.
fn begin() -> Result<u32> {
    let mut version = grant::SetVersion { version: 1 };
    // SAFETY: nothing has been granted yet. Failing is as good: a Xen without this call has version 1 only.
    let _ = unsafe { hypercall::grant_op(grant::SET_VERSION, &mut version) };
    let mut size = grant::QuerySize { domain: DOMID_SELF, frames: 0, most: 0, status: 0 };
    // SAFETY: only asks.
    unsafe { hypercall::grant_op(grant::QUERY_SIZE, &mut size) }?;
    if size.status != 0 || size.most == 0 {
        return Err(Error::Device("Xen gives this domain no grant table"));
    }
    Ok(size.most)
}

/// Lets `domain` access the frame at `at`. The reference to tell it.
pub fn grant(domain: u16, at: PhysAddr, read_only: bool) -> Result<u32> {
    let number = u32::try_from((mode::get().frame_number)(at)).map_err(|_| Error::Unsupported)?;
    let mut table = TABLE.lock();
    if table.free.is_empty() {
        table.grow()?;
    }
    let reference = table.free.pop().ok_or(Error::Exhausted)?;
    let entry = table.entry(reference).ok_or(Error::Invalid)?;
    entry.domain.store(domain, Ordering::Relaxed);
    entry.frame.store(number, Ordering::Relaxed);
    let flags = grant::PERMIT_ACCESS | if read_only { grant::READ_ONLY } else { 0 };
    // Xen must see the rest first.
    entry.flags.store(flags, Ordering::Release);
    Ok(reference)
}

/// Takes the access back. False if the other domain has the frame mapped: then nothing changed, the frame must be kept as it is,
/// and the caller may try again.
pub fn end(reference: u32) -> bool {
    let mut table = TABLE.lock();
    let Some(entry) = table.entry(reference) else { return false };
    loop {
        let flags = entry.flags.load(Ordering::Relaxed);
        if flags & (grant::READING | grant::WRITING) != 0 {
            return false;
        }
        if entry.flags.compare_exchange(flags, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            table.free.push(reference);
            return true;
        }
    }
}
