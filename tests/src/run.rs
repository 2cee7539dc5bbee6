//! Ordinary programs on the host: run with a time limit, scratch folders, free ports, waiting for something to become true.

use std::io::Read;
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// A child with all that it starts; dropping it ends them.
pub struct Group(pub Child);

impl Group {
    /// Starts a command as the leader of a process group of its own.
    pub fn spawn(command: &mut Command) -> Result<Group, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.process_group(0).spawn().map(Group).map_err(|e| format!("cannot start {name}: {e}"))
    }

    /// The same for a command that must not outlive this program, even when this program is killed: util-linux's
    /// `setpriv` asks the kernel for that, where it is there.
    pub fn spawn_bound(command: &Command, stdin: Stdio) -> Result<Group, String> {
        let mut bound = match which("setpriv") {
            Some(setpriv) => Command::new(setpriv),
            None => Command::new(command.get_program()),
        };
        if bound.get_program() != command.get_program() {
            bound.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
        }
        bound.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => bound.env(key, value),
                None => bound.env_remove(key),
            };
        }
        bound.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        Group::spawn(&mut bound)
    }

    /// Sends a signal to the whole group.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Waits so long for its end.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + limit;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Some(status),
                Err(_) => return None,
                Ok(None) if Instant::now() >= end => return None,
                Ok(None) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

/// What a finished program left.
pub struct Finished {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// Its stdout and stderr.
    pub text: String,
}

/// Exit code of a status as a shell gives it.
pub fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Runs a command to its end, within the limit.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command)?;
    let readers: Vec<_> = [
        group.0.stdout.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
        group.0.stderr.take().map(|s| Box::new(s) as Box<dyn Read + Send>),
    ]
    .into_iter()
    .flatten()
    .map(|mut stream| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            bytes
        })
    })
    .collect();
    let status = group.wait(limit);
    group.signal(Signal::KILL); // what it left behind would hold the pipes
    drop(group);
    let bytes: Vec<u8> = readers.into_iter().filter_map(|r| r.join().ok()).flatten().collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match status {
        Some(status) => Ok(Finished { code: code_of(status), text }),
        None => Err(format!("{name} did not end within {} s; its output:\n{}", limit.as_secs(), tail(&text, 20))),
    }
}

/// Runs a command that must succeed; gives its output.
pub fn must(command: &mut Command, limit: Duration) -> Result<String, String> {
    let name = format!("{command:?}");
    let done = run(command, limit)?;
    if done.code == 0 { Ok(done.text) } else { Err(format!("{name} gave {}:\n{}", done.code, tail(&done.text, 20))) }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// The path of a program of this machine.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/bin", "/usr/local/go/bin"].map(PathBuf::from));
    folders.map(|d| d.join(name)).find(|p| p.is_file())
}

/// A TCP port that nobody listens at just now.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no free port: {e}"))?;
    listener.local_addr().map(|a| a.port()).map_err(|e| e.to_string())
}

/// Tries until it works; the last error when it does not within the limit.
pub fn retry<T>(limit: Duration, mut attempt: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let end = Instant::now() + limit;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(why) if Instant::now() >= end => return Err(format!("within {} s: {why}", limit.as_secs())),
            Err(_) => thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A folder that goes away with its owner.
pub struct Scratch(PathBuf);

static SCRATCHES: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    /// An empty folder.
    pub fn new(name: &str) -> Result<Scratch, String> {
        let n = SCRATCHES.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("coracle-tests-{}-{n}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        Ok(Scratch(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf, String> {
        let path = self.0.join(name);
        std::fs::write(&path, content).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_output_and_limits() {
        let sh = |script: &str, ms| run(Command::new("sh").args(["-c", script]), Duration::from_millis(ms));
        let done = sh("echo out; echo err >&2; exit 3", 5000).unwrap();
        assert_eq!(done.code, 3);
        assert!(done.text.contains("out") && done.text.contains("err"));
        assert_eq!(sh("kill -9 $$", 5000).unwrap().code, 137);
        assert!(sh("sleep 20", 100).is_err());
        assert!(run(&mut Command::new("/no/such"), Duration::from_secs(1)).is_err());
    }

    #[test]
    fn a_group_dies_whole() {
        let mut group = Group::spawn(Command::new("sh").args(["-c", "sleep 77 & wait"])).unwrap();
        assert!(group.wait(Duration::from_millis(50)).is_none());
        let pid = group.0.id();
        drop(group);
        thread::sleep(Duration::from_millis(50));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn retry_gives_up() {
        let mut n = 0;
        let counted = retry(Duration::from_secs(5), || {
            n += 1;
            if n < 3 { Err("not yet".into()) } else { Ok(n) }
        });
        assert_eq!(counted, Ok(3));
        assert!(retry::<()>(Duration::from_millis(30), || Err("never".into())).is_err());
    }
}
