//! What is measured, and how.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::guest::{Boot, Guest};
use super::linux::{self, Kernel};
use super::table::{Better, Table};
use super::{System, Workload, coracle};
use crate::compile::{Variant, c_program, folder, output};
use crate::e2e::http::nginx_conf;
use crate::network::Network;
use crate::run::{Scratch, must, tail, which};

/// All that a measurement needs.
pub struct Bench {
    /// Linux's kernel.
    pub linux: Kernel,
    /// Ours.
    pub kernel: PathBuf,
    /// The `coracle` command.
    pub coracle: PathBuf,
    /// How guests are reached.
    pub network: Network,
    /// The instruction counter.
    pub plugin: PathBuf,
    /// Images and other files of this run.
    pub scratch: Scratch,
    /// Which systems are measured.
    pub systems: Vec<System>,
    /// How often each timed thing is measured.
    pub runs: usize,
    /// Samples.
    pub table: Table,
}

const MEMORY: u32 = 512;
const UP: Duration = Duration::from_secs(60);

/// Builds the plugin.
pub fn plugin() -> Result<PathBuf, String> {
    let to = output()?.join("insn_count.so");
    let source = folder().join("bench/insn_count.c");
    must(Command::new("gcc").args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-o"]).arg(&to).arg(source), UP)?;
    Ok(to)
}

/// Redis' reply to PING, asked for in short steps so that the moment is sharp.
fn pong(guest: &mut Guest) -> Result<Duration, String> {
    use std::io::{Read, Write};
    let end = Instant::now() + UP;
    loop {
        if let Ok(mut s) = TcpStream::connect_timeout(&guest.address, Duration::from_millis(30)) {
            let mut answer = [0; 7];
            let asked = s
                .set_read_timeout(Some(Duration::from_millis(300)))
                .and_then(|()| s.write_all(b"PING\r\n"))
                .and_then(|()| s.read_exact(&mut answer));
            if asked.is_ok() && &answer == b"+PONG\r\n" {
                return Ok(guest.started.elapsed());
            }
        }
        if !guest.runs() || Instant::now() > end {
            return Err(format!("no PONG:\n{}", tail(&guest.text(), 15)));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

impl Bench {
    /// The image of a workload for a system, made once.
    fn image(&self, system: System, work: &Workload) -> Result<PathBuf, String> {
        let path = self.scratch.path().join(format!("{}.{system}", work.name));
        if !path.exists() {
            match system {
                System::Linux => {
                    linux::initramfs(&self.linux, work, work.port.map(|_| self.network.guest()).as_deref(), &path)?
                }
                System::Coracle => coracle::image(&self.coracle, work, &path)?,
            }
        }
        Ok(path)
    }

    fn start(&self, system: System, work: &Workload, change: impl FnOnce(&mut Boot)) -> Result<Guest, String> {
        let image = self.image(system, work)?;
        let kernel: &Path = if system == System::Linux { &self.linux.image } else { &self.kernel };
        let network = work.port.map(|_| &self.network);
        let mut boot = Boot {
            system,
            kernel,
            image: &image,
            memory: MEMORY,
            cpus: 1,
            network,
            port: work.port,
            plugin: None,
            append: String::new(),
            qemu: vec![],
        };
        change(&mut boot);
        Guest::start(&boot, self.scratch.path())
    }

    /// Runs `measure` for every system, alternating, so often; what goes wrong becomes a note.
    fn alternate(
        &mut self,
        what: &str,
        runs: usize,
        mut measure: impl FnMut(&mut Bench, System) -> Result<(), String>,
    ) {
        for _ in 0..runs {
            for system in self.systems.clone() {
                if let Err(why) = measure(self, system) {
                    self.table.note(format!("{what} on {system}: {why}"));
                }
            }
        }
    }

    /// Boot to the first PONG, then SET and GET with 30 connections, alone and 16 at a time.
    pub fn redis(&mut self) {
        let Some(server) = which("redis-server") else {
            return self.table.note("Redis: redis-server is not installed".into());
        };
        let mut command = vec![server.display().to_string()];
        command.extend(["--protected-mode", "no", "--save", "", "--dir", "/tmp"].map(String::from));
        let work = Workload { name: "redis".into(), command, files: vec![], port: Some(6379) };
        let runs = self.runs;
        self.alternate("Redis", runs, |b, system| {
            let mut guest = b.start(system, &work, |_| {})?;
            let up = pong(&mut guest)?;
            b.table.add("QEMU's start to first PONG, s", Better::Less, system, up.as_secs_f64());
            for (depth, n, words) in [(1, 30_000, "30 connections"), (16, 200_000, "30 connections, -P 16")] {
                for (name, value) in redis_benchmark(&guest, n, depth, "set,get")? {
                    b.table.add(&format!("Redis {name}, requests/s, {words}"), Better::More, system, value);
                }
            }
            Ok(())
        });
        self.alternate("Redis instructions", 1, |b, system| {
            let plugin = b.plugin.clone();
            let mut guest = b.start(system, &work, |boot| boot.plugin = Some(plugin))?;
            pong(&mut guest)?;
            let (low, high) = guest.instructions()?;
            b.table.add(
                "instructions to first PONG, millions (firmware and Redis included)",
                Better::Less,
                system,
                (low + high) as f64 / 1e6,
            );
            redis_benchmark(&guest, 2_000, 1, "get")?; // warm
            for (depth, n, words) in [(1, 20_000u64, ""), (16, 100_000, " with -P 16")] {
                let before = guest.instructions()?;
                redis_benchmark(&guest, n, depth, "get")?;
                let after = guest.instructions()?;
                let per = |a: u64, b: u64| (a - b) as f64 / n as f64;
                b.table.add(
                    &format!("instructions per GET{words}: program"),
                    Better::Less,
                    system,
                    per(after.0, before.0),
                );
                b.table.add(
                    &format!("instructions per GET{words}: kernel"),
                    Better::Less,
                    system,
                    per(after.1, before.1),
                );
                let all = per(after.0 + after.1, before.0 + before.1);
                b.table.add(&format!("instructions per GET{words}: both"), Better::Less, system, all);
            }
            let before = guest.instructions()?;
            thread::sleep(Duration::from_secs(5));
            let after = guest.instructions()?;
            let idle = (after.0 + after.1 - before.0 - before.1) as f64 / 5e6;
            b.table.add(
                "instructions per second when idle, millions (Redis' own timer included)",
                Better::Less,
                system,
                idle,
            );
            Ok(())
        });
    }

    /// nginx with a small file, 30 kept connections.
    pub fn nginx(&mut self) {
        let (Some(nginx), Some(wrk)) = (which("nginx"), which("wrk")) else {
            return self.table.note("nginx: needs nginx and wrk (Debian: nginx-light, wrk)".into());
        };
        let site = self.scratch.path().join("www");
        let conf = site.join("nginx.conf");
        let made = std::fs::create_dir_all(&site)
            .and_then(|()| std::fs::write(site.join("index.html"), "x".repeat(612)))
            .and_then(|()| std::fs::write(&conf, nginx_conf(8080, &site, 1)));
        if let Err(why) = made {
            return self.table.note(format!("nginx: {why}"));
        }
        let command =
            [nginx.display().to_string(), "-e".into(), "stderr".into(), "-c".into(), conf.display().to_string()];
        let work = Workload { name: "nginx".into(), command: command.into(), files: vec![site], port: Some(8080) };
        let runs = self.runs;
        self.alternate("nginx", runs, |b, system| {
            let mut guest = b.start(system, &work, |_| {})?;
            let url = format!("http://{}/index.html", guest.address);
            let end = Instant::now() + UP;
            let mut curl = Command::new("curl");
            curl.args(["--noproxy", "*", "-sSf", "-m", "1", "-o", "/dev/null", &url]);
            while let Err(why) = must(&mut curl, UP) {
                if !guest.runs() || Instant::now() > end {
                    return Err(format!("no answer: {}\n{:?}", why.replace('\n', " "), tail(&guest.text(), 15)));
                }
            }
            let text = must(Command::new(&wrk).args(["-t1", "-c30", "-d5s", &url]), UP)?;
            if text.contains("Socket errors") || text.contains("Non-2xx") {
                return Err(format!("wrk saw errors: {text}"));
            }
            let rate = text.lines().find_map(|l| l.strip_prefix("Requests/sec:")).and_then(|r| r.trim().parse().ok());
            b.table.add(
                "nginx, requests/s, 612 bytes, 30 connections",
                Better::More,
                system,
                rate.ok_or("wrk gave no rate")?,
            );
            Ok(())
        });
    }

    /// The guest's own loops: time per operation, and instructions per operation in a run with the plugin.
    pub fn micro(&mut self) {
        let program = match c_program(&folder().join("bench/micro.c"), Variant::GlibcStatic) {
            Ok(program) => program,
            Err(why) => return self.table.note(format!("micro: {why}")),
        };
        let work =
            Workload { name: "micro".into(), command: vec![program.display().to_string()], files: vec![], port: None };
        let runs = self.runs;
        self.alternate("micro", runs, |b, system| {
            let mut guest = b.start(system, &work, |_| {})?;
            let done = guest.until_prints("all done", UP);
            for line in guest.text().lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["end", name, n, ns] = words[..]
                    && let (Ok(n), Ok(ns)) = (n.parse::<f64>(), ns.parse::<f64>())
                {
                    b.table.add(&format!("{}, ns", micro_name(name)), Better::Less, system, ns / n);
                }
            }
            done
        });
        self.alternate("micro instructions", 1, |b, system| {
            let plugin = b.plugin.clone();
            let mut guest = b.start(system, &work, |boot| boot.plugin = Some(plugin))?;
            let mut seen: BTreeMap<String, u64> = BTreeMap::new();
            let end = Instant::now() + 2 * UP;
            loop {
                let running = guest.runs();
                let (low, high) = guest.instructions().unwrap_or_default();
                let text = guest.text();
                let complete = &text[..text.rfind('\n').map_or(0, |at| at + 1)];
                for line in complete.lines() {
                    seen.entry(line.trim().to_owned()).or_insert(low + high);
                }
                if complete.contains("all done") {
                    break;
                }
                if !running || Instant::now() > end {
                    return Err(format!("not all came:\n{}", tail(&text, 12)));
                }
                thread::sleep(Duration::from_micros(200));
            }
            for (line, at) in &seen {
                let words: Vec<&str> = line.split_whitespace().collect();
                if let ["end", name, n, _] = words[..]
                    && let (Some(begin), Ok(n)) = (seen.get(&format!("begin {name}")), n.parse::<f64>())
                {
                    b.table.add(
                        &format!("{}, instructions", micro_name(name)),
                        Better::Less,
                        system,
                        (at - begin) as f64 / n,
                    );
                }
            }
            Ok(())
        });
    }

    /// A static hello: instructions from QEMU's start to its output; Coracle's own boot chart at 256 MB and 8 GB.
    pub fn hello(&mut self) {
        let work = match self.hello_work() {
            Ok(work) => work,
            Err(why) => return self.table.note(format!("hello: {why}")),
        };
        let networked = Workload { name: "hello-net".into(), port: Some(1), ..work.clone() };
        for memory in [256, 8192] {
            self.alternate("hello", 1, |b, system| {
                let plugin = b.plugin.clone();
                let mut guest = b.start(system, &networked, |boot| {
                    (boot.plugin, boot.memory) = (Some(plugin), memory);
                })?;
                guest.until_prints("hello", UP)?;
                let (low, high) = guest.instructions()?;
                let row = format!("QEMU's start to a static hello's output, million instructions, -m {memory}M");
                b.table.add(&row, Better::Less, system, (low + high) as f64 / 1e6);
                Ok(())
            });
            if self.systems.contains(&System::Coracle)
                && let Err(why) = self.chart(&networked, memory)
            {
                self.table.note(format!("boot chart: {why}"));
            }
        }
    }

    fn hello_work(&self) -> Result<Workload, String> {
        let program = c_program(&folder().join("guests/abuse.c"), Variant::GlibcStatic)?; // without arguments it says hello
        Ok(Workload { name: "hello".into(), command: vec![program.display().to_string()], files: vec![], port: None })
    }

    /// Kernel entry to first instruction: the least of a few runs, as the clock that counts instructions also goes on while
    /// the guest waits for the host's disk.
    fn chart(&mut self, work: &Workload, memory: u32) -> Result<(), String> {
        let runs: Vec<f64> = (0..5).map(|_| self.chart_once(work, memory)).collect::<Result<_, _>>()?;
        let least = runs.into_iter().fold(f64::INFINITY, f64::min);
        let row = format!("kernel entry to the program's first instruction, million instructions, -m {memory}M");
        self.table.add(&row, Better::Less, System::Coracle, least / 1e6);
        Ok(())
    }

    /// Under `-icount shift=0` a tick is an instruction: the chart's last total.
    fn chart_once(&mut self, work: &Workload, memory: u32) -> Result<f64, String> {
        let icount = ["-icount", "shift=0,sleep=off"].map(String::from);
        let mut guest = self.start(System::Coracle, work, |b| {
            (b.memory, b.append, b.qemu) = (memory, "chart".into(), icount.into());
        })?;
        guest.until_prints("hello", 2 * UP)?;
        let text = guest.text();
        let total = text
            .lines()
            .filter(|l| l.contains("chart:"))
            .filter_map(|l| l.rsplit_once(" in all)"))
            .filter_map(|(l, _)| l.rsplit([' ', ',']).find(|w| !w.is_empty())?.parse::<f64>().ok())
            .next_back();
        total.ok_or_else(|| "no chart on the console".into())
    }

    /// Bytes of the kernel's file.
    pub fn size(&mut self) {
        for system in self.systems.clone() {
            let path = if system == System::Linux { &self.linux.image } else { &self.kernel };
            match path.metadata() {
                Ok(m) => self.table.add("kernel file, bytes", Better::Less, system, m.len() as f64),
                Err(why) => self.table.note(format!("size of {}: {why}", path.display())),
            }
        }
    }

    /// The smallest `-m` with which a static hello prints, and Redis answers.
    pub fn memory(&mut self) {
        let Some(server) = which("redis-server") else { return };
        let command = [
            server.display().to_string(),
            "--protected-mode".into(),
            "no".into(),
            "--save".into(),
            String::new(),
            "--dir".into(),
            "/tmp".into(),
        ];
        let redis = Workload { name: "redis".into(), command: command.into(), files: vec![], port: Some(6379) };
        self.alternate("smallest memory", 1, |b, system| {
            let hello = b.hello_work()?;
            let least = smallest(256, |m| {
                let mut guest = b.start(system, &hello, |boot| boot.memory = m).ok()?;
                guest.until_prints("hello", Duration::from_secs(15)).ok()
            });
            b.table.add("smallest -m for a static hello, MB", Better::Less, system, least.ok_or("hello does not run")?);
            let least = smallest(512, |m| {
                let mut guest = b.start(system, &redis, |boot| boot.memory = m).ok()?;
                pong_within(&mut guest, Duration::from_secs(20)).ok()
            });
            b.table.add("smallest -m for Redis, MB", Better::Less, system, least.ok_or("Redis does not run")?);
            Ok(())
        });
    }
}

fn micro_name(name: &str) -> &str {
    match name {
        "getppid" => "getppid",
        "clock_gettime" => "clock_gettime",
        "pipe-threads" => "switch between threads (pipe, one byte)",
        "pipe-processes" => "switch between processes (pipe, one byte)",
        "page-fault" => "page fault (anonymous memory, with mmap and munmap)",
        "fork" => "fork, exit and wait",
        other => other,
    }
}

fn pong_within(guest: &mut Guest, limit: Duration) -> Result<(), String> {
    let end = Instant::now() + limit;
    while guest.runs() && Instant::now() < end {
        if let Ok(mut redis) = TcpStream::connect_timeout(&guest.address, Duration::from_millis(100)) {
            use std::io::{Read, Write};
            let mut answer = [0; 5];
            redis.set_read_timeout(Some(Duration::from_millis(1000))).map_err(|e| e.to_string())?;
            if redis.write_all(b"PING\r\n").and_then(|()| redis.read_exact(&mut answer)).is_ok() && &answer == b"+PONG"
            {
                return Ok(());
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("no PONG".into())
}

/// Bisects for the smallest number of MiB, at least 4, that works.
fn smallest(most: u32, mut works: impl FnMut(u32) -> Option<()>) -> Option<f64> {
    works(most)?;
    let (mut bad, mut good) = (3, most);
    while good - bad > 1 {
        let middle = (good + bad) / 2;
        if works(middle).is_some() { good = middle } else { bad = middle }
    }
    Some(f64::from(good))
}

/// Requests per second by test.
fn redis_benchmark(guest: &Guest, requests: u64, depth: u32, tests: &str) -> Result<Vec<(String, f64)>, String> {
    let tool = which("redis-benchmark").ok_or("redis-benchmark is not installed")?;
    let mut c = Command::new(tool);
    c.args(["-h", &guest.address.ip().to_string(), "-p", &guest.address.port().to_string(), "-c", "30", "--csv"]);
    c.args(["-n", &requests.to_string(), "-P", &depth.to_string(), "-t", tests]);
    let text = must(&mut c, 2 * UP)?;
    let rows = text.lines().filter_map(|l| {
        let mut words = l.split(',').map(|w| w.trim_matches('"'));
        Some((words.next()?.to_owned(), words.next()?.parse::<f64>().ok()?))
    });
    let rows: Vec<_> = rows.collect();
    if rows.len() == tests.split(',').count() { Ok(rows) } else { Err(format!("redis-benchmark gave: {text}")) }
}
