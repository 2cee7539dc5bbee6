//! The boot chart: when each phase of start-up ended, in microseconds, and in instructions where the machine counts
//! one tick per instruction (QEMU's `-icount shift=0`).

use core::sync::atomic::{AtomicBool, Ordering};

use base::SpinLock;
use hal_core::clock;

const MAX_MARKS: usize = 32;

struct Chart {
    marks: [(&'static str, u64); MAX_MARKS],
    count: usize,
    start: u64,
}

static CHART: SpinLock<Chart> = SpinLock::new(Chart { marks: [("", 0); MAX_MARKS], count: 0, start: 0 });

/// Sets the moment from which phases count: the kernel's first instruction.
pub fn begin(entry_tsc: u64) {
    CHART.lock().start = entry_tsc;
}

/// Records that `phase` ended now.
pub fn mark(phase: &'static str) {
    let now = clock::tsc();
    let mut chart = CHART.lock();
    let index = chart.count;
    if let Some(slot) = chart.marks.get_mut(index) {
        *slot = (phase, now);
        chart.count += 1;
    }
}

static WANTED: AtomicBool = AtomicBool::new(false);

/// Tells that the chart shall be printed when the program starts.
pub fn want() {
    WANTED.store(true, Ordering::Relaxed);
}

/// The first program is loaded and runs next: prints the chart, if it is wanted, and the line that says so.
pub fn program_starts() {
    mark("program");
    if WANTED.swap(false, Ordering::Relaxed) {
        print();
        crate::klog::control(format_args!("coracle:start"));
    }
}

/// Prints one log line per phase, whatever the log level. Under `-icount shift=0` a tick is an instruction.
pub fn print() {
    let khz = hal_core::platform().clock().tsc_khz().max(1);
    let chart = CHART.lock();
    let mut last = chart.start;
    for &(phase, at) in &chart.marks[..chart.count] {
        let (ticks, total) = (at.saturating_sub(last), at.saturating_sub(chart.start));
        crate::klog::always(format_args!(
            "chart: {phase:<14} {:>8} us, total {:>8} us ({ticks:>10} ticks, {total:>10} in all)",
            ticks * 1000 / khz,
            total * 1000 / khz,
        ));
        last = at;
    }
}
