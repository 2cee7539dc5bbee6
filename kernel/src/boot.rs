//! The order of start-up: console and log, memory, platform, scheduler, CPUs, devices, root, first process.

use core::fmt::Display;

use cmdline::CommandLine;
use hal_core::{BootInfo, PhysAddr, memory, platform};
use log::LevelFilter;

use crate::panic::{PANIC_CODE, refuse};
use crate::{backends, chart, devices, klog, mm, sched, selftest};

/// Called by the boot code on the boot CPU's stack, interrupts disabled.
#[unsafe(no_mangle)]
extern "Rust" fn kernel_main(info: &'static BootInfo) -> ! {
    chart::begin(info.entry_tsc);
    klog::init();
    chart::mark("entry");
    hal_core::set_platform(backends::choose(info));
    mm::init(info);
    chart::mark("memory");

    let line = command_line(info);
    klog::set_level(line.log);
    for key in &line.unknown {
        log::warn!("command line: nobody knows {key:?}");
    }
    or_refuse("the platform cannot be used", platform().setup(info).map_err(Debugged));
    chart::mark("platform");

    or_refuse("the scheduler cannot start", sched::init());
    hal_core::cpu::irq_restore(true);
    sched::start_cpus();
    chart::mark("cpus");

    let text = core::str::from_utf8(info.command_line).unwrap_or("");
    devices::init(text);
    chart::mark("devices");

    if let Some(what) = line.selftest {
        selftest::run(what);
    }
    if line.chart {
        chart::print();
    }
    refuse(PANIC_CODE, format_args!("this kernel starts no program yet: give `selftest`"))
}

/// The command line, with what `params=module` adds.
fn command_line(info: &'static BootInfo) -> CommandLine {
    let parse = |texts: &[&[u8]]| {
        CommandLine::parse(texts).unwrap_or_else(|bad| {
            klog::set_level(LevelFilter::Error);
            refuse(PANIC_CODE, format_args!("{bad}"))
        })
    };
    let line = parse(&[info.command_line]);
    if !line.params_in_module {
        return line;
    }
    let Some(module) = info.modules.last() else {
        refuse(PANIC_CODE, format_args!("params=module, but the loader gave no module"));
    };
    let text = module_bytes(module.start, module.len);
    // The loader may pad it with zero bytes.
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    parse(&[info.command_line, &text[..end]])
}

/// A boot module's bytes: its memory is reserved for ever.
fn module_bytes(start: PhysAddr, len: u64) -> &'static [u8] {
    or_refuse("a boot module cannot be mapped", platform().mmu().map_direct(start, len).map_err(Debugged));
    // SAFETY: the module lies in reserved memory that nobody writes, mapped by the line above.
    unsafe { core::slice::from_raw_parts(memory::direct::<u8>(start), len as usize) }
}

/// The value, or the end of the run with code 125 and the reason.
fn or_refuse<T, E: Display>(what: &str, result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| refuse(PANIC_CODE, format_args!("{what}: {error}")))
}

/// Shows an error that has no text of its own.
struct Debugged(hal_core::Error);

impl Display for Debugged {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}
