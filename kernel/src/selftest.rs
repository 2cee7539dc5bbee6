//! The kernel's own checks on the machine that it runs on: `selftest` on the command line. Exit code 0 if all passed, 1
//! if one did not; a line for each.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cmdline::Selftest;
use hal_core::cpu::{CpuSet, Exit};
use hal_core::mmu::Flush;
use hal_core::{UserContext, VirtAddr, clock, platform};

use crate::mm::{self, AddressSpace, Map, Prot, user};
use crate::panic::exit;
use crate::{devices, klog, sched};

type Check = (&'static str, fn() -> Result<(), &'static str>);

const CHECKS: &[Check] = &[
    ("clock runs forward", clock_runs),
    ("sleep is precise", sleep_is_precise),
    ("threads switch", threads_switch),
    ("CPUs answer flushes", cpus_answer),
    ("bad user address gives EFAULT", bad_user_address),
    ("application enters and leaves", application_runs),
    ("red zone survives an interrupt flood", red_zone_survives),
    ("disks read", devices::selftest::disks_read),
    ("disks write", devices::selftest::disks_write),
    ("entropy arrives", devices::selftest::entropy_arrives),
    ("jump to a bad address is the application's fault", bad_jump),
    ("memory management", memory_management),
];

/// How many at the end of the list take long.
const LONG: usize = 1;

/// Does what is asked for and ends the VM.
pub fn run(what: Selftest) -> ! {
    match what {
        Selftest::Checks => run_checks(CHECKS),
        Selftest::Quick => run_checks(&CHECKS[..CHECKS.len() - LONG]),
        Selftest::Panic => panic!("asked for by selftest=panic"),
        Selftest::Fault => {
            // SAFETY: not sound, and meant so: nothing is mapped there, and the page fault ends the run.
            let value = unsafe { core::ptr::without_provenance::<u64>(0x10_0000).read_volatile() };
            panic!("read {value:#x} where nothing is");
        }
        Selftest::Overflow => {
            let _ = sched::spawn_kernel("overflow", None, || {
                core::hint::black_box(deeper(1));
            });
            sched::exit_current()
        }
    }
}

/// Uses stack until there is none.
#[expect(unconditional_recursion, reason = "shows that the guard page ends it")]
fn deeper(depth: u64) -> u64 {
    let room = core::hint::black_box([depth; 32]);
    deeper(depth + 1) + room[(depth % 32) as usize]
}

/// Runs every check and ends the VM.
fn run_checks(checks: &[Check]) -> ! {
    let mut failed = 0;
    for (name, check) in checks {
        let start = clock::now_ns();
        let result = check();
        let ms = (clock::now_ns() - start) / 1_000_000;
        match result {
            Ok(()) => klog::always(format_args!("selftest: ok: {name} ({ms} ms)")),
            Err(why) => {
                failed += 1;
                klog::always(format_args!("selftest: FAILED: {name}: {why}"));
            }
        }
    }
    klog::always(format_args!("selftest: {} of {} passed", checks.len() - failed, checks.len()));
    exit(u8::from(failed != 0))
}

/// Its checks panic where they fail.
fn memory_management() -> Result<(), &'static str> {
    mm::selftest::run();
    mm::measure::run();
    Ok(())
}

fn clock_runs() -> Result<(), &'static str> {
    let mut last = clock::now_ns();
    for _ in 0..10_000 {
        let now = clock::now_ns();
        if now < last {
            return Err("time went backwards");
        }
        last = now;
    }
    // 2024-01-01; the wall clock is the host's.
    if clock::wall_ns() < 1_704_067_200_000_000_000 { Err("the wall clock is in the past") } else { Ok(()) }
}

fn sleep_is_precise() -> Result<(), &'static str> {
    for ns in [50_000u64, 1_000_000, 20_000_000] {
        let start = clock::now_ns();
        let _ = sched::wait::sleep_until(start + ns);
        let took = clock::now_ns() - start;
        if took < ns {
            return Err("woke too early");
        }
        // An emulated machine on a busy host may be late, but not by much.
        if took > ns + 200_000_000 {
            return Err("woke more than 200 ms late");
        }
    }
    Ok(())
}

/// Waits for a condition for up to 20 seconds (an emulated CPU may wait long for a busy host).
fn eventually(condition: impl Fn() -> bool) -> bool {
    let end = clock::now_ns() + 20_000_000_000;
    while clock::now_ns() < end {
        if condition() {
            return true;
        }
        sched::yield_now();
    }
    condition()
}

fn threads_switch() -> Result<(), &'static str> {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 200;
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..THREADS {
        let count = count.clone();
        let body = move || {
            for _ in 0..ROUNDS {
                count.fetch_add(1, Ordering::Relaxed);
                sched::yield_now();
            }
        };
        sched::spawn_kernel("selftest", None, body).map_err(|_| "no thread")?;
    }
    if eventually(|| count.load(Ordering::Relaxed) == THREADS * ROUNDS) { Ok(()) } else { Err("a thread was lost") }
}

fn all_cpus() -> CpuSet {
    let mut set = CpuSet::EMPTY;
    (0..platform().cpu().count()).for_each(|cpu| set.insert(cpu));
    set
}

fn cpus_answer() -> Result<(), &'static str> {
    // All CPUs ask all others at the same time.
    let cpus = platform().cpu().count();
    let done = Arc::new(AtomicU64::new(0));
    for cpu in 0..cpus {
        let done = done.clone();
        let body = move || {
            for i in 0..50u64 {
                let what = if i % 5 == 0 { Flush::All } else { Flush::Range(VirtAddr(i * 4096), 1) };
                platform().mmu().flush_cpus(&all_cpus(), what);
            }
            done.fetch_add(1, Ordering::Relaxed);
        };
        sched::spawn_kernel("selftest", Some(cpu), body).map_err(|_| "no thread")?;
    }
    if eventually(|| done.load(Ordering::Relaxed) == cpus as u64) { Ok(()) } else { Err("a CPU did not answer") }
}

fn bad_user_address() -> Result<(), &'static str> {
    let program = Program::load()?;
    for address in [0usize, 8, 0x7000_0000_0000, usize::MAX - 3, 1 << 63] {
        if user::read::<u32>(address).is_ok() || user::write::<u32>(address, &1).is_ok() {
            return Err("an access to nothing succeeded");
        }
    }
    drop(program);
    Ok(())
}

core::arch::global_asm!(
    r#"
.section .rodata.selftest, "a"
// Fills the red zone, waits, checks it; rdi rounds. Ends with system call 1000, or 1001 at a wrong byte.
coracle_selftest_start:
    mov r12, rdi
    mov r13, 0x123456789abcdef0
2:  mov rax, r13
    mov ecx, 16
3:  mov [rsp + rcx * 8 - 136], rax
    inc rax
    dec ecx
    jnz 3b
    mov edx, 300
4:  pause
    dec edx
    jnz 4b
    mov rax, r13
    mov ecx, 16
5:  cmp [rsp + rcx * 8 - 136], rax
    jne 6f
    inc rax
    dec ecx
    jnz 5b
    add r13, 0x1234567
    dec r12
    jnz 2b
    mov eax, 1000
    syscall
6:  mov eax, 1001
    syscall
coracle_selftest_jump:
    jmp rdi
coracle_selftest_end:
.text
"#
);

unsafe extern "C" {
    static coracle_selftest_start: u8;
    static coracle_selftest_jump: u8;
    static coracle_selftest_end: u8;
}

/// The test program in an address space that is loaded on this thread.
struct Program {
    space: Arc<AddressSpace>,
    code: usize,
    stack: usize,
}

impl Program {
    fn load() -> Result<Self, &'static str> {
        let space = AddressSpace::new().map_err(|_| "no address space")?;
        let rights = Prot::READ | Prot::WRITE;
        let code = space.map(Map::anonymous(4096, rights)).map_err(|_| "no memory for code")?;
        let stack = space.map(Map::anonymous(65536, rights)).map_err(|_| "no memory for a stack")?;
        sched::current().set_space(Some(space.clone()));
        let start = &raw const coracle_selftest_start;
        let len = (&raw const coracle_selftest_end) as usize - start as usize;
        // SAFETY: the code between the two symbols.
        let bytes = unsafe { core::slice::from_raw_parts(start, len) };
        user::write_bytes(code, bytes).map_err(|_| "the code could not be written")?;
        space.protect(code, 4096, Prot::READ | Prot::EXEC).map_err(|_| "the code could not be made executable")?;
        Ok(Self { space, code, stack: stack + 65536 - 256 })
    }

    fn context(&self, offset: usize, rdi: u64) -> UserContext {
        UserContext {
            rip: (self.code + offset) as u64,
            rsp: self.stack as u64,
            rdi,
            rflags: 0x202,
            full: 1,
            ..UserContext::default()
        }
    }

    /// Enters until something other than an interrupt or a page fault that can be served comes. `before` runs before
    /// each entry, interrupts disabled; returns the number of interrupts, too.
    fn enter(&self, context: &mut UserContext, before: &mut dyn FnMut()) -> (Exit, u64) {
        let mut interrupts = 0;
        loop {
            hal_core::cpu::irq_save();
            before();
            // SAFETY: the space is loaded on this thread; the program uses no FPU and no FS; interrupts are disabled.
            let exit = unsafe { hal_core::cpu::enter_user(context) };
            hal_core::cpu::irq_restore(true);
            match exit {
                Exit::Interrupt => interrupts += 1,
                Exit::PageFault(fault) if self.space.fault(&fault).is_ok() => {}
                other => return (other, interrupts),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        sched::current().set_space(None);
    }
}

fn application_runs() -> Result<(), &'static str> {
    let program = Program::load()?;
    let mut context = program.context(0, 3);
    for _ in 0..2 {
        // The second time by the fast way, to the instruction after the system call: it makes the other call.
        match program.enter(&mut context, &mut || {}).0 {
            Exit::SystemCall if context.rax == 1000 || context.rax == 1001 => {}
            _ => return Err("did not come back by the system call"),
        }
    }
    if context.rax == 1001 { Ok(()) } else { Err("did not go on after the system call") }
}

fn red_zone_survives() -> Result<(), &'static str> {
    let program = Program::load()?;
    let stop = Arc::new(AtomicBool::new(false));
    let helper = {
        let stop = stop.clone();
        let target = CpuSet::single(hal_core::percpu::cpu_id());
        move || {
            while !stop.load(Ordering::Relaxed) {
                platform().mmu().flush_cpus(&target, Flush::Range(VirtAddr(0x1000), 1));
            }
        }
    };
    if platform().cpu().count() > 1 {
        sched::spawn_kernel("flood", Some(1), helper).map_err(|_| "no thread")?;
    }
    let mut context = program.context(0, 3000);
    // Where an interrupt takes longer than the time between two (a hypervisor within an emulator), the time grows, so
    // that the program comes to its end.
    let mut entries = 0u32;
    let mut soon = || {
        let ns = 10_000 << (entries / 2000).min(10);
        entries += 1;
        platform().clock().set_event(clock::now_ns() + ns);
    };
    let (exit, interrupts) = program.enter(&mut context, &mut soon);
    stop.store(true, Ordering::Relaxed);
    log::info!("selftest: {interrupts} interrupts in the flood");
    match exit {
        Exit::SystemCall if context.rax == 1000 && interrupts > 100 => Ok(()),
        Exit::SystemCall if context.rax == 1000 => Err("too few interrupts came"),
        Exit::SystemCall => Err("a byte of the red zone changed"),
        _ => Err("the program faulted"),
    }
}

fn bad_jump() -> Result<(), &'static str> {
    let program = Program::load()?;
    let offset = (&raw const coracle_selftest_jump) as usize - (&raw const coracle_selftest_start) as usize;
    for target in [0u64, 0x1000, 0x7fff_0000_0000, 0x8000_0000_0000, 0xdead_beef_dead_beef, u64::MAX - 4096] {
        let mut context = program.context(offset, target);
        match program.enter(&mut context, &mut || {}).0 {
            Exit::PageFault(_) | Exit::Exception(13, _) => {}
            _ => return Err("a jump to nothing did not fault"),
        }
        // And by the kernel's own ways out: the context itself names the address.
        for full in [0, 1] {
            let mut context = program.context(0, 1);
            context.rip = target;
            context.full = full;
            match program.enter(&mut context, &mut || {}).0 {
                Exit::PageFault(_) | Exit::Exception(13, _) => {}
                _ => return Err("an exit to nothing did not fault"),
            }
        }
    }
    Ok(())
}
