//! A program in a VM (by the `coracle` command) or, for checking the tests themselves, on the host.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::client::Peer;
use crate::network::Network;
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome};
use crate::run::{Group, Scratch, code_of, free_port, retry, tail};

/// What to run.
#[derive(Clone, Default)]
pub struct Spec {
    /// A name for messages.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// The port in the guest, when it serves one.
    pub port: Option<u16>,
    /// More arguments for `coracle run`.
    pub options: Vec<String>,
    /// Environment of the program.
    pub env: Vec<(String, String)>,
    /// Memory, as `-m` takes it.
    pub memory: String,
    /// The whole run may take so long.
    pub limit: Duration,
    /// Its stdin is a pipe.
    pub stdin: bool,
    /// A tap device to use instead of QEMU's network, whose listener takes two connections at a time.
    pub network: Option<Arc<Network>>,
}

impl Spec {
    /// A program with arguments.
    pub fn new(name: &str, program: impl Into<PathBuf>, args: &[&str]) -> Spec {
        Spec {
            name: name.to_owned(),
            program: program.into(),
            args: args.iter().map(|&a| a.to_owned()).collect(),
            memory: "512M".into(),
            limit: Duration::from_secs(120),
            ..Spec::default()
        }
    }

    fn has_tap(&self) -> bool {
        matches!(self.network.as_deref(), Some(Network::Tap(..)))
    }

    /// It serves at this port.
    pub fn port(mut self, port: u16) -> Spec {
        self.port = Some(port);
        self
    }

    /// More arguments for `coracle run`.
    pub fn options(mut self, options: &[&str]) -> Spec {
        self.options.extend(options.iter().map(|&o| o.to_owned()));
        self
    }

    /// Another time limit for the whole run.
    pub fn limit(mut self, seconds: u64) -> Spec {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Another size of memory.
    pub fn memory(mut self, memory: &str) -> Spec {
        self.memory = memory.to_owned();
        self
    }
}

/// A running program. Dropping it ends it.
pub struct Vm {
    group: Group,
    readers: Vec<JoinHandle<()>>,
    stdout: Arc<Mutex<Vec<u8>>>,
    everything: Arc<Mutex<Vec<u8>>>,
    name: String,
    deadline: Instant,
    started: Instant,
    /// The port that reaches it.
    pub port: u16,
    /// The same with the address: this machine's, or the guest's own on a tap device.
    pub peer: Peer,
    /// Its stdin, when it was asked for.
    pub stdin: Option<ChildStdin>,
}

impl Vm {
    /// Starts a program at a place.
    pub fn start(options: &Options, place: &Place, spec: &Spec) -> Result<Vm, String> {
        let port = match (place, spec.port) {
            (_, None) => 0,
            (Place::Host, Some(port)) => port,
            (Place::Vm { .. }, Some(port)) if spec.has_tap() => port,
            (Place::Vm { .. }, Some(_)) => free_port()?,
        };
        let command = match place {
            Place::Host => {
                let mut c = Command::new(&spec.program);
                c.args(&spec.args);
                c.envs(spec.env.iter().map(|(k, v)| (k, v)));
                c
            }
            Place::Vm { machine, cpus } => coracle(options, machine, *cpus, spec, port),
        };
        let kept = options.verbose;
        if kept {
            eprintln!("      {command:?}");
        }
        let stdin = if spec.stdin { Stdio::piped() } else { Stdio::null() };
        let started = Instant::now();
        let mut group = Group::spawn_bound(&command, stdin)?;
        let stdout = Arc::new(Mutex::new(Vec::new()));
        let everything = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        if let Some(stream) = group.0.stdout.take() {
            readers.push(collect(stream, vec![stdout.clone(), everything.clone()], kept));
        }
        if let Some(stream) = group.0.stderr.take() {
            readers.push(collect(stream, vec![everything.clone()], kept));
        }
        let stdin = group.0.stdin.take();
        Ok(Vm {
            group,
            readers,
            stdout,
            everything,
            name: spec.name.clone(),
            deadline: started + spec.limit,
            started,
            port,
            peer: match spec.network.as_deref() {
                Some(network @ Network::Tap(..)) => Peer(network.peer(port)?),
                _ => Peer::from(port),
            },
            stdin,
        })
    }

    /// The time that is left of its limit.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What it wrote to stdout so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap_or_else(|e| e.into_inner())).into_owned()
    }

    /// The same as bytes.
    pub fn stdout_bytes(&self) -> Vec<u8> {
        self.stdout.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// All that came from it so far: stdout, stderr, kernel log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&self.everything.lock().unwrap_or_else(|e| e.into_inner())).into_owned()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.group.0.try_wait(), Ok(None))
    }

    /// Tries until it works, the program ends or its time is over.
    pub fn until<T>(&mut self, what: &str, mut attempt: impl FnMut(&mut Vm) -> Result<T, String>) -> Result<T, String> {
        let limit = self.left();
        let mut gone = 0;
        let result = retry(limit, || {
            if gone > 1 {
                return Ok(Err("the program has ended".to_owned()));
            }
            if !self.runs() {
                gone += 1;
            }
            attempt(self).map(Ok)
        });
        result.and_then(|r| r).map_err(|why| format!("{what}: {why}"))
    }

    /// Waits until stdout holds this text.
    pub fn until_prints(&mut self, text: &str) -> Result<(), String> {
        self.until(&format!("waiting for {text:?}"), |vm| {
            if vm.stdout().contains(text) { Ok(()) } else { Err("not printed".into()) }
        })
    }

    /// Sends a signal to the command.
    pub fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }

    /// Waits for its end and gives the exit code.
    pub fn exit_code(&mut self) -> Result<i32, String> {
        self.stdin = None;
        let limit = self.left();
        let status = self.group.wait(limit).ok_or("it did not end within its time")?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(code_of(status))
    }

    /// The same for a program that prints all the time: when nothing new came for so long, it hangs and is ended.
    pub fn exit_code_unless_silent(&mut self, silence: Duration) -> Result<i32, String> {
        let (mut seen, mut since) = (0, Instant::now());
        while self.runs() {
            let now = self.stdout_bytes().len();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
            if since.elapsed() > silence || self.left().is_zero() {
                self.signal(Signal::KILL);
                let _ = self.exit_code();
                return Err(format!("hangs: nothing came for {} s", since.elapsed().as_secs()));
            }
            thread::sleep(Duration::from_millis(50));
        }
        self.exit_code()
    }

    /// It must end with this exit code.
    pub fn must_exit(&mut self, code: i32) -> Result<(), String> {
        match self.exit_code()? {
            c if c == code => Ok(()),
            c => Err(format!("exit code {c}, expected {code}")),
        }
    }

    /// Writes the log to a file that is kept.
    fn keep_log(&self) -> Option<PathBuf> {
        let folder = std::env::temp_dir().join("coracle-test-logs");
        std::fs::create_dir_all(&folder).ok()?;
        let name: String = self.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(format!("{name}.log"));
        File::create(&path).and_then(|mut f| f.write_all(self.log().as_bytes())).ok().map(|()| path)
    }
}

/// Starts a program, lets `drive` talk to it, and adds the end of its log to a failure.
pub fn with_vm(
    options: &Options,
    place: &Place,
    spec: &Spec,
    drive: impl FnOnce(&mut Vm) -> Result<(), Bad>,
) -> Outcome {
    let mut vm = Vm::start(options, place, spec)?;
    let outcome = drive(&mut vm);
    match outcome {
        Err(Bad::Failed(why)) => {
            thread::sleep(Duration::from_millis(100)); // the last words are still on their way
            let kept = vm.keep_log().map(|p| format!(" (all of it: {})", p.display())).unwrap_or_default();
            Err(Bad::Failed(format!("{why}\n--- the end of the log{kept}\n{}", tail(&vm.log(), 25))))
        }
        other => other,
    }
}

/// The command line of `coracle run`.
fn coracle(options: &Options, machine: &str, cpus: u32, spec: &Spec, port: u16) -> Command {
    let mut c = Command::new(&options.coracle);
    c.args(["run", "--verbose", "--accel", "tcg", "--machine", machine, "-c", &cpus.to_string(), "-m", &spec.memory]);
    if let Some(kernel) = &options.kernel {
        c.arg("--kernel").arg(kernel);
    }
    if let Some(network @ Network::Tap(name, _)) = spec.network.as_deref() {
        c.args(["--net", &format!("tap={name}"), "--ip", &network.ip_option()]);
    } else if let Some(guest) = spec.port {
        c.args(["-p", &format!("127.0.0.1:{port}:{guest}")]);
    }
    for (key, value) in &spec.env {
        c.args(["-e", &format!("{key}={value}")]);
    }
    c.args(&options.run).args(&spec.options).arg("--").arg(&spec.program).args(&spec.args);
    c
}

/// Reads a stream on a thread of its own, into these buffers.
pub fn collect(mut stream: impl Read + Send + 'static, into: Vec<Arc<Mutex<Vec<u8>>>>, show: bool) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = stream.read(&mut buffer) {
            for target in &into {
                target.lock().unwrap_or_else(|e| e.into_inner()).extend_from_slice(&buffer[..n]);
            }
            if show {
                let _ = std::io::stderr().write_all(&buffer[..n]);
            }
        }
    })
}

/// The port for a program to listen at: its usual one in a VM, a free one on the host.
pub fn port_at(place: &Place, usual: u16) -> Result<u16, String> {
    if *place == Place::Host { free_port() } else { Ok(usual) }
}

/// A scratch folder as a `DIR:/PATH` argument for `-v`.
pub fn volume(folder: &Scratch, guest: &str) -> String {
    format!("{}:{guest}", folder.path().display())
}
