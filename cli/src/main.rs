//! The `coracle` command: see the library for what it does. Here: the exit code, and how errors are shown.

use std::process::ExitCode;

use clap::Parser;

use coracle::args::{Cli, Command};
use coracle::{EXIT_OURS, Failure, build, inspect, run};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Build(args) => build::build(&args).map(|()| 0),
        Command::Convert(args) => build::convert(&args).map(|()| 0),
        Command::Inspect(args) => inspect::inspect(&args).map(|()| 0),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = error.downcast_ref::<Failure>().map_or(EXIT_OURS, |f| f.code);
            eprintln!("coracle: {error:#}");
            ExitCode::from(code)
        }
    }
}
