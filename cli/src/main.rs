//! The `coracle` command: see the library for what it does. Here: the exit code, and how errors are shown.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use coracle::args::{BuildArgs, Cli, Command, InspectArgs};
use coracle::progress::Progress;
use coracle::{EXIT_OURS, Failure, cache, cmdline, erofs, image, run};

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Build(args) => build(&args).map(|()| 0),
        Command::Inspect(args) => inspect(&args).map(|()| 0),
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

fn build(args: &BuildArgs) -> Result<()> {
    let progress = Progress::new("Looking for what the program needs", false);
    let (tree, plan) = image::plan_build(args)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let name = std::path::Path::new(&plan.program.init).file_name().unwrap_or_default();
        let mut name = name.to_owned();
        name.push(".img");
        name.into()
    });
    let latest = args.timestamp.or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok());
    cache::write(&tree, &output, &erofs::Options { latest, ..Default::default() }, &progress)?;
    drop(progress);
    for note in &plan.notes {
        eprintln!("coracle: {note}");
    }
    let (files, _) = tree.totals();
    let size = std::fs::metadata(&output)?.len();
    println!(
        "{}: {files} files, {:.1} MB; boot it with: coracle run {}",
        output.display(),
        size as f64 / 1e6,
        output.display()
    );
    Ok(())
}

fn inspect(args: &InspectArgs) -> Result<()> {
    let image = erofs::Image::open(&args.image)?;
    let info = image.info();
    let mut out = std::io::stdout().lock();
    let print = |out: &mut std::io::StdoutLock<'_>, line: String| writeln!(out, "{line}").is_ok();
    print(&mut out, format!("{}: EROFS, {} bytes, {} inodes", args.image.display(), info.bytes, info.inodes));
    if let Some(text) = image.read(cmdline::IMAGE_FILE)? {
        let program = cmdline::Program::parse(&String::from_utf8_lossy(&text))?;
        print(&mut out, format!("program: {}", program.init.display()));
        let words: Vec<_> = program.args.iter().map(|a| format!("{:?}", a.to_string_lossy())).collect();
        print(&mut out, format!("arguments: {}", words.join(" ")));
        for pair in &program.env {
            print(&mut out, format!("environment: {}", pair.display()));
        }
        print(&mut out, format!("working folder: {}", program.cwd.display()));
    } else {
        print(&mut out, "program: none (a root file system only)".into());
    }
    if args.list {
        for entry in image.list()? {
            let (uid, gid) = entry.owner;
            let line = format!("{:06o} {uid:>5} {gid:>5} {:>10} {}", entry.mode, entry.size, entry.path.display());
            if !print(&mut out, line) {
                break; // the reader has seen enough
            }
        }
    }
    Ok(())
}
