//! The client inside a lab: makes a machine by a command, does the matrix' exchange with it, and says how it went on lines that begin
//! with `@cell`. It runs in L1, beside the hypervisor.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use tests::apps::App;
use tests::exchange::{self, Facts, Target};
use tests::run::tail;

const USAGE: &str = "usage: visit NAME --http ADDRESS --redis ADDRESS --console FILE --second FILE --seconds N [--app NAME] [--alive COMMAND] [--after COMMAND] -- COMMAND...
  --console FILE   where the machine's console is written to
  --second FILE    what is behind the machine's second disk
  --app NAME       the machine has this program alone: redis, nginx, python [default: the one image]
  --after COMMAND  makes that file, when the machine has ended
  --alive COMMAND  succeeds while the machine is there [default: while COMMAND... runs]";

struct Wanted {
    name: String,
    http: SocketAddr,
    redis: SocketAddr,
    console: PathBuf,
    second: PathBuf,
    limit: Duration,
    app: Option<App>,
    alive: Option<String>,
    after: Option<String>,
    command: Vec<String>,
}

fn wanted() -> Option<Wanted> {
    let mut args = std::env::args().skip(1);
    let name = args.next()?;
    let (mut http, mut redis, mut console, mut second, mut limit) = (None, None, None, None, None);
    let (mut app, mut alive, mut after) = (None, None, None);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--http" => http = args.next()?.parse().ok(),
            "--redis" => redis = args.next()?.parse().ok(),
            "--console" => console = args.next().map(PathBuf::from),
            "--second" => second = args.next().map(PathBuf::from),
            "--seconds" => limit = args.next()?.parse().ok().map(Duration::from_secs),
            "--app" => {
                let name = args.next()?;
                app = Some(App::ALL.into_iter().find(|app| app.name() == name)?);
            }
            "--alive" => alive = args.next(),
            "--after" => after = args.next(),
            "--" => break,
            _ => return None,
        }
    }
    let command: Vec<String> = args.collect();
    (!command.is_empty()).then_some(Wanted {
        name,
        http: http?,
        redis: redis?,
        console: console?,
        second: second?,
        limit: limit?,
        app,
        alive,
        after,
        command,
    })
}

/// Runs a line of shell; whether it succeeded.
fn shell(line: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", line]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|s| s.success())
}

/// The machine: by its own command, or by the process that made it.
struct Machine<'a> {
    child: Child,
    alive: Option<&'a str>,
    looked: Instant,
}

impl Machine<'_> {
    fn alive(&mut self) -> bool {
        let status = self.child.try_wait().ok().flatten();
        let Some(command) = self.alive else { return status.is_none() };
        match status {
            None => true,
            Some(status) if !status.success() => false,
            Some(_) => shell(command),
        }
    }

    /// Asked often, looks once a second: the command costs CPU time that the machine needs.
    fn seldom(&mut self) -> Result<(), String> {
        if self.looked.elapsed() < Duration::from_secs(1) {
            return Ok(());
        }
        let alive = self.alive();
        self.looked = Instant::now();
        if alive { Ok(()) } else { Err("the machine has ended, or was never made".into()) }
    }
}

fn visit(w: &Wanted) -> Result<Facts, String> {
    let created = Instant::now();
    let (program, args) = w.command.split_first().ok_or("no command")?;
    let child = Command::new(program).args(args).stdin(Stdio::null()).spawn().map_err(|e| format!("{program}: {e}"))?;
    let mut machine = Machine { child, alive: w.alive.as_deref(), looked: created };
    let target = Target { http: w.http, redis: w.redis, created, deadline: created + w.limit };
    let ask = w.app.map_or(exchange::hello as fn(&Target) -> Result<(), String>, App::ask);
    let first = exchange::first_answer(&target, ask, || machine.seldom())?;
    println!("@cell {} answers", w.name);
    let done = &mut |part: &str| println!("@cell {} part {part}", w.name);
    let mut facts = match w.app {
        Some(app) => app.drive(&target, done)?,
        None => exchange::exchange(&target, done).and_then(|facts| exchange::end(&target).map(|()| facts))?,
    };
    facts.0.push(("first".into(), format!("{first:.2}")));
    while machine.alive() {
        if Instant::now() > target.deadline + Duration::from_secs(20) {
            return Err("it was told to end and is still there".into());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // what is behind the console may write it a moment later
    let text = || String::from_utf8_lossy(&std::fs::read(&w.console).unwrap_or_default()).into_owned();
    let code = w.app.map_or(exchange::CODE, App::code);
    for _ in 0..20 {
        if exchange::ended_with(&text(), code) {
            if let Some(app) = w.app {
                app.check_console(&text())?;
                return Ok(facts);
            }
            if let Some(command) = &w.after
                && !shell(command)
            {
                return Err(format!("{command} failed"));
            }
            exchange::check_second(&w.second)?;
            return Ok(facts);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Err(format!("the console does not show the exit code {code}"))
}

fn main() -> ExitCode {
    let Some(w) = wanted() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("@cell {} begins", w.name);
    match visit(&w) {
        Ok(facts) => {
            println!("@cell {} passed {}", w.name, facts.line());
            ExitCode::SUCCESS
        }
        Err(why) => {
            let text = std::fs::read(&w.console).unwrap_or_default();
            for line in tail(&String::from_utf8_lossy(&text), 40).lines() {
                println!("@cell {} log {}", w.name, line.trim_end());
            }
            println!("@cell {} failed {}", w.name, why.replace(['\n', '\r'], " "));
            ExitCode::FAILURE
        }
    }
}
