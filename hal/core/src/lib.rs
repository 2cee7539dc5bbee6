//! The hardware abstraction: what a hypervisor's backend must supply to the kernel.
//!
//! Traits and plain types only; no hypervisor, no Linux. A backend (one folder under `hal/`) implements
//! [`Platform`]; it is chosen once at boot by [`set_platform`]. The other direction, what a backend calls
//! in the kernel, is the trait [`Kernel`]. Operations too hot for a virtual call are link-time functions
//! in [`cpu`] and plain data in [`clock`] and [`percpu`].
//!
//! Designed against the hardest backend (Xen PV): the interrupt flag may be a byte in memory, frame numbers
//! in page tables may differ from the guest's own, page tables are written through [`Mmu`], an
//! interrupt is "a source", and entering the application is an operation ([`cpu::enter_user`]).
#![no_std]

extern crate alloc;

pub mod addr;
pub mod boot;
pub mod bus;
pub mod clock;
pub mod cpu;
pub mod device;
pub mod interrupt;
pub mod memory;
pub mod mmu;
pub mod percpu;
pub mod power;

pub use addr::{PAGE_SIZE, PhysAddr, VirtAddr};
pub use boot::BootInfo;
pub use bus::Buses;
pub use clock::Clock;
pub use cpu::{Cpu, Exit, UserContext};
pub use interrupt::Interrupts;
pub use mmu::{Mmu, PteFlags};
pub use power::{Console, Entropy, Power};

/// Why an operation of the hardware or of a device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// This platform or device cannot do that.
    Unsupported,
    /// Memory, vectors, descriptors or another resource ran out.
    Exhausted,
    /// An argument is out of the device's range.
    Invalid,
    /// The device reported an error, or broke its protocol.
    Device(&'static str),
    /// The device is gone.
    Gone,
}

/// A result of the hardware abstraction.
pub type Result<T> = core::result::Result<T, Error>;

/// Everything that a hypervisor supplies.
pub trait Platform: Sync {
    /// Short name for the log and `/sys/hypervisor`: "kvm", "xen-pv", "pc".
    fn name(&self) -> &'static str;
    /// What told that this platform is there, for `/sys/hypervisor`: a CPUID signature, the entry point, firmware's words.
    fn told_by(&self) -> &'static str {
        ""
    }
    /// Second half of bringing the platform up, when the heap works: firmware tables, interrupt controllers, clock.
    /// Called once, on the boot CPU, after [`set_kernel`]; interrupts are still disabled.
    fn setup(&self, info: &'static BootInfo) -> Result<()>;
    /// CPUs: how many, start, signal, idle.
    fn cpu(&self) -> &'static dyn Cpu;
    /// Page tables.
    fn mmu(&self) -> &'static dyn Mmu;
    /// Time.
    fn clock(&self) -> &'static dyn Clock;
    /// Interrupt sources.
    fn interrupts(&self) -> &'static dyn Interrupts;
    /// Buses with devices on them.
    fn buses(&self) -> &'static dyn Buses;
    /// The console that exists before any driver.
    fn console(&self) -> &'static dyn Console;
    /// Off, reboot, exit code.
    fn power(&self) -> &'static dyn Power;
    /// Randomness of the CPU or the hypervisor.
    fn entropy(&self) -> &'static dyn Entropy;
    /// What [`Kernel::defer`] was called for. No lock is held; may take locks and wake threads, must not sleep.
    fn deferred(&self) {}
    /// Gives memory back and takes it again without a device, where the hypervisor has such a call.
    fn balloon(&self) -> Option<&'static dyn device::BalloonDevice> {
        None
    }
}

/// A linked hypervisor backend: the kernel lists them and takes the one that is surest of itself.
pub struct Backend {
    /// Name for the log.
    pub name: &'static str,
    /// How well this backend fits what it finds (CPUID, firmware): 0..=100, `None` if it cannot run here.
    pub detect: fn(&'static BootInfo) -> Option<u8>,
    /// First half of bringing it up: page tables and console work afterwards; allocates nothing.
    pub init: fn(&'static BootInfo) -> &'static dyn Platform,
}

/// What a backend calls in the kernel.
pub trait Kernel: Sync {
    /// The one-shot clock event of this CPU came. Interrupts are disabled.
    fn timer(&self);
    /// Another CPU called [`Cpu::send_reschedule`]. Interrupts are disabled.
    fn reschedule(&self);
    /// A page fault in kernel code, on the kernel stack, interrupts as they were in the faulting code.
    /// Returns the address at which to continue (the same one after the page came in, or a fix-up), or
    /// `None` if the fault is a bug: then the backend calls [`Kernel::fatal`].
    fn kernel_page_fault(&self, fault: &cpu::PageFault, ip: u64) -> Option<u64>;
    /// An exception in kernel code that nothing can repair.
    fn fatal(&self, trap: &cpu::KernelTrap) -> !;
    /// Calls [`Platform::deferred`] soon, outside of interrupts. May be called in one.
    fn defer(&self);
    /// The host asks the guest to shut down (ACPI power button, control/shutdown). May run in an interrupt.
    fn shutdown_requested(&self);
}

static DEVICE_CONSOLE: spin::Once<&'static dyn Console> = spin::Once::new();
static EARLY_CONSOLE: spin::Once<&'static dyn Console> = spin::Once::new();
static SCREEN: spin::Once<&'static dyn power::Screen> = spin::Once::new();
static PLATFORM: spin::Once<&'static dyn Platform> = spin::Once::new();
static KERNEL: spin::Once<&'static dyn Kernel> = spin::Once::new();

/// Sets the screen for panics and refusals. Called by the boot code, where there is one that shows text.
pub fn set_screen(screen: &'static dyn power::Screen) {
    SCREEN.call_once(|| screen);
}

/// The screen, if there is one.
pub fn screen() -> Option<&'static dyn power::Screen> {
    SCREEN.get().copied()
}

/// Sets the console to use until the platform is known. Called by the boot code before the kernel.
pub fn set_early_console(console: &'static dyn Console) {
    EARLY_CONSOLE.call_once(|| console);
}

/// Makes a device the console, in place of the platform's.
pub fn set_console(console: &'static dyn Console) {
    DEVICE_CONSOLE.call_once(|| console);
}

/// The console that works now: the one chosen, else the platform's, or the boot code's before that.
pub fn console() -> Option<&'static dyn Console> {
    if let Some(console) = DEVICE_CONSOLE.get() {
        return Some(*console);
    }
    try_platform().map(Platform::console).or_else(|| EARLY_CONSOLE.get().copied())
}

/// Fixes the platform for the rest of the run. Called once, early, on the boot CPU.
pub fn set_platform(platform: &'static dyn Platform) {
    PLATFORM.call_once(|| platform);
}

/// The platform. Panics if called before [`set_platform`].
#[inline]
pub fn platform() -> &'static dyn Platform {
    *PLATFORM.get().expect("the platform is set early in boot")
}

/// The platform, if it is known yet: for the panic handler.
pub fn try_platform() -> Option<&'static dyn Platform> {
    PLATFORM.get().copied()
}

/// Registers the kernel's side. Called once, before interrupts are enabled.
pub fn set_kernel(kernel: &'static dyn Kernel) {
    KERNEL.call_once(|| kernel);
}

/// The kernel's side, if it is registered yet.
pub fn kernel() -> Option<&'static dyn Kernel> {
    KERNEL.get().copied()
}
