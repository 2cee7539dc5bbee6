//! Resource limits (`prlimit64`).

/// Resource numbers (uapi asm-generic/resource.h).
#[allow(missing_docs)]
pub mod resource {
    pub const CPU: usize = 0;
    pub const FSIZE: usize = 1;
    pub const DATA: usize = 2;
    pub const STACK: usize = 3;
    pub const CORE: usize = 4;
    pub const RSS: usize = 5;
    pub const NPROC: usize = 6;
    pub const NOFILE: usize = 7;
    pub const MEMLOCK: usize = 8;
    pub const AS: usize = 9;
    pub const SIGPENDING: usize = 11;
    pub const MSGQUEUE: usize = 12;
    pub const NICE: usize = 13;
    pub const RTPRIO: usize = 14;
    /// How many there are.
    pub const COUNT: usize = 16;
}

/// No limit.
pub const INFINITY: u64 = u64::MAX;

/// Soft and hard limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// In force.
    pub soft: u64,
    /// The most that the soft limit may be raised to.
    pub hard: u64,
}

/// The limits of a process.
#[derive(Clone, Copy, Debug)]
pub struct Limits(pub [Limit; resource::COUNT]);

impl Limits {
    /// Those of the first process, on a machine that has memory for `threads` threads.
    pub fn initial(threads: u64) -> Self {
        let both = |n| Limit { soft: n, hard: n };
        let mut limits = [both(INFINITY); resource::COUNT];
        limits[resource::STACK].soft = 8 << 20;
        limits[resource::CORE].soft = 0;
        limits[resource::NPROC] = both(threads);
        limits[resource::NOFILE] = Limit { soft: 65536, hard: 1 << 20 };
        limits[resource::SIGPENDING] = both(threads);
        limits[resource::MSGQUEUE] = both(819_200);
        limits[resource::NICE] = both(0);
        limits[resource::RTPRIO] = both(0);
        Self(limits)
    }

    /// The soft limit of a resource.
    pub fn soft(&self, resource: usize) -> u64 {
        self.0[resource].soft
    }
}
