//! `./x matrix`: the one image on every hypervisor, as a table.

use std::process::ExitCode;

use tests::matrix::apps::APPS;
use tests::matrix::cells::CELLS;
use tests::matrix::{self, Choice, compare};
use tests::options::Options;

const USAGE: &str = "usage: matrix [--full] [--apps] [--cell NAME]... [--compare [--rounds N]] [--write] [--list] [--verbose]
  --full         every cell [default: those that ./x test runs]
  --apps         programs with images of their own (Redis, nginx, Python) on Xen PV; with --full, those too
  --cell NAME    only this one, or those whose names begin so (may be given more than once)
  --compare      beside a Linux guest of the same kind, in the labs; --cell chooses among those cells, --rounds N [default: 3] says
                 how often, --write puts the table into docs/performance.md
  --write        put the table into docs/matrix.md
  --list         name the cells
  --verbose      show what the machines print
  $CORACLE and $CORACLE_KERNEL name the command and the kernel; `./x matrix` sets them";

fn list() {
    for cell in CELLS.iter().chain(APPS.iter().map(|app| &app.cell)) {
        let where_it_runs = cell.lab().map_or("this machine".to_owned(), |lab| format!("lab {lab:?}"));
        println!(
            "{:22} {:12} {} CPU  {where_it_runs}{}",
            cell.name,
            cell.boot.words(),
            cell.cpus,
            if cell.fast { ", in ./x test" } else { "" }
        );
    }
}

fn run() -> Result<bool, String> {
    let (mut choice, mut verbose) = (Choice::default(), false);
    let (mut compared, mut rounds, mut write) = (false, 3, false);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--full" => choice.full = true,
            "--apps" => choice.apps = true,
            "--cell" => choice.named.push(args.next().ok_or_else(|| format!("--cell needs a name\n{USAGE}"))?),
            "--compare" => compared = true,
            "--write" => write = true,
            "--rounds" => {
                let number = args.next().and_then(|n| n.parse().ok()).filter(|n| (1..100).contains(n));
                rounds = number.ok_or_else(|| format!("--rounds needs a number\n{USAGE}"))?;
            }
            "--verbose" => verbose = true,
            "--list" => {
                list();
                return Ok(true);
            }
            _ => return Err(format!("unknown argument {arg}\n{USAGE}")),
        }
    }
    let mut options = Options::parse(["matrix".to_owned()].into_iter())?;
    options.verbose = verbose;
    if compared {
        return compare::run(&options, &choice.named, rounds, write);
    }
    choice.write = write;
    matrix::run(&options, &choice)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("matrix: {why}");
            println!("suite matrix: 0 passed, 1 failed, 0 skipped");
            ExitCode::FAILURE
        }
    }
}
