//! Starting VCPUs: each begins in the kernel, with the state that it is given (arch-x86/xen.h, `struct vcpu_guest_context`).

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hal_core::{Error, PhysAddr, Result, VirtAddr, clock, memory};
use spin::Mutex;

use super::cpu::{self, PvCpu};
use super::{direct, entry, frames, sys, traps};
use crate::abi::vcpu;
use crate::clock::system_time;
use crate::hypercall;

/// How long a VCPU may take to start.
const PATIENCE_NS: u64 = 10_000_000_000;
/// How long to wait before looking again.
const WAIT_NS: u64 = 200_000;

/// `VGCF_in_kernel`, `VGCF_failsafe_disables_events`, `VGCF_syscall_disables_events`. Not `VGCF_online`: Xen would take the VCPU
/// for one that runs already, and `VCPUOP_up` would not wake it.
const FLAGS: u64 = 1 << 2 | 1 << 3 | 1 << 4;

/// `struct cpu_user_regs` from `rip` on; before it are 15 registers and the vector's two words.
#[repr(C)]
struct Frame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    segments: [u64; 4],
}

/// `struct vcpu_guest_context`.
#[repr(C)]
struct Context {
    fpu: [u64; 64],
    flags: u64,
    /// r15 to rsi.
    registers: [u64; 14],
    rdi: u64,
    vector: u64,
    frame: Frame,
    traps: [traps::Trap; 256],
    ldt: [u64; 2],
    gdt: [u64; 17],
    kernel_ss: u64,
    kernel_sp: u64,
    control: [u64; 8],
    debug: [u64; 8],
    callbacks: [u64; 3],
    assist: u64,
    fs_base: u64,
    gs_base_kernel: u64,
    gs_base_user: u64,
}

const _: () = assert!(size_of::<Context>() == 5168);

static STARTING: Mutex<()> = Mutex::new(());
static ENTRY: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicU8 = AtomicU8::new(0);

/// Starts VCPU `number`; see [`hal_core::Cpu::start`].
pub fn start(number: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()> {
    let _one = STARTING.lock();
    if number == 0 || PvCpu::of(number).is_some() {
        return Err(Error::Invalid);
    }
    let local = PvCpu::create(number);
    local.register(memory::phys_of(local))?;
    local.root.store(direct::root() * 4096, Ordering::Relaxed);
    cpu::open_channels(local)?;
    let context = context(local, stack_top);
    // SAFETY: the context runs `coracle_pv_secondary` on a stack of its own.
    unsafe { sys::vcpu_initialise(number as u32, (&raw const *context).cast()) }?;
    ENTRY.store(entry as *const () as u64, Ordering::Release);
    STARTED.store(0, Ordering::Release);
    hypercall::check(sys::vcpu_plain(vcpu::UP, number as u32))?;
    let begin = clock::now_ns();
    while STARTED.load(Ordering::Acquire) == 0 {
        if clock::now_ns() > begin + PATIENCE_NS {
            return Err(Error::Device("the VCPU did not start"));
        }
        // Waiting, not yielding: on a busy host the yielder may go on being chosen.
        let port = PvCpu::this().call.load(Ordering::Relaxed);
        hypercall::poll(port, system_time(clock::now_ns() + WAIT_NS));
    }
    Ok(())
}

fn context(local: &'static PvCpu, stack_top: VirtAddr) -> Box<Context> {
    // SAFETY: numbers only, for which zero is a value.
    let mut context: Box<Context> = unsafe { Box::new_zeroed().assume_init() };
    context.flags = FLAGS;
    context.rdi = (&raw const *local) as u64;
    context.frame.rip = entry::secondary_entry();
    context.frame.cs = u64::from(sys::CODE);
    context.frame.rsp = stack_top.0;
    context.frame.ss = u64::from(sys::STACK);
    for trap in traps::table().iter().filter(|trap| !trap.is_end()).copied() {
        context.traps[usize::from(trap.vector())] = trap;
    }
    context.kernel_ss = u64::from(sys::STACK);
    context.kernel_sp = local.stack_top();
    context.control[3] = frames::of(PhysAddr(direct::root() * 4096)) << 12;
    context.control[4] = hal_x86::arch::cr4();
    context.callbacks = traps::callbacks();
    context.gs_base_kernel = (&raw const *local) as u64;
    context
}

/// First Rust code of another VCPU, on the stack that it was given, events masked.
#[unsafe(no_mangle)]
extern "C" fn coracle_pv_secondary_start(local: &'static PvCpu) -> ! {
    hal_x86::features::init_control();
    // SAFETY: `start` stored a `fn(usize) -> !` there.
    let entry: fn(usize) -> ! = unsafe { core::mem::transmute(ENTRY.load(Ordering::Acquire) as usize) };
    local.running.store(1, Ordering::Release);
    STARTED.store(1, Ordering::Release);
    entry(hal_core::percpu::cpu_id())
}
