//! The vDSO: clock_gettime and friends without entering the kernel. Compiled by the kernel's build script into a
//! shared object of its own, which the kernel maps into each process behind one page of clock data ("vvar").
//!
//! The page is `hal_core::clock::ClockParams`; the offsets here are those documented there. Nothing here
//! may panic or call anything: there is no library behind it.
#![no_std]

use core::arch::{asm, x86_64::_rdtsc};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// `hal_core::clock::ClockParams`.
#[repr(C)]
struct Vvar {
    sequence: AtomicU32,
    shift: AtomicU32,
    mult: AtomicU64,
    base_tsc: AtomicU64,
    base_ns: AtomicU64,
    wall_offset_ns: AtomicU64,
    has_tsc_aux: AtomicU32,
}

#[repr(C)]
pub struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

#[repr(C)]
pub struct Timeval {
    seconds: i64,
    microseconds: i64,
}

#[repr(C)]
pub struct Timezone {
    minutes_west: i32,
    dst_time: i32,
}

const NS: u64 = 1_000_000_000;

#[inline(always)]
fn vvar() -> &'static Vvar {
    let page: *const Vvar;
    // SAFETY: the linker puts `vvar` one page before the image, where the kernel maps the data for as long as
    // the process lives.
    unsafe {
        asm!("lea {}, [rip + vvar]", out(reg) page, options(nomem, nostack, preserves_flags));
        &*page
    }
}

/// Monotonic nanoseconds, and the offset to 1970.
#[inline(always)]
fn now() -> (u64, u64) {
    let v = vvar();
    loop {
        let sequence = v.sequence.load(Ordering::Acquire);
        let (mult, shift) = (v.mult.load(Ordering::Relaxed), v.shift.load(Ordering::Relaxed));
        let (base_tsc, base_ns) = (v.base_tsc.load(Ordering::Relaxed), v.base_ns.load(Ordering::Relaxed));
        let offset = v.wall_offset_ns.load(Ordering::Relaxed);
        // SAFETY: rdtsc has no effect but its result.
        let delta = unsafe { _rdtsc() }.saturating_sub(base_tsc);
        let scaled = ((delta as u128 * mult as u128) >> (shift & 127)) as u64;
        fence(Ordering::Acquire);
        if sequence & 1 == 0 && v.sequence.load(Ordering::Relaxed) == sequence {
            return (base_ns.wrapping_add(scaled), offset);
        }
        core::hint::spin_loop();
    }
}

#[inline(always)]
fn call(number: u64, a: u64, b: u64, c: u64) -> i32 {
    let result: u64;
    // SAFETY: a system call with the program's own arguments; the kernel checks them.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result as i32
}

/// clock_gettime(2).
///
/// # Safety
/// As the C function: `time` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_gettime(clock: i32, time: *mut Timespec) -> i32 {
    let ns = match clock {
        // REALTIME, REALTIME_COARSE
        0 | 5 => {
            let (ns, offset) = now();
            ns.wrapping_add(offset)
        }
        // MONOTONIC, MONOTONIC_RAW, MONOTONIC_COARSE, BOOTTIME
        1 | 4 | 6 | 7 => now().0,
        _ => return call(228, clock as u64, time as u64, 0),
    };
    // SAFETY: by the caller; a bad pointer faults in the program, as on Linux.
    unsafe { *time = Timespec { seconds: (ns / NS) as i64, nanoseconds: (ns % NS) as i64 } };
    0
}

/// clock_getres(2).
///
/// # Safety
/// As the C function: `resolution` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_clock_getres(clock: i32, resolution: *mut Timespec) -> i32 {
    match clock {
        0 | 1 | 4 | 5 | 6 | 7 => {
            if !resolution.is_null() {
                // SAFETY: by the caller.
                unsafe { *resolution = Timespec { seconds: 0, nanoseconds: 1 } };
            }
            0
        }
        _ => call(229, clock as u64, resolution as u64, 0),
    }
}

/// gettimeofday(2).
///
/// # Safety
/// As the C function: both are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_gettimeofday(time: *mut Timeval, zone: *mut Timezone) -> i32 {
    if !time.is_null() {
        let (ns, offset) = now();
        let ns = ns.wrapping_add(offset);
        // SAFETY: by the caller.
        unsafe { *time = Timeval { seconds: (ns / NS) as i64, microseconds: (ns % NS / 1000) as i64 } };
    }
    if !zone.is_null() {
        // SAFETY: by the caller.
        unsafe { *zone = Timezone { minutes_west: 0, dst_time: 0 } };
    }
    0
}

/// time(2).
///
/// # Safety
/// As the C function: `time` is null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_time(time: *mut i64) -> i64 {
    let (ns, offset) = now();
    let seconds = (ns.wrapping_add(offset) / NS) as i64;
    if !time.is_null() {
        // SAFETY: by the caller.
        unsafe { *time = seconds };
    }
    seconds
}

/// getcpu(2).
///
/// # Safety
/// As the C function: both are null or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __vdso_getcpu(cpu: *mut u32, node: *mut u32, _unused: *mut u8) -> i32 {
    if vvar().has_tsc_aux.load(Ordering::Relaxed) == 0 {
        return call(309, cpu as u64, node as u64, 0);
    }
    let number: u32;
    // SAFETY: the kernel says that the CPU has rdtscp and that TSC_AUX is the CPU's number.
    unsafe { asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") number, options(nomem, nostack)) };
    if !cpu.is_null() {
        // SAFETY: by the caller.
        unsafe { *cpu = number };
    }
    if !node.is_null() {
        // SAFETY: by the caller.
        unsafe { *node = 0 };
    }
    0
}

core::arch::global_asm!(
    ".weak clock_gettime, clock_getres, gettimeofday, time, getcpu",
    ".type clock_gettime, @function; .type clock_getres, @function; .type gettimeofday, @function",
    ".type time, @function; .type getcpu, @function",
    ".set clock_gettime, __vdso_clock_gettime; .set clock_getres, __vdso_clock_getres",
    ".set gettimeofday, __vdso_gettimeofday; .set time, __vdso_time; .set getcpu, __vdso_getcpu",
    // Where a signal handler without SA_RESTORER returns to is the program's business on x86-64; there is none here.
);

/// Required by the compiler; nothing here panics.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
