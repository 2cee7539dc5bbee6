//! Memory: mapping, protection, advice, the heap, locking, other processes' memory.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, Result};

use super::{Args, calls};
use crate::files;
use crate::mm::{AddressSpace, Advice, Backing, Fixed, Map, Name, Prot, RemapFlags, VmaFlags, user};
use crate::process::credentials::cap;
use crate::process::limits::resource;
use crate::process::{self, ids};
use crate::sched;

const PAGE: usize = hal_core::PAGE_SIZE;
/// Pages in a word of bits: sizes are rounded up to pages.
const PROT_KNOWN: u32 = 7;
const PROT_GROWSDOWN: u32 = 0x0100_0000;
const PROT_GROWSUP: u32 = 0x0200_0000;

/// `MAP_*` (uapi asm-generic/mman.h).
mod map {
    pub const SHARED: u32 = 1;
    pub const PRIVATE: u32 = 2;
    pub const SHARED_VALIDATE: u32 = 3;
    pub const TYPE: u32 = 15;
    pub const FIXED: u32 = 0x10;
    pub const ANONYMOUS: u32 = 0x20;
    pub const GROWSDOWN: u32 = 0x100;
    pub const LOCKED: u32 = 0x2000;
    pub const NORESERVE: u32 = 0x4000;
    pub const POPULATE: u32 = 0x8000;
    pub const NONBLOCK: u32 = 0x1_0000;
    pub const STACK: u32 = 0x2_0000;
    pub const HUGETLB: u32 = 0x4_0000;
    pub const SYNC: u32 = 0x8_0000;
    pub const FIXED_NOREPLACE: u32 = 0x10_0000;
    pub const BIT32: u32 = 0x40;
    /// Accepted and without meaning.
    pub const OLD: u32 = 0x800 | 0x1000;
    pub const KNOWN: u32 = TYPE
        | FIXED
        | ANONYMOUS
        | GROWSDOWN
        | LOCKED
        | NORESERVE
        | POPULATE
        | NONBLOCK
        | STACK
        | HUGETLB
        | FIXED_NOREPLACE
        | BIT32
        | OLD;
}

fn space() -> Result<&'static Arc<AddressSpace>> {
    sched::current().space().ok_or(Errno::ENOMEM)
}

fn prot(bits: u32) -> Prot {
    let mut prot = Prot::from_bits_truncate(bits);
    // x86 cannot forbid reading what may be written.
    if prot.contains(Prot::WRITE) {
        prot |= Prot::READ;
    }
    prot
}

/// What a file mapping needs from its descriptor.
fn file_backing(fd: i32, page: u64, bits: u32, shared: bool) -> Result<(Backing, Name, Prot)> {
    let file = files::get(fd)?;
    let flags = file.status().get();
    if !flags.readable() {
        return Err(Errno::EACCES);
    }
    let writable = flags.writable();
    if shared && bits & Prot::WRITE.bits() != 0 && !writable {
        return Err(Errno::EACCES);
    }
    let source = file.page_source().ok_or(Errno::ENODEV)?;
    let root = files::with_context(|context| Ok(context.root()))?;
    let text = match file.path() {
        Some(path) => {
            let (mut text, linked) = path.render(&root);
            if !linked {
                text.extend_from_slice(b" (deleted)");
            }
            alloc::string::String::from_utf8_lossy(&text).into_owned()
        }
        None => file.describe(),
    };
    let most = if shared && !writable { Prot::READ | Prot::EXEC } else { Prot::all() };
    Ok((Backing::File { source, offset: page }, Name::Path(text.into()), most))
}

fn mmap(args: &Args) -> Result<u64> {
    let (hint, len, bits, flags) = (args.usize(0), args.usize(1), args.u32(2), args.u32(3));
    let (fd, offset) = (args.int(4), args.u64(5));
    if !offset.is_multiple_of(PAGE as u64) {
        return Err(Errno::EINVAL);
    }
    let anonymous = flags & map::ANONYMOUS != 0;
    if !anonymous {
        // Errno priority: a bad descriptor is told first.
        files::get(fd)?;
    }
    let shared = match flags & map::TYPE {
        map::SHARED => true,
        map::SHARED_VALIDATE if flags & map::SYNC != 0 => return Err(Errno::EOPNOTSUPP),
        map::SHARED_VALIDATE if flags & !map::KNOWN != 0 => return Err(Errno::EOPNOTSUPP),
        map::SHARED_VALIDATE => true,
        map::PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    if len == 0 || flags & map::HUGETLB != 0 && !anonymous {
        return Err(Errno::EINVAL);
    }
    if flags & map::HUGETLB != 0 {
        // The pool of huge pages is empty, as on a Linux that was not told to fill it.
        return Err(Errno::ENOMEM);
    }
    if offset.checked_add(len as u64).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    let (backing, name, max_prot) = if anonymous {
        (Backing::Anonymous, Name::None, Prot::all())
    } else {
        file_backing(fd, offset / PAGE as u64, bits, shared)?
    };
    let fixed = if flags & map::FIXED_NOREPLACE != 0 {
        Fixed::NoReplace
    } else if flags & map::FIXED != 0 {
        Fixed::Replace
    } else {
        Fixed::No
    };
    let mut properties = VmaFlags::empty();
    properties.set(VmaFlags::SHARED, shared);
    properties.set(VmaFlags::GROWSDOWN, flags & map::GROWSDOWN != 0);
    properties.set(VmaFlags::NORESERVE, flags & map::NORESERVE != 0);
    properties.set(VmaFlags::LOCKED, flags & map::LOCKED != 0);
    let hint = if fixed == Fixed::No { hint & !(PAGE - 1) } else { hint };
    let populate = flags & (map::POPULATE | map::LOCKED) != 0 && flags & map::NONBLOCK == 0;
    let request = Map { hint, fixed, len, prot: prot(bits), max_prot, flags: properties, backing, name, populate };
    if flags & map::BIT32 != 0 && fixed == Fixed::No {
        return map_low(request);
    }
    space()?.map(request).map(|at| at as u64)
}

/// `MAP_32BIT`: somewhere in the first 2 GiB, as Linux from 1 GiB on.
fn map_low(request: Map) -> Result<u64> {
    const START: usize = 0x4000_0000;
    const END: usize = 0x8000_0000;
    let len = request.len.checked_next_multiple_of(PAGE).filter(|len| *len <= END - START).ok_or(Errno::ENOMEM)?;
    let space = space()?;
    let mut at = START;
    while at + len <= END {
        match space.map(Map { hint: at, fixed: Fixed::NoReplace, ..request.clone() }) {
            Err(Errno::EEXIST) => {}
            done => return done.map(|at| at as u64),
        }
        // Behind the region that is in the way.
        let mut next = at + PAGE;
        space.for_each_vma(|vma| {
            if vma.range.start < at + len && vma.range.end > at {
                next = next.max(vma.range.end);
            }
        });
        at = next;
    }
    Err(Errno::ENOMEM)
}

fn munmap(args: &Args) -> Result<u64> {
    space()?.unmap(args.usize(0), args.usize(1)).map(|()| 0)
}

fn mprotect(args: &Args) -> Result<u64> {
    let (address, len, bits) = (args.usize(0), args.usize(1), args.u32(2));
    if bits & !(PROT_KNOWN | 8 | PROT_GROWSDOWN | PROT_GROWSUP) != 0 || bits & PROT_GROWSUP != 0 {
        return Err(Errno::EINVAL);
    }
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let (mut start, mut len) = (address, len);
    if bits & PROT_GROWSDOWN != 0 {
        // From the start of the growing region that holds the address.
        let mut found = None;
        space()?.for_each_vma(|vma| {
            if vma.range.contains(&address) && vma.flags.contains(VmaFlags::GROWSDOWN) {
                found = Some(vma.range.start);
            }
        });
        let from = found.ok_or(Errno::EINVAL)?;
        len += start - from;
        start = from;
    }
    space()?.protect(start, len, prot(bits)).map(|()| 0)
}

fn pkey_mprotect(args: &Args) -> Result<u64> {
    // The only key there is: none.
    if args.int(3) == -1 { mprotect(args) } else { Err(Errno::EINVAL) }
}

fn pkey_alloc(args: &Args) -> Result<u64> {
    Err(if args.u64(0) != 0 { Errno::EINVAL } else { Errno::ENOSPC })
}

fn pkey_free(_: &Args) -> Result<u64> {
    Err(Errno::EINVAL)
}

fn brk(args: &Args) -> Result<u64> {
    let limit = process::current()?.limit(resource::DATA);
    let space = space()?;
    let wanted = args.usize(0);
    if limit != u64::MAX && wanted != 0 {
        let now = space.brk(0);
        if wanted > now && (wanted - now) as u64 > limit {
            return Ok(now as u64);
        }
    }
    Ok(space.brk(wanted) as u64)
}

fn mremap(args: &Args) -> Result<u64> {
    let flags = RemapFlags::from_bits(args.u32(3)).ok_or(Errno::EINVAL)?;
    space()?.remap(args.usize(0), args.usize(1), args.usize(2), flags, args.usize(4)).map(|at| at as u64)
}

fn msync(args: &Args) -> Result<u64> {
    const ASYNC: u32 = 1;
    const INVALIDATE: u32 = 2;
    const SYNC: u32 = 4;
    let flags = args.u32(2);
    if flags & !(ASYNC | INVALIDATE | SYNC) != 0 || flags & (ASYNC | SYNC) == ASYNC | SYNC {
        return Err(Errno::EINVAL);
    }
    if !args.usize(0).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    space()?.sync(args.usize(0), args.usize(1), flags & SYNC != 0).map(|()| 0)
}

fn mincore(args: &Args) -> Result<u64> {
    if !args.usize(0).is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let present = space()?.resident(args.usize(0), args.usize(1))?;
    user::write_bytes(args.usize(2), &present).map(|()| 0)
}

fn advice_of(number: i32) -> Result<Advice> {
    Ok(match number {
        0 => Advice::Normal,
        1 => Advice::Random,
        // Sequential, will need, mergeable and unmergeable, cold, page out.
        2 | 3 | 12 | 13 | 20 | 21 => Advice::Hint,
        4 => Advice::DontNeed,
        8 => Advice::Free,
        10 => Advice::DontFork,
        11 => Advice::DoFork,
        14 => Advice::HugePage,
        15 => Advice::NoHugePage,
        16 => Advice::DontDump,
        17 => Advice::DoDump,
        18 => Advice::WipeOnFork,
        19 => Advice::KeepOnFork,
        22 => Advice::PopulateRead,
        23 => Advice::PopulateWrite,
        // Dontneed also of locked pages.
        24 => Advice::DontNeed,
        _ => return Err(Errno::EINVAL),
    })
}

fn madvise(args: &Args) -> Result<u64> {
    space()?.advise(args.usize(0), args.usize(1), advice_of(args.int(2))?).map(|()| 0)
}

/// Refuses locking beyond `RLIMIT_MEMLOCK`.
fn may_lock(len: usize) -> Result<()> {
    let own = process::current()?;
    let limit = own.limit(resource::MEMLOCK);
    if limit == u64::MAX || own.credentials().capable(cap::SYS_RESOURCE) {
        return Ok(());
    }
    let locked = space()?.stats().locked as u64 * PAGE as u64;
    match limit {
        0 => Err(Errno::EPERM),
        _ if locked.saturating_add(len as u64) > limit => Err(Errno::ENOMEM),
        _ => Ok(()),
    }
}

fn mlock(args: &Args) -> Result<u64> {
    may_lock(args.usize(1))?;
    space()?.lock_pages(args.usize(0), args.usize(1), true).map(|()| 0)
}

fn mlock2(args: &Args) -> Result<u64> {
    if args.u32(2) & !1 != 0 { Err(Errno::EINVAL) } else { mlock(args) }
}

fn munlock(args: &Args) -> Result<u64> {
    space()?.lock_pages(args.usize(0), args.usize(1), false).map(|()| 0)
}

fn mlockall(args: &Args) -> Result<u64> {
    const CURRENT: u32 = 1;
    let flags = args.u32(0);
    if flags == 0 || flags & !7 != 0 || flags == 4 {
        return Err(Errno::EINVAL);
    }
    may_lock(0)?;
    // Nothing is ever swapped: what comes later needs no mark.
    if flags & CURRENT != 0 {
        space()?.lock_all(true);
    }
    Ok(0)
}

fn munlockall(_: &Args) -> Result<u64> {
    space()?.lock_all(false);
    Ok(0)
}

/// A list of address and length pairs.
fn read_vector(address: usize, count: usize) -> Result<Vec<[usize; 2]>> {
    if count > 1024 { Err(Errno::EINVAL) } else { user::read_slice(address, count) }
}

/// Copies between the caller's memory and another process's, piece by piece; returns the bytes moved.
fn transfer(args: &Args, write: bool) -> Result<u64> {
    if args.u64(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let local = read_vector(args.usize(1), args.usize(2))?;
    let remote = read_vector(args.usize(3), args.usize(4))?;
    let target = u32::try_from(args.int(0)).ok().and_then(ids::process).ok_or(Errno::ESRCH)?;
    let (own, other) = (process::current()?.credentials(), target.credentials());
    if own.uid.real != other.uid.real && !own.capable(cap::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let space = target.space().ok_or(Errno::ESRCH)?;
    let mut buffer = alloc::vec![0u8; PAGE];
    let (mut done, mut local_at, mut local_used) = (0, 0, 0);
    for [address, len] in remote {
        let mut used = 0;
        while used < len {
            while local_at < local.len() && local_used == local[local_at][1] {
                local_at += 1;
                local_used = 0;
            }
            let Some([base, size]) = local.get(local_at).copied() else { return Ok(done) };
            let n = PAGE.min(len - used).min(size - local_used);
            let piece = &mut buffer[..n];
            let step = (|| {
                let from = address.checked_add(used).ok_or(Errno::EFAULT)?;
                if write {
                    user::read_bytes(base + local_used, piece)?;
                    space.write_to(from, piece)
                } else {
                    let n = space.read_from(from, piece)?;
                    user::write_bytes(base + local_used, &piece[..n])?;
                    Ok(n)
                }
            })();
            match step {
                Ok(moved) => {
                    done += moved as u64;
                    used += moved;
                    local_used += moved;
                    if moved < n {
                        return Ok(done);
                    }
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => return Ok(done),
            }
        }
    }
    Ok(done)
}

fn process_vm_readv(args: &Args) -> Result<u64> {
    transfer(args, false)
}

fn process_vm_writev(args: &Args) -> Result<u64> {
    transfer(args, true)
}

calls! {
    9 mmap, "complete but for MAP_HUGETLB (ENOMEM: the pool is empty) and MAP_SYNC (EOPNOTSUPP)";
    10 mprotect, "complete; no PROT_SEM";
    11 munmap, "complete";
    12 brk, "complete";
    25 mremap, "MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP";
    26 msync, "complete";
    27 mincore, "complete";
    28 madvise, "all but MADV_REMOVE, MADV_COLLAPSE and the poisoning ones (EINVAL)";
    149 mlock, "accounting: nothing is ever swapped";
    150 munlock, "complete";
    151 mlockall, "as mlock";
    152 munlockall, "complete";
    310 process_vm_readv, "complete";
    311 process_vm_writev, "complete";
    325 mlock2, "as mlock";
    329 pkey_mprotect, "key -1; there are no keys";
    330 pkey_alloc, "none: ENOSPC, as on a CPU without keys";
    331 pkey_free, "none: EINVAL";
}
