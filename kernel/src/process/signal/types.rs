//! Numbers, sets and `siginfo` of signals (uapi asm/signal.h, asm-generic/siginfo.h).

/// Highest signal number.
pub const MAX: i32 = 64;
/// First real-time signal.
pub const RT_MIN: i32 = 32;

macro_rules! signals {
    ($($name:ident = $value:literal),* $(,)?) => {
        $(#[allow(missing_docs, dead_code, reason = "the whole list of the ABI, under its names there")] pub const $name: i32 = $value;)*

        /// The name of a signal, such as `"SIGSEGV"`.
        pub fn name(signal: i32) -> &'static str {
            match signal {
                $($value => stringify!($name),)*
                _ => "real-time signal",
            }
        }
    };
}

signals! {
    SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9,
    SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15, SIGSTKFLT = 16,
    SIGCHLD = 17, SIGCONT = 18, SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22, SIGURG = 23, SIGXCPU = 24,
    SIGXFSZ = 25, SIGVTALRM = 26, SIGPROF = 27, SIGWINCH = 28, SIGIO = 29, SIGPWR = 30, SIGSYS = 31,
}

/// A set of signals as the ABI has it: bit n - 1 for signal n.
pub type SigSet = u64;

/// The set of one signal; empty for a number that is none.
pub const fn set_of(signal: i32) -> SigSet {
    if signal >= 1 && signal <= MAX { 1 << (signal - 1) } else { 0 }
}

/// Signals that can be neither blocked, ignored nor caught.
pub const UNSTOPPABLE: SigSet = set_of(SIGKILL) | set_of(SIGSTOP);
/// Signals whose default is to stop the process.
pub const STOPPING: SigSet = set_of(SIGSTOP) | set_of(SIGTSTP) | set_of(SIGTTIN) | set_of(SIGTTOU);
/// Signals whose default is to do nothing.
pub const IGNORED_BY_DEFAULT: SigSet = set_of(SIGCHLD) | set_of(SIGURG) | set_of(SIGWINCH) | set_of(SIGCONT);
/// Signals that an instruction raises; taken before others, so that they name the instruction.
pub const SYNCHRONOUS: SigSet =
    set_of(SIGSEGV) | set_of(SIGBUS) | set_of(SIGILL) | set_of(SIGTRAP) | set_of(SIGFPE) | set_of(SIGSYS);
/// Signals whose default on Linux is a core dump; `WCOREDUMP` is not set here, since none is written.
pub const FATAL_WITH_LOG: SigSet = SYNCHRONOUS | set_of(SIGABRT);

/// `si_code` values.
#[allow(missing_docs, dead_code, reason = "names of the ABI")]
pub mod code {
    pub const USER: i32 = 0;
    pub const KERNEL: i32 = 0x80;
    pub const QUEUE: i32 = -1;
    pub const TIMER: i32 = -2;
    pub const TKILL: i32 = -6;
    pub const ILL_ILLOPN: i32 = 2;
    pub const FPE_INTDIV: i32 = 1;
    pub const FPE_FLTINV: i32 = 7;
    pub const TRAP_BRKPT: i32 = 1;
    pub const TRAP_TRACE: i32 = 2;
    pub const BUS_ADRALN: i32 = 1;
    pub const CLD_EXITED: i32 = 1;
    pub const CLD_KILLED: i32 = 2;
    pub const CLD_DUMPED: i32 = 3;
    pub const CLD_STOPPED: i32 = 5;
    pub const CLD_CONTINUED: i32 = 6;
}

/// What comes with a signal: the first 48 bytes of `siginfo_t`; the rest is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SigInfo {
    /// The signal.
    pub signo: i32,
    /// `si_errno`.
    pub errno: i32,
    /// `si_code`.
    pub code: i32,
    /// The union from offset 16 on.
    pub payload: [u64; 4],
}

/// Bytes of `siginfo_t`.
pub const SIGINFO_SIZE: usize = 128;

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl SigInfo {
    /// From the kernel, without details.
    pub const fn kernel(signo: i32) -> Self {
        Self { signo, errno: 0, code: code::KERNEL, payload: [0; 4] }
    }
    /// Sent by a process (`SI_USER`, `SI_TKILL`).
    pub fn sent(signo: i32, code: i32, pid: u32, uid: u32) -> Self {
        Self { signo, errno: 0, code, payload: [pair(pid, uid), 0, 0, 0] }
    }
    /// Raised by an access to `address`.
    pub fn fault(signo: i32, code: i32, address: u64) -> Self {
        Self { signo, errno: 0, code, payload: [address, 0, 0, 0] }
    }
    /// Expiry of POSIX timer `id`.
    pub fn timer(signo: i32, id: i32, value: u64) -> Self {
        Self { signo, errno: 0, code: code::TIMER, payload: [pair(id as u32, 0), value, 0, 0] }
    }
    /// A child changed its state; times in clock ticks.
    pub fn child(signo: i32, code: i32, pid: u32, uid: u32, status: i32, user: u64, system: u64) -> Self {
        Self { signo, errno: 0, code, payload: [pair(pid, uid), pair(status as u32, 0), user, system] }
    }
    /// The overrun count of a timer's signal.
    pub fn set_overrun(&mut self, overrun: i32) {
        self.payload[0] = pair(self.payload[0] as u32, overrun as u32);
    }
    /// As `siginfo_t`.
    pub fn to_bytes(self) -> [u8; SIGINFO_SIZE] {
        let mut bytes = [0; SIGINFO_SIZE];
        bytes[0..4].copy_from_slice(&self.signo.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.errno.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        for (slot, word) in bytes[16..48].chunks_exact_mut(8).zip(self.payload) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
    /// From a program's `siginfo_t` (at least 48 bytes), with `signo` in place of the one in it.
    pub fn from_bytes(bytes: &[u8; 48], signo: i32) -> Self {
        let word = |at: usize| u64::from_le_bytes(core::array::from_fn(|i| bytes[at + i]));
        Self {
            signo,
            errno: (word(0) >> 32) as i32,
            code: word(8) as i32,
            payload: core::array::from_fn(|i| word(16 + i * 8)),
        }
    }
}
