//! What a client does to a machine whose image has one program, from inside a lab: Redis, nginx, Python. The checks are those of the
//! end-to-end suite, over the network alone, as the client runs beside the hypervisor and has no tools of the programs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::client::{Peer, Redis, Wire, http_get};
use crate::e2e::{http, redis, scripts};
use crate::exchange::{CONNECTIONS, Facts, Target, connect, in_parallel, says_hello};

/// Rounds of Redis commands on each connection.
const ROUNDS: usize = 60;
/// nginx's workers.
pub const WORKERS: u32 = 4;
/// What `serve.sh` listens on, to be told to end.
const END_PORT: u16 = 81;
const HELLO: &[u8] = b"hello from the guest\n";

/// A program with an image of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum App {
    /// Redis, as the first process.
    Redis,
    /// nginx with a master and four workers.
    Nginx,
    /// Python: `mixed.py`, then its web server.
    Python,
}

impl App {
    /// All.
    pub const ALL: [App; 3] = [App::Redis, App::Nginx, App::Python];

    /// Its name, also in the names of cells.
    pub fn name(self) -> &'static str {
        match self {
            App::Redis => "redis",
            App::Nginx => "nginx",
            App::Python => "python",
        }
    }

    /// The exit code of the first process.
    pub fn code(self) -> u8 {
        match self {
            App::Redis | App::Nginx => 0,
            App::Python => scripts::MIXED_CODE,
        }
    }

    /// One question, to find out whether it is up.
    pub fn ask(self) -> fn(&Target) -> Result<(), String> {
        match self {
            App::Redis => |target| {
                let mut redis = Redis::dial(Peer(target.redis))?;
                redis.0.read_limit(Duration::from_secs(3))?;
                redis.expect(&["PING"], "PONG")
            },
            App::Nginx | App::Python => |target| says_hello(target.http, "/hello.txt", HELLO),
        }
    }

    /// All of it, with the telling to end.
    pub fn drive(self, target: &Target, done: &mut dyn FnMut(&str)) -> Result<Facts, String> {
        match self {
            App::Redis => drive_redis(target, done),
            App::Nginx => drive_nginx(target, done),
            App::Python => drive_python(target, done),
        }
    }

    /// What its console must show in this order.
    pub fn check_console(self, console: &str) -> Result<(), String> {
        let wanted = match self {
            App::Redis => &[][..],
            App::Nginx => &["the server ended with 0"],
            App::Python => scripts::MIXED,
        };
        let mut lines = console.lines();
        for text in wanted {
            if !lines.any(|line| line.trim_end() == *text) {
                return Err(format!("the console does not show {text:?} in its place"));
            }
        }
        Ok(())
    }
}

/// Commands, a large value, a snapshot by fork of a few megabytes, `SHUTDOWN`.
fn drive_redis(target: &Target, done: &mut dyn FnMut(&str)) -> Result<Facts, String> {
    let mut facts = Facts::default();
    let mut client = Redis(connect(target.redis, target)?);
    redis::fill(&mut client)?;
    client.expect(&["LRANGE", "list", "997", "-1"], "997 998 999")?;
    done("a value of 1 MB, a list");
    let many = "for i=1,20000 do redis.call('SET','many:'..i,string.rep('x',100)) end return 1";
    client.expect(&["EVAL", many, "0"], "1")?;
    redis::save(&mut client)?;
    done("BGSAVE");
    let seconds = in_parallel(|number| commands(target, number))?;
    facts.number("redis_rps", (CONNECTIONS * ROUNDS * COMMANDS) as f64 / seconds);
    done("the commands of redis-benchmark");
    // once more, after every kind of value has come and gone
    redis::save(&mut client)?;
    client.expect(&["GET", "key"], "value")?;
    client.expect(&["STRLEN", "many:20000"], "100")?;
    // the connection closes without an answer
    match client.call(&["SHUTDOWN", "NOSAVE"]) {
        Ok(answer) => Err(format!("SHUTDOWN: {}", answer.text())),
        Err(_) => Ok(facts),
    }
}

/// Those of `commands` in each round.
const COMMANDS: usize = 17;

/// What redis-benchmark does by default, but every answer is compared.
fn commands(target: &Target, number: usize) -> Result<(), String> {
    let mut redis = Redis(connect(target.redis, target)?);
    let key = |name: &str| format!("{name}:{number}");
    let (value, count, list, set, hash, sorted) =
        (key("value"), key("count"), key("list"), key("set"), key("hash"), key("sorted"));
    let ten: Vec<String> = (0..10).flat_map(|n| [key(&format!("ten{n}")), n.to_string()]).collect();
    let ten: Vec<&str> = ["MSET"].into_iter().chain(ten.iter().map(String::as_str)).collect();
    for round in 0..ROUNDS {
        let (n, next) = (round.to_string(), (round + 1).to_string());
        let (both, scored) = (format!("{n} {next}"), format!("{n} 7"));
        let round: [(&[&str], &str); COMMANDS] = [
            (&["PING"], "PONG"),
            (&["SET", &value, &n], "OK"),
            (&["GET", &value], &n),
            (&["INCR", &count], &next),
            (&["LPUSH", &list, &n], "1"),
            (&["RPUSH", &list, &next], "2"),
            (&["LRANGE", &list, "0", "-1"], &both),
            (&["LPOP", &list], &n),
            (&["RPOP", &list], &next),
            (&["SADD", &set, &n], "1"),
            (&["SPOP", &set], &n),
            (&["HSET", &hash, &n, &next], "1"),
            (&["HGET", &hash, &n], &next),
            (&["ZADD", &sorted, "7", &n], "1"),
            (&["ZPOPMIN", &sorted], &scored),
            (&ten, "OK"),
            (&["GET", ten[19]], "9"),
        ];
        for (command, answer) in round {
            redis.expect(command, answer)?;
        }
    }
    Ok(())
}

/// A large file, kept connections, master and workers.
fn drive_nginx(target: &Target, done: &mut dyn FnMut(&str)) -> Result<Facts, String> {
    let mut facts = Facts::default();
    large_file(target, &mut facts)?;
    done("a file of 5 MB");
    let started = Instant::now();
    http::load(Peer(target.http), 10, 100, "/hello.txt", HELLO)?;
    facts.number("http_rps", 1000.0 / started.elapsed().as_secs_f64());
    http::load(Peer(target.http), 3, 1, "/large.bin", &http::large_file())?;
    done("1,000 requests");
    let mut pids = BTreeSet::new();
    for _ in 0..20 {
        // Kept open together, so that the workers share them.
        pids.extend(http::open(Peer(target.http), 8, "/pid")?.into_iter().map(|(_, pid)| pid));
    }
    if pids.len() < 2 {
        return Err(format!("of {WORKERS} workers only one ever answered"));
    }
    match Wire::dial(Peer(target.http))?.get("/absent")? {
        (404, _) => {}
        (code, _) => return Err(format!("/absent gave {code}")),
    }
    let processes = end(target, &mut facts)?;
    let count = |title: &str| processes.iter().filter(|line| line.contains(title)).count();
    if (count("nginx: master"), count("nginx: worker")) != (1, WORKERS as usize) {
        return Err(format!("its processes are {processes:?}"));
    }
    facts.add("workers", format!("{} of {WORKERS} answered", pids.len()));
    Ok(facts)
}

/// Its program with threads, processes and asyncio has run already; the web server must serve.
fn drive_python(target: &Target, done: &mut dyn FnMut(&str)) -> Result<Facts, String> {
    let mut facts = Facts::default();
    large_file(target, &mut facts)?;
    let listing = String::from_utf8_lossy(&http_get(Peer(target.http), "/")?).into_owned();
    if !listing.contains("large.bin") {
        return Err(format!("the listing lacks large.bin: {listing}"));
    }
    done("http.server");
    end(target, &mut facts)?;
    Ok(facts)
}

fn large_file(target: &Target, facts: &mut Facts) -> Result<(), String> {
    let expected = http::large_file();
    let started = Instant::now();
    let got = http_get(Peer(target.http), "/large.bin")?;
    facts.number("down_mb_s", got.len() as f64 / 1e6 / started.elapsed().as_secs_f64());
    http::same("large.bin", &got, &expected)
}

/// Tells `serve.sh` to end. What it says: facts, and lines about its processes.
fn end(target: &Target, facts: &mut Facts) -> Result<Vec<String>, String> {
    let text = connect(SocketAddr::new(target.http.ip(), END_PORT), target)?.rest()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let (said, processes): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|line| line.split('=').next().is_some_and(|n| FACTS.contains(&n)));
    for (name, value) in said.iter().filter_map(|line| line.split_once('=')) {
        facts.add(name, value);
    }
    Ok(processes.into_iter().map(str::to_owned).collect())
}

const FACTS: &[&str] = &["hypervisor", "told_by", "nic", "disk", "cpus"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_compared_in_order() {
        let whole = scripts::MIXED.join("\r\n");
        assert!(App::Python.check_console(&whole).is_ok());
        assert!(App::Python.check_console(&whole.replace("asyncio 20", "asyncio 19")).is_err());
        let backwards: Vec<&str> = scripts::MIXED.iter().rev().copied().collect();
        assert!(App::Python.check_console(&backwards.join("\n")).is_err());
        assert!(App::Nginx.check_console("the server ended with 1\n").is_err());
        assert!(App::Redis.check_console("").is_ok());
    }
}
