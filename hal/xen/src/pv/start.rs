//! From the entry to `kernel_main`: the start info becomes [`BootInfo`]. Until the console is mapped nothing can be said.

use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::boot::{MemoryKind, MemoryRange, Module};
use hal_core::{BootInfo, PhysAddr, Result};
use hal_x86::paging::{Frame, pte};
use hal_x86::{arch, boot, features};
use spin::Once;

use super::builder::{self, Places};
use super::cpu::{self, PvCpu};
use super::{direct, frames, mode, sys, user};
use crate::abi::StartInfo;
use crate::{console, event, shared};

unsafe extern "Rust" {
    /// The kernel. Defined by the kernel's crate.
    fn kernel_main(info: &'static BootInfo) -> !;
}

/// What Xen and other domains share with this one is mapped here, in place of the statics' own frames.
static SHARED: Frame = Frame::new();
static CONSOLE: Frame = Frame::new();
static STORE: Frame = Frame::new();
static ENTERED: AtomicBool = AtomicBool::new(false);
static START: Once<&'static StartInfo> = Once::new();
static RANGES: Once<Ranges> = Once::new();
static INFO: Once<BootInfo> = Once::new();

/// True in a PV guest: the entry tells.
pub fn entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}

/// The start info. Panics in another guest.
pub fn info() -> &'static StartInfo {
    START.get().expect("a PV guest has a start info")
}

/// The XenStore's page.
pub fn store_page() -> *const crate::wire::Interface {
    STORE.as_mut_ptr().cast_const().cast()
}

/// Maps machine frame `machine` at `page`.
///
/// # Safety
/// `page` is a static of this module, in whose place the frame is from now on.
unsafe fn place(page: &'static Frame, machine: u64) -> Result<()> {
    // SAFETY: by the caller.
    unsafe { sys::update_mapping(page.as_mut_ptr() as u64, machine << 12 | direct::LEAF | pte::WRITE) }
}

/// First Rust code, on the boot stack, with the image relocated and still writable.
#[unsafe(no_mangle)]
extern "C" fn coracle_pv_start(start: &'static StartInfo, _unused: u64) -> ! {
    ENTERED.store(true, Ordering::Relaxed);
    START.call_once(|| start);
    // SAFETY: the image is writable, and only this VCPU runs; the builder's list stays mapped.
    unsafe {
        user::replace_functions();
        frames::init(start.frame_list as *mut u64, start.pages);
    }
    arch::set_cpuid(sys::cpuid);
    let image = image_start();
    boot::set_place(builder::physical(image), image);
    if prepare(start).is_err() {
        // There is no console yet: the domain's end is what the host sees.
        crate::hypercall::shutdown(crate::abi::sched::REASON_CRASH);
    }
    // Now a panic can be read.
    let places = Places::find(start, image);
    if let Err(error) = map(&places) {
        panic!("Xen does not take the kernel's page tables: {error:?}");
    }
    let info = describe(start, &places, image);
    // SAFETY: the kernel defines it with this signature.
    unsafe { kernel_main(info) }
}

fn image_start() -> u64 {
    unsafe extern "C" {
        static __image_start: u8;
    }
    (&raw const __image_start) as u64
}

/// What a panic needs: traps, the per-CPU block, the console.
fn prepare(start: &'static StartInfo) -> Result<()> {
    // SAFETY: the statics are there for these; the frames are what the start info says.
    unsafe {
        place(&SHARED, start.shared_info >> 12)?;
        place(&CONSOLE, start.console_frame)?;
        place(&STORE, start.store_frame)?;
        shared::set(SHARED.as_mut_ptr().cast());
    }
    mode::set();
    event::mask_all();
    cpu::init_boot()?;
    // SAFETY: the page was mapped just now, and stays so.
    unsafe { console::init(CONSOLE.as_mut_ptr().cast(), start.console_port) };
    hal_core::set_early_console(&console::RingConsole);
    Ok(())
}

/// Features, and the kernel's own mappings.
fn map(places: &Places) -> Result<()> {
    // A stray port access, of a driver that looks for its device, must not fault.
    sys::allow_ports()?;
    features::init_control();
    if hal_x86::arch::cpuid_checked(7, 0)[1] & 1 == 0 {
        // SAFETY: the image is writable, and only this VCPU runs.
        unsafe { user::replace_fs_functions() };
    }
    // SAFETY: only this VCPU runs, and code and constants are final now.
    unsafe { builder::restrict(places) };
    direct::init(&builder::boot(places))?;
    PvCpu::boot().root.store(direct::root() * 4096, Ordering::Relaxed);
    Ok(())
}

/// What [`BootInfo`] points to.
struct Ranges {
    memory: [MemoryRange; 1],
    /// The module's comes last.
    reserved: [MemoryRange; 5],
    module: [Module; 1],
}

fn describe(start: &'static StartInfo, places: &Places, image: u64) -> &'static BootInfo {
    let range = |start: u64, len: u64, kind| MemoryRange { start: PhysAddr(start), len, kind };
    let used = |(first, end): (u64, u64)| range(first * 4096, (end - first) * 4096, MemoryKind::Reserved);
    // Others write to these frames, which are the domain's all the same.
    let shared = |machine: u64| range(frames::guest(machine) * 4096, 4096, MemoryKind::Reserved);
    let (module, len) = places.module;
    let ranges = RANGES.call_once(|| Ranges {
        memory: [range(0, start.pages * 4096, MemoryKind::Usable)],
        reserved: [
            used(places.used),
            used(places.direct),
            shared(start.console_frame),
            shared(start.store_frame),
            range(module, len, MemoryKind::Reserved),
        ],
        module: [Module { start: PhysAddr(module), len }],
    });
    let modules = usize::from(len != 0);
    let end = start.command_line.iter().position(|&byte| byte == 0).unwrap_or(start.command_line.len());
    INFO.call_once(|| BootInfo {
        memory: &ranges.memory,
        reserved: &ranges.reserved[..4 + modules],
        command_line: &start.command_line[..end],
        modules: &ranges.module[..modules],
        rsdp: None,
        entry_tsc: boot::entry_tsc(),
        image: (image, image + boot::image_len()),
    })
}
