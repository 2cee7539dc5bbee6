//! The order of start-up: console and log, memory, platform, scheduler, CPUs, devices, root, first process.

use core::fmt::Display;

use cmdline::CommandLine;
use hal_core::{BootInfo, PhysAddr, memory, platform};
use log::LevelFilter;

use crate::panic::{PANIC_CODE, refuse};
use crate::process::exec::{Init, Strings, spawn_init};
use crate::{backends, chart, devices, files, klog, mm, sched, selftest, sockets};

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
    files::system::set_kernel_command_line(text);
    chart::mark("devices");

    if let Some(what) = line.selftest {
        if line.chart {
            chart::print();
        }
        selftest::run(what);
    }
    start_program(info, line)
}

/// Mounts the root and starts the first process; the boot thread ends here.
fn start_program(info: &'static BootInfo, mut line: CommandLine) -> ! {
    let root = or_refuse("the root cannot be mounted", files::root::mount(root_source(info, &line)));
    chart::mark("root");
    if line.init.is_none() {
        let own = or_refuse("/.coracle/cmdline cannot be read", files::root::own_command_line(&root));
        let texts = [own.as_deref().unwrap_or_default(), info.command_line];
        line = CommandLine::parse(&texts).unwrap_or_else(|bad| refuse(PANIC_CODE, format_args!("{bad}")));
    }
    if let Err(error) = files::set_hostname(line.hostname.as_bytes()) {
        refuse(PANIC_CODE, format_args!("hostname={}: {error}", line.hostname));
    }
    files::set_kernel_command_line(core::str::from_utf8(info.command_line).unwrap_or(""));
    let Some(path) = line.init.clone() else {
        refuse(
            PANIC_CODE,
            format_args!("no program: neither the command line nor the image's /.coracle/cmdline has init="),
        )
    };
    devices::console::start(match line.console {
        Some(cmdline::Console::Driver(_)) => devices::console::Choice::Device,
        _ => devices::console::Choice::Platform,
    });
    let stdio =
        files::stdio::Options { terminal: line.tty.then_some(line.winsize), framing: line.framing, input: line.stdin };
    let descriptors = or_refuse("the console cannot be opened", files::stdio::open(&stdio));
    let strings = Strings { arguments: line.argv(), environment: line.env.clone() };
    if line.chart {
        chart::want();
    }
    sockets::init(&line.ip, &line.ip6);
    if let Err(error) = sockets::provide_resolv_conf(&root) {
        log::warn!("/etc/resolv.conf cannot be provided: {error}");
    }
    chart::mark("network");
    let init = Init { path, strings, cwd: line.cwd.clone(), root, files: descriptors };
    if let Err(error) = spawn_init(init) {
        refuse(
            PANIC_CODE,
            format_args!(
                "the first process cannot be started (working directory {:?}): {error}",
                alloc::string::String::from_utf8_lossy(&line.cwd)
            ),
        );
    }
    sched::exit_current()
}

/// Where the root is: as the command line says, else on a disk or partition that holds one, else in the first module.
fn root_source(info: &'static BootInfo, line: &CommandLine) -> files::root::Source {
    let on_disk = match &line.root {
        Some(cmdline::Root::Disk) => Some(or_refuse("no root", files::root::find())),
        Some(cmdline::Root::Volume(name)) => Some(or_refuse("no root", files::root::named(name))),
        Some(cmdline::Root::Module) => None,
        None if info.modules.is_empty() => Some(or_refuse("no root", files::root::find())),
        None => files::root::find().ok(),
    };
    if let Some(volume) = on_disk {
        return files::root::Source::Volume(volume);
    }
    let Some(module) = info.modules.first() else {
        refuse(PANIC_CODE, format_args!("no root: root=module, but the loader gave no module"))
    };
    files::root::Source::Module(module_bytes(module.start, module.len))
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
