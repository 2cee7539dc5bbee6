//! What a client does to a machine of the matrix, the same everywhere: from the first answer on, 1,000 HTTP and 1,000 Redis requests, 50 MB
//! each way, the disk, the second disk, and the end. Every answer is checked.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Redis, Wire};
use crate::pattern::{self, Crc32, Pattern};
use crate::run::retry;

/// Bytes each way.
pub const BULK: u64 = 50_000_000;
/// Connections that send requests at the same time.
pub const CONNECTIONS: usize = 4;
/// HTTP requests of each of them.
const REQUESTS: usize = 300;
/// Redis commands of each of them: sets, gets and increments.
const COMMANDS: usize = 400;
/// The exit code that the guest is told to end with.
pub const CODE: u8 = 42;

/// Where the machine is reached, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The web server.
    pub http: SocketAddr,
    /// Redis.
    pub redis: SocketAddr,
    /// When its making began.
    pub created: Instant,
    /// Until when everything must be done.
    pub deadline: Instant,
}

/// What was seen and measured: names and values, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts(pub Vec<(String, String)>);

impl Facts {
    /// Adds a value.
    pub fn add(&mut self, name: &str, value: impl ToString) {
        self.0.push((name.to_owned(), value.to_string()));
    }

    /// Adds a number.
    pub fn number(&mut self, name: &str, value: f64) {
        self.add(name, format!("{value:.2}"));
    }

    /// A value.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    /// On one line: tab-separated.
    pub fn line(&self) -> String {
        self.0.iter().map(|(n, v)| format!("{n}={}", v.replace(['\t', '\n', '\r'], " "))).collect::<Vec<_>>().join("\t")
    }

    /// Back from a line.
    pub fn parse(line: &str) -> Facts {
        let pairs = line.trim_end_matches('\r').split('\t').filter_map(|p| p.split_once('='));
        Facts(pairs.map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
    }
}

/// Waits for the first answer; seconds since the making began. A forwarded port accepts before the guest is there, and then a connection
/// may hang: so there is a new attempt every 150 ms, and the first answer to any of them counts.
pub fn first_answer(
    target: &Target,
    ask: fn(&Target) -> Result<(), String>,
    mut alive: impl FnMut() -> Result<(), String>,
) -> Result<f64, String> {
    let (sender, answers) = mpsc::channel();
    let (created, target) = (target.created, *target);
    let mut why = String::from("nobody asked");
    loop {
        let sender = sender.clone();
        thread::spawn(move || sender.send(ask(&target).map(|()| created.elapsed().as_secs_f64())));
        let next = Instant::now() + Duration::from_millis(150);
        while let Ok(answer) = answers.recv_timeout(next.saturating_duration_since(Instant::now())) {
            match answer {
                Ok(seconds) => return Ok(seconds),
                Err(refused) => why = refused,
            }
        }
        alive()?;
        if Instant::now() >= target.deadline {
            return Err(format!("no answer within {:.0} s: {why}", created.elapsed().as_secs_f64()));
        }
    }
}

/// One request to the one image, on a connection of its own.
pub fn hello(target: &Target) -> Result<(), String> {
    says_hello(target.http, "/hello", b"hello from the one image\n")
}

/// One request on a connection of its own, which must have this answer.
pub fn says_hello(http: SocketAddr, path: &str, text: &[u8]) -> Result<(), String> {
    let limit = Duration::from_secs(3);
    let mut wire = Wire::over(TcpStream::connect_timeout(&http, limit).map_err(|e| e.to_string())?)?;
    wire.read_limit(limit)?;
    match wire.get(path)? {
        (200, body) if body == text => Ok(()),
        (code, _) => Err(format!("status {code}")),
    }
}

/// All of it but the end; the machine has answered already. `done` hears of each part.
pub fn exchange(target: &Target, done: &mut dyn FnMut(&str)) -> Result<Facts, String> {
    let mut facts = Facts::default();
    for line in String::from_utf8_lossy(&ok(&mut dial(target)?, "/info")?).lines() {
        if let Some((name, value)) = line.split_once('=') {
            facts.add(name, value);
        }
    }
    let seconds = in_parallel(|_| {
        let mut wire = dial(target)?;
        for _ in 0..REQUESTS {
            if ok(&mut wire, "/hello")? != b"hello from the one image\n" {
                return Err("/hello: a wrong answer".into());
            }
        }
        Ok(())
    })
    .map_err(|e| format!("HTTP: {e}"))?;
    facts.number("http_rps", (CONNECTIONS * REQUESTS) as f64 / seconds);
    done("HTTP");
    redis_is_up(target)?;
    let seconds = in_parallel(|number| redis(target, number)).map_err(|e| format!("Redis: {e}"))?;
    facts.number("redis_rps", (CONNECTIONS * COMMANDS) as f64 / seconds);
    done("Redis");
    facts.number("down_mb_s", BULK as f64 / 1e6 / down(target).map_err(|e| format!("50 MB from the guest: {e}"))?);
    done("50 MB from the guest");
    facts.number("up_mb_s", BULK as f64 / 1e6 / up(target).map_err(|e| format!("50 MB to the guest: {e}"))?);
    done("50 MB to the guest");
    let seconds = device(target, "/disk", pattern::DATA, pattern::DATA_BYTES)?;
    facts.number("disk_mb_s", pattern::DATA_BYTES as f64 / 1e6 / seconds);
    done("root disk");
    let seconds = device(target, "/write", pattern::WRITTEN, pattern::SECOND_BYTES)?;
    facts.number("write_mb_s", pattern::SECOND_BYTES as f64 / 1e6 / seconds);
    done("second disk");
    Ok(facts)
}

/// Tells the machine to end.
pub fn end(target: &Target) -> Result<(), String> {
    ok(&mut dial(target)?, &format!("/exit/{CODE}")).map(|_| ())
}

/// Whether a console shows that the first process ended with this code.
pub fn ended_with(console: &str, code: u8) -> bool {
    console.lines().any(|l| l.trim_end().ends_with(&format!("coracle:exit {code}")))
}

/// The file behind the second disk holds what the guest wrote.
pub fn check_second(file: &std::path::Path) -> Result<(), String> {
    let mut file = std::fs::File::open(file).map_err(|e| format!("the second disk: {e}"))?;
    let (mut crc, mut total, mut buffer) = (Crc32::new(), 0, vec![0; 1 << 16]);
    while total < pattern::SECOND_BYTES {
        match file.read(&mut buffer).map_err(|e| format!("the second disk: {e}"))? {
            0 => break,
            n => {
                crc.update(&buffer[..n]);
                total += n as u64;
            }
        }
    }
    if (total, crc.sum()) == (pattern::SECOND_BYTES, Pattern::new(pattern::WRITTEN).sum(pattern::SECOND_BYTES)) {
        Ok(())
    } else {
        Err("the file behind the second disk does not hold what the guest wrote".into())
    }
}

fn dial(target: &Target) -> Result<Wire, String> {
    connect(target.http, target)
}

/// A connection whose reads may take as long as there is time left.
pub fn connect(address: SocketAddr, target: &Target) -> Result<Wire, String> {
    let left = target.deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let stream =
        TcpStream::connect_timeout(&address, left.min(Duration::from_secs(20))).map_err(|e| format!("connect: {e}"))?;
    let wire = Wire::over(stream)?;
    wire.read_limit(left.min(Duration::from_secs(120)))?;
    Ok(wire)
}

fn ok(wire: &mut Wire, path: &str) -> Result<Vec<u8>, String> {
    match wire.get(path)? {
        (200, body) => Ok(body),
        (code, body) => Err(format!("{path}: status {code}: {}", String::from_utf8_lossy(&body).trim())),
    }
}

/// Runs one client for each connection; the seconds that all took. They connect one after the other, as QEMU's user network listens with a
/// backlog of one: what it does not accept at once waits for a repeated SYN.
pub fn in_parallel(one: impl Fn(usize) -> Result<(), String> + Sync) -> Result<f64, String> {
    let started = Instant::now();
    thread::scope(|s| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|number| {
                thread::sleep(Duration::from_millis(10));
                let one = &one;
                s.spawn(move || one(number))
            })
            .collect();
        clients.into_iter().try_for_each(|c| c.join().unwrap_or(Err("a client died".into())))
    })?;
    Ok(started.elapsed().as_secs_f64())
}

/// Redis starts beside the web server and may need longer.
fn redis_is_up(target: &Target) -> Result<(), String> {
    let left = target.deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(60));
    let up = || Redis(connect(target.redis, target)?).expect(&["PING"], "PONG");
    retry(left, up).map_err(|e| format!("Redis does not answer: {e}"))
}

fn redis(target: &Target, number: usize) -> Result<(), String> {
    let mut redis = Redis(connect(target.redis, target)?);
    for n in 0..COMMANDS {
        let key = format!("key:{number}:{}", n / 4 % 50);
        let value = format!("value {n} of {number}");
        match n % 4 {
            0 => redis.expect(&["SET", &key, &value], "OK")?,
            1 => redis.expect(&["GET", &key], &format!("value {} of {number}", n - 1))?,
            2 => redis.expect(&["INCR", &format!("count:{number}")], &(n / 4 + 1).to_string())?,
            _ => redis.expect(&["PING"], "PONG")?,
        }
    }
    Ok(())
}

fn down(target: &Target) -> Result<f64, String> {
    let expected = Pattern::new(pattern::DOWN).sum(BULK);
    let mut wire = dial(target)?;
    let started = Instant::now();
    let length = wire.get_head(&format!("/bulk/{BULK}"))?;
    if length != BULK {
        return Err(format!("{length} bytes were announced"));
    }
    let mut crc = Crc32::new();
    wire.each(BULK, |piece| crc.update(piece))?;
    if crc.sum() != expected {
        return Err("the sum is wrong".into());
    }
    Ok(started.elapsed().as_secs_f64())
}

fn up(target: &Target) -> Result<f64, String> {
    let expected = format!("{BULK} {:08x}", Pattern::new(pattern::UP).sum(BULK));
    let mut wire = dial(target)?;
    let started = Instant::now();
    wire.send(format!("POST /sum HTTP/1.1\r\nHost: guest\r\nContent-Length: {BULK}\r\n\r\n").as_bytes())?;
    Pattern::new(pattern::UP).each(BULK, |piece| wire.send(piece))?;
    match wire.answer()? {
        (200, body) if body == expected.as_bytes() => Ok(started.elapsed().as_secs_f64()),
        (code, body) => Err(format!("status {code}: {:?}, expected {expected:?}", String::from_utf8_lossy(&body))),
    }
}

/// `/disk` and `/write` answer with bytes, sum and seconds.
fn device(target: &Target, path: &str, seed: u64, bytes: u64) -> Result<f64, String> {
    let text = ok(&mut dial(target)?, path)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let expected = format!("{bytes} {:08x} ", Pattern::new(seed).sum(bytes));
    let seconds = text.strip_prefix(&expected).and_then(|s| s.trim().parse().ok());
    seconds.ok_or_else(|| format!("{path}: {text:?}, expected {expected:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_travel_on_a_line() {
        let mut facts = Facts::default();
        facts.add("told_by", "CPUID says\tso");
        facts.number("first", 1.239);
        let line = facts.line();
        assert_eq!(line, "told_by=CPUID says so\tfirst=1.24");
        assert_eq!(Facts::parse(&format!("{line}\r")).get("first"), "1.24");
        assert_eq!(Facts::parse(&line).get("absent"), "");
    }

    #[test]
    fn ends_are_seen() {
        assert!(ended_with("x\n\u{1e} coracle:exit 42\r\n", 42));
        assert!(!ended_with("\u{1e} coracle:exit 1\n", 42));
    }
}
