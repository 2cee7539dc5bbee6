//! Each CPU's contact with Xen: its number there, its part of the shared info, its timer, its signal.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use hal_core::cpu::MAX_CPUS;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result, VirtAddr, memory, percpu};
use hal_x86::{interrupts, smp};
use spin::Once;

use super::start::leaf;
use crate::abi::{hvm, op, vcpu};
use crate::hypercall::{call, check};
use crate::shared::{self, LEGACY_VCPUS, VcpuInfo};
use crate::{clock, event, hypercall};

/// CPUID leaf 4, eax: ebx holds the VCPU's number.
const HAS_VCPU_NUMBER: u32 = 1 << 3;

/// CPUID leaf 4, eax: a vector of the local APIC may tell of events.
const HAS_UPCALL_VECTOR: u32 = 1 << 6;

/// Events come by the local APIC. The other way is a vector that Xen injects without it, which no state in the APIC holds back: where Xen
/// itself is emulated (QEMU's TCG), it was seen to come twice, the second time upon the first one's stack.
static BY_APIC: AtomicBool = AtomicBool::new(false);

static NUMBERS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
/// Channels by which a CPU is signalled; 0: none.
static SIGNALS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];
static RESCHEDULE: Once<&'static Handler> = Once::new();
static ENTRY: AtomicUsize = AtomicUsize::new(0);

/// Xen's number of a CPU that runs.
pub fn vcpu_number(cpu: usize) -> u32 {
    NUMBERS.get(cpu).map_or(0, |number| number.load(Ordering::Relaxed))
}

/// Aligned, so that it lies in one page.
#[repr(align(64))]
struct Aligned(VcpuInfo);

/// Makes events come to CPU `cpu`, which is this one. Interrupts are disabled, the heap works.
pub fn init_events(cpu: usize) -> Result<()> {
    let [flags, number, ..] = leaf(4);
    let apic = hal_x86::apic::id();
    // Xen's APIC numbers are twice the VCPU's, when nothing better is told.
    let number = if flags & HAS_VCPU_NUMBER != 0 { number } else { apic / 2 };
    NUMBERS.get(cpu).ok_or(Error::Invalid)?.store(number, Ordering::Relaxed);
    let registered = if (number as usize) < LEGACY_VCPUS { None } else { Some(register(number)?) };
    // SAFETY: what `register` gives is registered and leaked.
    unsafe { shared::set_vcpu(cpu, number, registered) };
    if cpu == 0 {
        interrupts::on_upcall(upcall);
        let by_apic = flags & HAS_UPCALL_VECTOR != 0 && by_apic(number).is_ok();
        BY_APIC.store(by_apic, Ordering::Release);
        // With the APIC's vector this value only tells the toolstack that the guest knows Xen.
        let value = if by_apic { 1 } else { hvm::CALLBACK_VECTOR | u64::from(interrupts::UPCALL) };
        // SAFETY: the vector is set aside for this, and with the APIC's vector no line is used.
        unsafe { hypercall::set_hvm_param(hvm::PARAM_CALLBACK, value) }?;
    } else if BY_APIC.load(Ordering::Acquire) {
        by_apic(number)?;
    }
    clock::init_timer(cpu)?;
    let handler = *RESCHEDULE.call_once(|| {
        let handler: Handler = Arc::new(|| {
            if let Some(kernel) = hal_core::kernel() {
                kernel.reschedule();
            }
        });
        Box::leak(Box::new(handler))
    });
    SIGNALS[cpu].store(event::bind_ipi(cpu, handler)?, Ordering::Release);
    Ok(())
}

fn by_apic(number: u32) -> Result<()> {
    // SAFETY: the vector is set aside for this, and `upcall` ends the interrupt.
    unsafe { hypercall::set_upcall_vector(number, interrupts::UPCALL) }
}

fn upcall() {
    if BY_APIC.load(Ordering::Relaxed) {
        hal_x86::apic::eoi();
    }
    event::dispatch(percpu::cpu_id());
}

fn register(number: u32) -> Result<*mut VcpuInfo> {
    // SAFETY: all bytes zero is a value of the structure: atomics and numbers.
    let part = Box::leak(Box::new(unsafe { core::mem::zeroed::<Aligned>() }));
    let at = memory::phys_of(&raw const part.0);
    let offset = (at.0 % hal_core::PAGE_SIZE as u64) as u32;
    let mut argument = vcpu::RegisterInfo { frame: at.page(), offset, reserved: 0 };
    // SAFETY: the memory is leaked, and of the right size.
    check(unsafe { call(op::VCPU, [vcpu::REGISTER_INFO, u64::from(number), (&raw mut argument) as u64, 0, 0]) })?;
    Ok(&raw mut part.0)
}

/// Signals a CPU; false if it has no channel.
#[inline]
pub fn signal(cpu: usize) -> bool {
    match SIGNALS.get(cpu).map_or(0, |port| port.load(Ordering::Acquire)) {
        0 => false,
        port => {
            hypercall::notify(port);
            true
        }
    }
}

/// Starts a CPU.
pub fn start(cpu: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()> {
    ENTRY.store(entry as usize, Ordering::Release);
    smp::start(cpu, stack_top, begin)
}

/// First function of another CPU.
fn begin(cpu: usize) -> ! {
    if let Err(error) = init_events(cpu) {
        log::error!("CPU {cpu} gets no events from Xen: {error:?}");
    }
    // SAFETY: `start` stored a function of this type; CPUs all have the same.
    let entry: fn(usize) -> ! = unsafe { core::mem::transmute(ENTRY.load(Ordering::Acquire)) };
    entry(cpu)
}
