//! Redis with its own tools, and memcached.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::{interrupted_code, program};
use crate::client::{Redis, Wire};
use crate::network::Network;
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome};
use crate::run::{must, retry};
use crate::vm::{Spec, Vm, port_at, with_vm};

/// A Redis server without a snapshot schedule.
pub fn spec(place: &Place) -> Result<Spec, Bad> {
    let port = port_at(place, 6379)?;
    let text = port.to_string();
    let args = [
        "--port",
        &text,
        "--protected-mode",
        "no",
        "--save",
        "",
        "--dir",
        "/tmp",
        "--dbfilename",
        &format!("dump-{port}.rdb"),
    ];
    Ok(Spec::new(&format!("redis-{place}"), program("redis-server")?, &args).port(port).limit(240))
}

/// Waits until Redis answers.
pub fn connect(vm: &mut Vm) -> Result<Redis, String> {
    let peer = vm.peer;
    vm.until("first PONG", |_| {
        let mut redis = Redis::dial(peer)?;
        redis.0.read_limit(Duration::from_millis(2000))?;
        redis.expect(&["PING"], "PONG")?;
        redis.0.read_limit(Duration::from_secs(20))?;
        Ok(redis)
    })
}

/// Sets and gets, a value of 1 MB, a list of 1,000.
pub fn fill(redis: &mut Redis) -> Result<(), String> {
    redis.expect(&["SET", "key", "value"], "OK")?;
    redis.expect(&["GET", "key"], "value")?;
    let large = "0123456789abcdef".repeat(65536);
    redis.expect(&["SET", "large", &large], "OK")?;
    redis.expect(&["GET", "large"], &large)?;
    (0..1000).try_for_each(|i| redis.expect(&["RPUSH", "list", &i.to_string()], &(i + 1).to_string()))
}

/// A snapshot by fork: it must come to its end and be told as good.
pub fn save(redis: &mut Redis) -> Result<(), String> {
    let answer = redis.call(&["BGSAVE"])?.text();
    if !answer.starts_with("Background saving") {
        return Err(format!("BGSAVE: {answer}"));
    }
    retry(Duration::from_secs(60), || match redis.info("persistence", "rdb_bgsave_in_progress")?.as_str() {
        "0" => Ok(()),
        _ => Err("BGSAVE does not come to its end".into()),
    })?;
    match redis.info("persistence", "rdb_last_bgsave_status")?.as_str() {
        "ok" => Ok(()),
        other => Err(format!("rdb_last_bgsave_status is {other}")),
    }
}

/// Commands, a large value, a snapshot, the whole benchmark suite, shutdown.
pub fn whole(options: &Options, place: &Place) -> Outcome {
    with_vm(options, place, &spec(place)?, |vm| {
        let mut redis = connect(vm)?;
        fill(&mut redis)?;
        save(&mut redis)?;
        let port = vm.port.to_string();
        let cli = must(
            Command::new(program("redis-cli")?).args(["-p", &port, "lrange", "list", "997", "-1"]),
            Duration::from_secs(20),
        )?;
        if cli.trim() != "997\n998\n999" {
            return Err(format!("redis-cli lrange gave {cli:?}").into());
        }
        // Few connections: it opens them at once, and QEMU's user network accepts slowly (see `http::open`).
        let mut bench = Command::new(program("redis-benchmark")?);
        let text = must(bench.args(["-p", &port, "-n", "2000", "-c", "5", "-q"]), vm.left())?;
        let lines = text.replace('\r', "\n");
        let results = lines.lines().filter(|l| l.contains("requests per second")).count();
        if results < 18 || lines.to_lowercase().contains("error") {
            return Err(format!("redis-benchmark told of {results} tests:\n{text}").into());
        }
        redis.expect(&["PING"], "PONG")?;
        redis.expect(&["GET", "key"], "value")?;
        // the connection closes without an answer
        if let Ok(answer) = redis.call(&["SHUTDOWN", "NOSAVE"]) {
            return Err(format!("SHUTDOWN: {}", answer.text()).into());
        }
        Ok(vm.must_exit(0)?)
    })
}

/// Ctrl-C ends the VM.
pub fn interrupted(options: &Options, place: &Place) -> Outcome {
    with_vm(options, place, &spec(place)?.limit(60), |vm| {
        connect(vm)?.expect(&["SET", "a", "b"], "OK")?;
        vm.signal(Signal::INT);
        Ok(vm.must_exit(interrupted_code(place, 0))?)
    })
}

/// Two hundred connections at once over a tap device, whose interface has a pair of queues for each CPU.
pub fn over_tap(options: &Options, place: &Place) -> Outcome {
    let Place::Vm { cpus, .. } = place else {
        return Err(Bad::Skipped("a tap device leads to a VM".into()));
    };
    let network = Network::set_up(options.tap_queues(*cpus));
    if !matches!(network, Network::Tap(..)) {
        return Err(Bad::Skipped("only root can make a tap device".into()));
    }
    let mut spec = spec(place)?;
    spec.network = Some(Arc::new(network));
    with_vm(options, place, &spec, |vm| {
        let mut redis = connect(vm)?;
        let (host, port) = (vm.peer.0.ip().to_string(), vm.port.to_string());
        let mut bench = Command::new(program("redis-benchmark")?);
        bench.args(["-h", &host, "-p", &port, "-c", "200", "-n", "5000", "-q", "-t", "set,get,lrange_100"]);
        let text = must(&mut bench, vm.left())?;
        let results = text.replace('\r', "\n").lines().filter(|l| l.contains("requests per second")).count();
        // Filling the list for LRANGE is a test of its own.
        if results != 4 || text.to_lowercase().contains("error") {
            return Err(format!("redis-benchmark told of {results} tests:\n{text}").into());
        }
        save(&mut redis)?;
        let _ = redis.call(&["SHUTDOWN", "NOSAVE"]);
        Ok(vm.must_exit(0)?)
    })
}

/// memcached with four threads, by its text protocol.
pub fn memcached(options: &Options, place: &Place) -> Outcome {
    let port = port_at(place, 11211)?;
    let args = ["-A", "-t", "4", "-u", "root", "-p", &port.to_string(), "-U", "0", "-m", "64"];
    let spec = Spec::new(&format!("memcached-{place}"), program("memcached")?, &args).port(port);
    with_vm(options, place, &spec, |vm| {
        let port = vm.port;
        let mut first = vm.until("the first answer", |_| {
            let mut wire = Wire::dial(port)?;
            wire.read_limit(Duration::from_millis(2000))?;
            let version = wire.ask("version")?;
            if version.starts_with("VERSION ") { Ok(wire) } else { Err(version) }
        })?;
        first.read_limit(Duration::from_secs(20))?;
        let large = "m".repeat(200_000);
        for (key, value) in [("small", "hello"), ("large", large.as_str())] {
            must_be(&first.ask(&format!("set {key} 0 0 {}\r\n{value}", value.len()))?, "STORED")?;
            must_be(&first.ask(&format!("get {key}"))?, &format!("VALUE {key} 0 {}", value.len()))?;
            must_be(&first.line()?, value)?;
            must_be(&first.line()?, "END")?;
        }
        must_be(&first.ask("set n 0 0 1\r\n0")?, "STORED")?;
        thread::scope(|s| {
            let clients: Vec<_> = (0..8).map(|_| s.spawn(move || count_up(port))).collect();
            clients.into_iter().try_for_each(|c| c.join().unwrap_or(Err("a client died".into())))
        })?;
        must_be(&first.ask("incr n 1")?, "801")?;
        first.send(b"stats settings\r\n")?;
        let mut threads = String::new();
        loop {
            let line = first.line()?;
            if line == "END" {
                break;
            }
            if let Some(n) = line.strip_prefix("STAT num_threads ") {
                threads = n.to_owned();
            }
        }
        must_be(&threads, "4")?;
        first.send(b"shutdown\r\n")?;
        Ok(vm.must_exit(0)?)
    })
}

fn count_up(port: u16) -> Result<(), String> {
    let mut wire = Wire::dial(port)?;
    for _ in 0..100 {
        let answer = wire.ask("incr n 1")?;
        answer.parse::<u64>().map_err(|_| format!("incr gave {answer:?}"))?;
    }
    Ok(())
}

fn must_be(got: &str, expected: &str) -> Result<(), String> {
    let short = |t: &str| t.chars().take(80).collect::<String>();
    if got == expected { Ok(()) } else { Err(format!("got {:?}, expected {:?}", short(got), short(expected))) }
}
