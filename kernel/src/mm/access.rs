//! The instructions that touch the application's memory, and the table of their fix-ups.
//!
//! Each may fault. The table gives, for the address of each such instruction, where to go on if the page cannot
//! come, and whether the page may be waited for. It is a part of the assembly below, so the linker has nothing
//! to do with it.

use core::arch::global_asm;

/// Whether an access may wait for its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sleep {
    /// Brings the page in, sleeping if need be.
    May,
    /// Stops at a page that is not there.
    Never,
}

/// One row: offsets from the row's own fields, and 1 if the access may sleep.
#[repr(C)]
struct Row {
    instruction: i32,
    fixup: i32,
    sleep: u32,
}

// Copies: rdi to, rsi from, rdx bytes; return in rax the bytes not copied. Words first, then bytes; when a word
// faults the rest is tried by bytes, so that the count is exact. `rep` instructions keep rcx true at a fault.
macro_rules! copy_function {
    ($name:literal, $sleep:literal) => {
        concat!(
            ".global ",
            $name,
            "\n",
            $name,
            ":\n",
            "mov rcx, rdx\n",
            "shr rcx, 3\n",
            "and edx, 7\n",
            "21: rep movsq\n",
            "mov ecx, edx\n",
            "22: rep movsb\n",
            "mov rax, rcx\n",
            "ret\n",
            "23: lea rcx, [rdx + rcx*8]\n",
            "24: rep movsb\n",
            "25: mov rax, rcx\n",
            "ret\n",
            ".pushsection .rodata.user_access, \"a\"\n",
            ".long 21b - ., 23b - ., ",
            $sleep,
            "\n",
            ".long 22b - ., 25b - ., ",
            $sleep,
            "\n",
            ".long 24b - ., 25b - ., ",
            $sleep,
            "\n",
            ".popsection\n",
        )
    };
}

// Words: rdi address, for the exchange esi old and edx new; return what was there in eax, and 1 in edx for a fault.
macro_rules! word_functions {
    ($load:literal, $exchange:literal, $sleep:literal) => {
        concat!(
            ".global ",
            $load,
            "\n",
            $load,
            ":\n",
            "xor edx, edx\n",
            "31: mov eax, [rdi]\n",
            "ret\n",
            ".global ",
            $exchange,
            "\n",
            $exchange,
            ":\n",
            "mov eax, esi\n",
            "33: lock cmpxchg [rdi], edx\n",
            "mov edx, 0\n",
            "ret\n",
            "34: mov edx, 1\n",
            "ret\n",
            ".pushsection .rodata.user_access, \"a\"\n",
            ".long 31b - ., 34b - ., ",
            $sleep,
            "\n",
            ".long 33b - ., 34b - ., ",
            $sleep,
            "\n",
            ".popsection\n",
        )
    };
}

global_asm!(
    ".pushsection .rodata.user_access, \"a\"",
    ".balign 4",
    ".global coracle_user_access_table",
    "coracle_user_access_table:",
    ".popsection",
    ".pushsection .text.user_access, \"ax\"",
    copy_function!("coracle_user_copy", "1"),
    copy_function!("coracle_user_copy_nosleep", "0"),
    word_functions!("coracle_user_load", "coracle_user_cmpxchg", "1"),
    word_functions!("coracle_user_load_nosleep", "coracle_user_cmpxchg_nosleep", "0"),
    ".popsection",
    ".pushsection .rodata.user_access, \"a\"",
    ".global coracle_user_access_table_end",
    "coracle_user_access_table_end:",
    ".popsection",
);

/// A word and whether reading it faulted, in rax and rdx.
#[repr(C)]
struct Loaded {
    value: u64,
    faulted: u64,
}

unsafe extern "C" {
    static coracle_user_access_table: Row;
    static coracle_user_access_table_end: Row;
    fn coracle_user_copy(to: usize, from: usize, len: usize) -> usize;
    fn coracle_user_copy_nosleep(to: usize, from: usize, len: usize) -> usize;
    fn coracle_user_load(address: usize) -> Loaded;
    fn coracle_user_load_nosleep(address: usize) -> Loaded;
    fn coracle_user_cmpxchg(address: usize, old: u32, new: u32) -> Loaded;
    fn coracle_user_cmpxchg_nosleep(address: usize, old: u32, new: u32) -> Loaded;
}

/// Copies `len` bytes; returns how many were not copied because a page was missing.
///
/// # Safety
/// Of the two ranges one is the application's (checked), the other the kernel's and valid.
#[inline]
pub unsafe fn copy(to: usize, from: usize, len: usize, sleep: Sleep) -> usize {
    // SAFETY: by the caller; faults are fixed up.
    unsafe {
        match sleep {
            Sleep::May => coracle_user_copy(to, from, len),
            Sleep::Never => coracle_user_copy_nosleep(to, from, len),
        }
    }
}

/// Reads a word; `None` if its page cannot come.
///
/// # Safety
/// The address is the application's and aligned.
pub unsafe fn load(address: usize, sleep: Sleep) -> Option<u32> {
    // SAFETY: by the caller; a fault is fixed up.
    let loaded = unsafe {
        match sleep {
            Sleep::May => coracle_user_load(address),
            Sleep::Never => coracle_user_load_nosleep(address),
        }
    };
    (loaded.faulted == 0).then_some(loaded.value as u32)
}

/// Stores `new` if the word is `old`; returns what it was, or `None` if its page cannot come.
///
/// # Safety
/// As [`load`].
pub unsafe fn compare_exchange(address: usize, old: u32, new: u32, sleep: Sleep) -> Option<u32> {
    // SAFETY: by the caller; a fault is fixed up.
    let loaded = unsafe {
        match sleep {
            Sleep::May => coracle_user_cmpxchg(address, old, new),
            Sleep::Never => coracle_user_cmpxchg_nosleep(address, old, new),
        }
    };
    (loaded.faulted == 0).then_some(loaded.value as u32)
}

/// The fix-up for a fault at `ip`.
pub fn find_fixup(ip: u64) -> Option<(u64, Sleep)> {
    let (start, end) = (&raw const coracle_user_access_table, &raw const coracle_user_access_table_end);
    // SAFETY: the rows lie between the two labels and are never written.
    let rows = unsafe { core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) };
    rows.iter().find_map(|row| {
        let at = |field: &i32| (core::ptr::from_ref(field) as u64).wrapping_add_signed(i64::from(*field));
        (at(&row.instruction) == ip).then(|| {
            let sleep = if row.sleep == 1 { Sleep::May } else { Sleep::Never };
            (at(&row.fixup), sleep)
        })
    })
}
