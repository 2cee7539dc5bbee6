//! First contact: CPUID leaves, hypercall page, shared info, rings (arch-x86/cpuid.h, hvm/params.h).

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, Ordering};

use hal_core::{BootInfo, Error, PhysAddr, Result, VirtAddr};
use hal_x86::paging::{Frame, map_direct};
use hal_x86::{arch, boot, signature};

use crate::abi::{hvm, memory};
use crate::wire::Interface;
use crate::{console, event, hypercall, mode, shared, store};

const SIGNATURE: &[u8; 12] = b"XenVMMXenVMM";
const PAGE: u64 = hal_core::PAGE_SIZE as u64;

/// Xen's first CPUID leaf.
static LEAF: AtomicU32 = AtomicU32::new(0);

/// Where the shared info goes, in place of this frame's memory.
static SHARED: Frame = Frame::new();

static MODE: mode::Mode = mode::Mode { frame_number: |at| at.page(), map_grant_frame, vcpu: super::cpus::vcpu_number };

/// The backend's sureness: Xen says that it is there.
pub fn detect(_info: &'static BootInfo) -> Option<u8> {
    if arch::cpuid(1, 0)[2] & 1 << 31 == 0 {
        return None;
    }
    LEAF.store(signature::find(SIGNATURE, |leaf| arch::cpuid(leaf, 0))?, Ordering::Relaxed);
    Some(80)
}

/// Xen's leaf `number`.
pub fn leaf(number: u32) -> [u32; 4] {
    arch::cpuid(LEAF.load(Ordering::Relaxed) + number, 0)
}

/// Before the heap: hypercalls, shared info, console.
pub fn init() {
    let [_, register, _, _] = leaf(2);
    let page = boot::phys_of_static(hypercall::page());
    // SAFETY: the leaf names the register that takes the address of the hypercall page; the page holds nothing else.
    unsafe { arch::wrmsr(register, page) };
    mode::set(&MODE);
    let frame = boot::phys_of_static(SHARED.as_mut_ptr());
    // SAFETY: the frame is static and only used for this.
    if let Err(error) = unsafe { hypercall::add_to_physmap(memory::SPACE_SHARED_INFO, 0, frame / PAGE) } {
        panic!("Xen does not share its page: {error:?}");
    }
    // SAFETY: the page is mapped as a part of the image, for ever; VCPU 0 starts a domain.
    unsafe {
        shared::set(SHARED.as_mut_ptr().cast());
        shared::set_vcpu(0, 0, None);
    }
    event::mask_all();
    if let Ok((page, port)) = ring(hvm::PARAM_CONSOLE_PFN, hvm::PARAM_CONSOLE_PORT) {
        // SAFETY: the parameter names the console's page, which `ring` mapped.
        unsafe { console::init(page.0 as *mut _, port) };
    }
}

/// A ring that the tool stack set up: page and channel.
fn ring(frame: u32, port: u32) -> Result<(VirtAddr, u32)> {
    let frame = hypercall::hvm_param(frame)?;
    let port = u32::try_from(hypercall::hvm_param(port)?).map_err(|_| Error::Invalid)?;
    if frame == 0 || frame >= 1 << 40 || port == 0 {
        return Err(Error::Unsupported);
    }
    let at = PhysAddr(frame * PAGE);
    map_direct(at, PAGE)?;
    Ok((VirtAddr(hal_core::memory::direct::<u8>(at) as u64), port))
}

/// Starts the XenStore client. Heap, events and clock work.
pub fn init_store() -> Result<()> {
    let (page, port) = ring(hvm::PARAM_STORE_PFN, hvm::PARAM_STORE_PORT)?;
    // SAFETY: the parameter names the XenStore's page, which `ring` mapped for ever; all its fields are atomic.
    store::init(unsafe { &*(page.0 as *const Interface) }, port)
}

/// Puts a frame of the grant table in place of a page of the heap.
fn map_grant_frame(index: u32) -> Result<VirtAddr> {
    let page: &'static Frame = Box::leak(Box::new(Frame::new()));
    let at = hal_core::memory::phys_of(page.as_mut_ptr());
    // SAFETY: the page was just allocated, and is never freed.
    unsafe { hypercall::add_to_physmap(memory::SPACE_GRANT_TABLE, u64::from(index), at.page()) }?;
    Ok(VirtAddr(page.address()))
}
