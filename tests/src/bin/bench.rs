//! Measures Coracle beside a Linux guest and prints a Markdown table; `--write` puts it into docs/performance.md.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use tests::bench::System;
use tests::bench::linux;
use tests::bench::measure::{Bench, plugin};
use tests::bench::table::Table;
use tests::compile::folder;
use tests::network::Network;
use tests::report::put_between;
use tests::run::{Scratch, must};

const USAGE: &str = "usage: bench [--runs N] [--only PART] [--system linux|coracle] [--write]
  PART: size, hello, redis, nginx, micro, memory (may be given more than once)
  --runs N     how often each timed thing is measured [default: 5]
  --write      put the table into docs/performance.md
  $CORACLE and $CORACLE_KERNEL name the command and the kernel; `./x bench` sets them";

struct Wanted {
    runs: usize,
    parts: Vec<String>,
    systems: Vec<System>,
    write: bool,
}

fn wanted() -> Option<Wanted> {
    let mut w = Wanted { runs: 5, parts: vec![], systems: vec![System::Linux, System::Coracle], write: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => w.runs = args.next()?.parse().ok()?,
            "--only" => w.parts.push(args.next()?),
            "--system" if args.len() > 0 => {
                w.systems = match args.next()?.as_str() {
                    "linux" => vec![System::Linux],
                    "coracle" => vec![System::Coracle],
                    _ => return None,
                }
            }
            "--write" => w.write = true,
            _ => return None,
        }
    }
    Some(w)
}

fn first_line(command: &str, args: &[&str]) -> String {
    let text = must(Command::new(command).args(args), Duration::from_secs(10)).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

/// Date, machine and versions, as every table needs them.
fn circumstances(bench: &Bench) -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map(|l| l.trim_start_matches([' ', '\t', ':']))
        .unwrap_or("a CPU");
    let cpus = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
    format!(
        "Measured on {}, on a machine with {cpus} x {model}. Guests: {} with emulation (TCG), `-machine q35 -cpu max -smp 1 -m 512M`, {}, virtio-blk. \
         Linux is Debian's {} with `mitigations=off` and an initramfs that holds the program. Medians of {} alternating runs; instruction counts are of one run.",
        first_line("date", &["-u", "+%Y-%m-%d"]),
        first_line("qemu-system-x86_64", &["--version"]),
        bench.network.words(),
        bench.linux.version,
        bench.runs,
    )
}

fn run(wanted: Wanted) -> Result<bool, String> {
    let coracle: PathBuf = std::env::var_os("CORACLE").unwrap_or_else(|| "coracle".into()).into();
    let kernel: PathBuf = std::env::var_os("CORACLE_KERNEL").map(Into::into).unwrap_or_default();
    if wanted.systems.contains(&System::Coracle) && !kernel.exists() {
        return Err(format!("no kernel: CORACLE_KERNEL is {:?}; ./x bench sets it", kernel));
    }
    let mut bench = Bench {
        linux: linux::kernel()?,
        kernel,
        coracle,
        network: Network::set_up(1).pin(),
        plugin: plugin()?,
        scratch: Scratch::new("bench")?,
        systems: wanted.systems,
        runs: wanted.runs,
        table: Table::default(),
    };
    type Part = fn(&mut Bench);
    let parts: [(&str, Part); 6] = [
        ("size", Bench::size),
        ("hello", Bench::hello),
        ("redis", Bench::redis),
        ("nginx", Bench::nginx),
        ("micro", Bench::micro),
        ("memory", Bench::memory),
    ];
    for (name, part) in parts {
        if wanted.parts.is_empty() || wanted.parts.iter().any(|p| p == name) {
            println!("bench: {name}");
            part(&mut bench);
        }
    }
    let text = format!("{}\n\n{}", circumstances(&bench), bench.table.markdown());
    println!("\n{text}");
    if wanted.write {
        put_between(&folder().join("../docs/performance.md"), "bench", &text)?;
    }
    Ok(!bench.table.has_notes())
}

fn main() -> ExitCode {
    let Some(wanted) = wanted() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(wanted) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("bench: {why}");
            ExitCode::FAILURE
        }
    }
}
