//! What the kernel gives the network stack: the clock, randomness, one timer whose expiry is deferred work.

use alloc::sync::Arc;

use base::Once;
use base::time::now_ns;

use crate::process::random;
use crate::sched::timer::Timer;

struct KernelEnv {
    timer: Timer,
}

impl net::Env for KernelEnv {
    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        random::fill(&mut bytes);
        u64::from_ne_bytes(bytes)
    }

    fn set_timer(&self, at_ns: u64) {
        self.timer.set(at_ns);
    }
}

/// The stack, with its timer.
pub(super) fn new_stack() -> Arc<net::Stack> {
    // The timer calls the stack, which is made with the timer.
    let stack: Arc<Once<Arc<net::Stack>>> = Arc::new(Once::new());
    let target = stack.clone();
    let timer = Timer::new(Arc::new(move || {
        if let Some(stack) = target.get() {
            stack.run_timers();
        }
    }));
    stack.call_once(|| net::Stack::new(Arc::new(KernelEnv { timer }))).clone()
}
