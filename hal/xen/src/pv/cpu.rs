//! VCPUs: what each has, and [`Cpu`] by hypercall. Starting them is in `smp`.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::fmt::Write;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use hal_core::cpu::MAX_CPUS;
use hal_core::interrupt::Handler;
use hal_core::percpu::{self, PerCpu};
use hal_core::{Cpu, PhysAddr, Result, VirtAddr};
use hal_x86::cpu::X86Cpu;

use super::{frames, smp, sys, traps};
use crate::abi::{evtchn, vcpu};
use crate::{event, hypercall, shared, store};

/// Bytes of the stack on which the application is left: one frame and a register.
const ENTRY_STACK: usize = 1024;

/// The VCPU's part of the shared information (`shared::VcpuInfo`); within one page because of its alignment.
#[repr(C, align(64))]
struct Area([AtomicU64; 8]);

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; ENTRY_STACK]>);

/// One VCPU.
#[repr(C)]
pub struct PvCpu {
    /// What GS points to.
    pub percpu: PerCpu,
    area: Area,
    /// Guest-physical address of the loaded root.
    pub root: AtomicU64,
    /// The application's FS base, where it cannot be read.
    pub fs_base: AtomicU64,
    /// Monotonic time of the armed clock event in ns; `u64::MAX` if none.
    pub deadline: AtomicU64,
    /// Channel by which others call this VCPU; 0 if none.
    pub call: AtomicU32,
    /// 1 when it runs.
    pub running: AtomicU8,
    stack: Stack,
}

// The entry code finds the shared part behind the per-CPU block (`user`).
const _: () = assert!(offset_of!(PvCpu, area) == 64);

// SAFETY: the entry stack is used by the VCPU's hardware and entry code only; the rest is atomic.
unsafe impl Sync for PvCpu {}

static BOOT: PvCpu = PvCpu::new();
static ALL: [AtomicPtr<PvCpu>; MAX_CPUS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX_CPUS];
static COUNT: AtomicUsize = AtomicUsize::new(1);
/// The others shall stop for good.
static STOPPING: AtomicBool = AtomicBool::new(false);

impl PvCpu {
    const fn new() -> Self {
        Self {
            percpu: PerCpu::EMPTY,
            area: Area([const { AtomicU64::new(0) }; 8]),
            root: AtomicU64::new(0),
            fs_base: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
            call: AtomicU32::new(0),
            running: AtomicU8::new(0),
            stack: Stack(UnsafeCell::new([0; ENTRY_STACK])),
        }
    }

    /// The boot VCPU's block.
    pub fn boot() -> &'static Self {
        &BOOT
    }

    /// Makes the block of VCPU `number`. The heap works.
    pub fn create(number: usize) -> &'static Self {
        let cpu: &'static Self = Box::leak(Box::new(Self::new()));
        cpu.list(number);
        cpu
    }

    /// Fills in the number and lists the block.
    pub fn list(&'static self, number: usize) {
        self.percpu.cpu.store(number as u32, Ordering::Relaxed);
        self.percpu.this.store((&raw const self.percpu) as u64, Ordering::Relaxed);
        if let Some(slot) = ALL.get(number) {
            slot.store((&raw const *self).cast_mut(), Ordering::Release);
        }
    }

    /// The block of VCPU `number`, if it was made.
    pub fn of(number: usize) -> Option<&'static Self> {
        // SAFETY: listed blocks live for ever.
        unsafe { ALL.get(number)?.load(Ordering::Acquire).as_ref() }
    }

    /// This VCPU's block.
    #[inline]
    pub fn this() -> &'static Self {
        // SAFETY: GS points to the first field of a block of this type, which lives for ever.
        unsafe { &*core::ptr::from_ref(percpu::this()).cast::<Self>() }
    }

    /// End of the entry stack.
    pub fn stack_top(&self) -> u64 {
        self.stack.0.get() as u64 + ENTRY_STACK as u64
    }

    /// Makes the block's area the VCPU's part of the shared information. `at` is the block's guest-physical address.
    pub fn register(&'static self, at: PhysAddr) -> Result<()> {
        let number = self.percpu.cpu.load(Ordering::Relaxed);
        let at = at + offset_of!(Self, area) as u64;
        // SAFETY: the area is there for this alone, within one page, and never freed.
        unsafe {
            sys::register_vcpu_info(number, frames::of(at), (at.0 % 4096) as u32)?;
            shared::set_vcpu(number as usize, number, Some((&raw const self.area).cast_mut().cast()));
        }
        // A VCPU begins with events masked.
        if let Some(part) = shared::vcpu(number as usize) {
            part.upcall_mask.store(1, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// The boot VCPU: GS, event flags, handlers. No event is delivered before the kernel asks for it.
pub fn init_boot() -> Result<()> {
    BOOT.list(0);
    sys::set_segment_base(sys::SEGMENT_GS_KERNEL, (&raw const BOOT) as u64);
    BOOT.register(hal_core::memory::image_phys_of(&raw const BOOT))?;
    traps::init_this_cpu()?;
    sys::stack_switch(BOOT.stack_top())?;
    BOOT.running.store(1, Ordering::Release);
    Ok(())
}

/// Finds out how many VCPUs there are, and opens the boot VCPU's channels. The heap works.
pub fn init() -> Result<()> {
    let count = (1..MAX_CPUS).find(|&number| sys::vcpu_plain(vcpu::IS_UP, number as u32) < 0).unwrap_or(MAX_CPUS);
    COUNT.store(count, Ordering::Relaxed);
    open_channels(&BOOT)
}

/// Leaves out the VCPUs that the tool stack has not brought online (docs/misc/xenstore-paths.pandoc, `cpu/N/availability`). The
/// XenStore works; no other VCPU was started.
pub fn leave_out_offline() {
    let count = COUNT.load(Ordering::Relaxed);
    let paths: Vec<String> = (1..count).map(|number| format!("cpu/{number}/availability")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    // A tool stack that says nothing leaves all of them to the guest.
    let said = store::read(&paths).unwrap_or_default();
    if let Some(offline) = said.iter().position(|value| value.as_deref() == Some("offline")) {
        log::info!("the tool stack lets this domain use {} of {count} CPUs", offline + 1);
        COUNT.store(offline + 1, Ordering::Relaxed);
    }
}

/// Binds a VCPU's timer and the channel by which others call it.
pub fn open_channels(cpu: &'static PvCpu) -> Result<()> {
    let number = cpu.percpu.cpu.load(Ordering::Relaxed);
    // The ten-millisecond tick that Xen starts a VCPU with; a VCPU that has none makes no difference.
    sys::vcpu_plain(vcpu::STOP_PERIODIC_TIMER, number);
    event::bind_virq(evtchn::VIRQ_TIMER, number as usize, leak(Arc::new(super::clock::interrupt)))?;
    let port = event::bind_ipi(number as usize, leak(Arc::new(called)))?;
    cpu.call.store(port, Ordering::Release);
    Ok(())
}

fn leak(handler: Handler) -> &'static Handler {
    Box::leak(Box::new(handler))
}

/// Another VCPU wants this one to look for work, or to stop.
fn called() {
    while STOPPING.load(Ordering::SeqCst) {
        sys::vcpu_plain(vcpu::DOWN, percpu::cpu_id() as u32);
    }
    if let Some(kernel) = hal_core::kernel() {
        kernel.reschedule();
    }
}

/// The VCPUs of a PV guest.
pub struct PvCpus;

impl Cpu for PvCpus {
    fn count(&self) -> usize {
        COUNT.load(Ordering::Relaxed)
    }

    fn start(&self, cpu: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()> {
        smp::start(cpu, stack_top, entry)
    }

    fn send_reschedule(&self, cpu: usize) {
        let port = PvCpu::of(cpu).map_or(0, |other| other.call.load(Ordering::Acquire));
        if port != 0 {
            hypercall::notify(port);
        }
    }

    fn stop_others(&self) {
        if STOPPING.swap(true, Ordering::SeqCst) {
            return;
        }
        let this = percpu::cpu_id();
        (0..self.count()).filter(|&cpu| cpu != this).for_each(|cpu| self.send_reschedule(cpu));
    }

    fn idle(&self) {
        sys::block();
    }

    fn hwcap(&self) -> (u64, u64) {
        X86Cpu.hwcap()
    }

    fn describe(&self, out: &mut dyn Write) -> core::fmt::Result {
        X86Cpu.describe(out)
    }
}
