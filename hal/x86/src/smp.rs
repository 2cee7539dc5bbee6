//! Starting the other CPUs: INIT, then SIPI to a real-mode page that goes to long mode (Intel SDM vol. 3, section 8.4).

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use hal_core::cpu::MAX_CPUS;
use hal_core::{Error, PhysAddr, Result, VirtAddr, clock, memory};
use spin::Mutex;

use crate::local::CpuLocal;
use crate::{apic, arch, features, paging, timer};

static TRAMPOLINE: AtomicU64 = AtomicU64::new(0);

/// Sets the page below 640 KiB in which other CPUs start.
pub fn set_trampoline(page: u64) {
    TRAMPOLINE.store(page, Ordering::Relaxed);
}

// Parameters at 0xf00 of the page: root table, entry, stack, argument.
core::arch::global_asm!(
    r#"
.section .rodata.trampoline, "a"
.code16
.global coracle_trampoline
coracle_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0xf00, %sp
    movzwl %ax, %ebx
    shll $4, %ebx
    leal (.Ltramp_gdt - coracle_trampoline)(%ebx), %eax
    movl %eax, (.Ltramp_gdtr + 2 - coracle_trampoline)
    lgdtl (.Ltramp_gdtr - coracle_trampoline)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    leal (.Ltramp32 - coracle_trampoline)(%ebx), %eax
    pushl $0x18
    pushl %eax
    lretl
.code32
.Ltramp32:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    leal 0xf00(%ebx), %esp
    movl %cr4, %eax
    orl $0x20, %eax
    movl %eax, %cr4
    movl 0xf00(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl %cr0, %eax
    andl $0x9ffffff3, %eax
    orl $0x80010023, %eax
    movl %eax, %cr0
    leal (.Ltramp64 - coracle_trampoline)(%ebx), %eax
    pushl $0x08
    pushl %eax
    lretl
.code64
.Ltramp64:
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movq 0xf10(%rbx), %rsp
    movq 0xf18(%rbx), %rdi
    xorl %ebp, %ebp
    pushq $0
    jmpq *0xf08(%rbx)
.balign 8
.Ltramp_gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff
.Ltramp_gdtr:
    .short 31
    .long 0
.global coracle_trampoline_end
coracle_trampoline_end:
.text
"#,
    options(att_syntax)
);

unsafe extern "C" {
    static coracle_trampoline: u8;
    static coracle_trampoline_end: u8;
}

/// How long a CPU may take to start.
const PATIENCE_NS: u64 = 1_000_000_000;
/// Another SIPI is sent after this long.
const AGAIN_NS: u64 = 5_000_000;

/// One CPU starts at a time; the state is what its `ap_main` does next.
static STARTING: Mutex<()> = Mutex::new(());
static ENTRY: AtomicU64 = AtomicU64::new(0);
static STARTED: AtomicU8 = AtomicU8::new(0);

/// Makes the blocks of all CPUs from their APIC numbers. Returns how many CPUs there are. Heap and local APIC work.
pub fn init(apic_ids: &[u32]) -> usize {
    let boot = apic::id();
    CpuLocal::boot().list(0, boot);
    let mut count = 1;
    for &id in apic_ids.iter().filter(|&&id| id != boot) {
        if count >= MAX_CPUS {
            log::warn!("more than {MAX_CPUS} CPUs: the others are not used");
            break;
        }
        CpuLocal::create(count, id);
        count += 1;
    }
    count
}

/// Starts CPU `number`; see [`hal_core::Cpu::start`].
pub fn start(number: usize, stack_top: VirtAddr, entry: fn(usize) -> !) -> Result<()> {
    let local = CpuLocal::of(number).ok_or(Error::Invalid)?;
    let page = TRAMPOLINE.load(Ordering::Relaxed);
    if page == 0 || local.running.load(Ordering::Relaxed) != 0 {
        return Err(Error::Unsupported);
    }
    let _one = STARTING.lock();
    paging::map_direct(PhysAddr(page), 4096)?;
    let start = &raw const coracle_trampoline;
    let len = (&raw const coracle_trampoline_end) as usize - start as usize;
    let at = memory::direct::<u8>(PhysAddr(page));
    // SAFETY: the page is reserved for this, and mapped; the code is shorter than 0xf00 bytes.
    unsafe {
        core::ptr::copy_nonoverlapping(start, at, len.min(0xe00));
        at.add(0xf00).cast::<[u64; 4]>().write([
            crate::boot::identity_root(),
            ap_main as *const () as u64,
            stack_top.0,
            (&raw const *local) as u64,
        ]);
    }
    ENTRY.store(entry as *const () as u64, Ordering::Release);
    STARTED.store(0, Ordering::Release);
    apic::send_init(local.apic_id());
    let begin = clock::now_ns();
    wait_until(begin + 20_000);
    while clock::now_ns() < begin + PATIENCE_NS {
        apic::send_start(local.apic_id(), page);
        let again = clock::now_ns() + AGAIN_NS;
        if wait_until(again) {
            return Ok(());
        }
    }
    Err(Error::Device("the CPU did not start"))
}

fn wait_until(deadline: u64) -> bool {
    while clock::now_ns() < deadline {
        if STARTED.load(Ordering::Acquire) != 0 {
            return true;
        }
        core::hint::spin_loop();
    }
    false
}

/// First Rust code of another CPU, on the stack that it was given, with the identity map still there.
extern "C" fn ap_main(local: &'static CpuLocal) -> ! {
    // SAFETY: the kernel's root maps this code and stack.
    unsafe { arch::set_cr3(paging::kernel_root_phys()) };
    features::init_this_cpu();
    // SAFETY: this CPU's own block, interrupts disabled.
    unsafe { local.enter() };
    paging::flush_local(hal_core::mmu::Flush::All);
    apic::init_this_cpu();
    timer::init_this_cpu();
    // SAFETY: `start` stored a `fn(usize) -> !` there.
    let entry: fn(usize) -> ! = unsafe { core::mem::transmute(ENTRY.load(Ordering::Acquire) as usize) };
    STARTED.store(1, Ordering::Release);
    entry(hal_core::percpu::cpu_id())
}
