//! The end by the kernel's own fault: message, registers, backtrace with names; then the machine stops with code 125.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::cpu::KernelTrap;

use crate::klog;
use crate::symbols::{self, Symbol};

/// What the host gets when the kernel gave up.
pub const PANIC_CODE: u8 = 125;

/// Longest backtrace.
const FRAMES: usize = 48;

static PANICKING: AtomicBool = AtomicBool::new(false);

/// Writes a line to the console and to the screen.
fn say(args: core::fmt::Arguments) {
    klog::always(args);
    show(args);
}

/// Writes a line to the screen, if there is one: a person there sees why the machine stopped.
fn show(args: core::fmt::Arguments) {
    if let Some(screen) = hal_core::screen() {
        screen.line(args);
    }
}

fn hold_screen() {
    if let Some(screen) = hal_core::screen() {
        screen.hold();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    let frame: u64;
    // SAFETY: only reads the frame pointer, which every function keeps.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack, preserves_flags)) };
    stop(format_args!("{info}"), None, frame)
}

/// Ends the run for a trap in kernel code that nothing can repair.
pub fn fatal_trap(trap: &KernelTrap) -> ! {
    stop(format_args!("{}", exception_name(trap.vector)), Some(trap), trap.rbp)
}

fn stop(message: core::fmt::Arguments, trap: Option<&KernelTrap>, frame: u64) -> ! {
    hal_core::cpu::irq_save();
    if PANICKING.swap(true, Ordering::AcqRel) {
        // A panic within a panic, or a second CPU: the first one's report counts.
        klog::always(format_args!("panic again: {message}"));
        end();
    }
    if let Some(platform) = hal_core::try_platform() {
        platform.cpu().stop_others();
    }
    say(format_args!("kernel panic on CPU {}: {message}", hal_core::percpu::cpu_id()));
    if let Some(t) = trap {
        say(format_args!("  at {}", Symbol(t.rip)));
        say(format_args!(
            "  vector {} error {:#x} address {:#x} rip {:#x} rsp {:#x} rbp {:#x}",
            t.vector, t.error, t.address, t.rip, t.rsp, t.rbp
        ));
    }
    backtrace(frame);
    end();
}

/// Follows the saved frame pointers.
fn backtrace(mut frame: u64) {
    let direct = hal_core::memory::direct_base();
    for depth in 0..FRAMES {
        // Kernel stacks lie in the upper half, above the direct map's start or in the image.
        if frame & 7 != 0 || frame < direct.min(1 << 63 | 1 << 62) || frame > u64::MAX - 16 {
            break;
        }
        // SAFETY: a frame pointer that a kernel function pushed; a wrong one faults, and the panic within the panic ends.
        let (next, address) = unsafe { (*(frame as *const u64), *((frame + 8) as *const u64)) };
        if !symbols::is_kernel_code(address) {
            break;
        }
        say(format_args!("  #{depth} {}", Symbol(address - 1)));
        if next <= frame {
            break;
        }
        frame = next;
    }
}

fn end() -> ! {
    klog::control(format_args!("coracle:panic"));
    hold_screen();
    if let Some(platform) = hal_core::try_platform() {
        platform.power().exit(PANIC_CODE);
    }
    loop {
        // SAFETY: waits for ever with interrupts disabled: there is no platform to switch off yet.
        unsafe { core::arch::asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

fn exception_name(vector: u8) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug trap",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        6 => "invalid instruction",
        8 => "double fault",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        18 => "machine check",
        _ => "unexpected trap",
    }
}

/// Ends the run because the kernel must refuse: one line at `error`, then `code` (docs/command-line.md, section 4).
pub fn refuse(code: u8, reason: core::fmt::Arguments) -> ! {
    show(format_args!("coracle: {reason}"));
    log::error!("{reason}");
    hold_screen();
    exit(code)
}

/// Ends the run with the program's (or a refusal's) exit code.
pub fn exit(code: u8) -> ! {
    klog::control(format_args!("coracle:exit {code}"));
    match hal_core::try_platform() {
        Some(platform) => {
            platform.cpu().stop_others();
            platform.power().exit(code)
        }
        None => end(),
    }
}
