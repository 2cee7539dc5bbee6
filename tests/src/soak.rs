//! The soak: a hundred benchmarks, none of which may stall; and Redis under 200 connections and a snapshot every few
//! seconds, for ten minutes: no error, no leak.

use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Peer, Redis, Wire};
use crate::compile::{Variant, c_program, folder};
use crate::e2e::redis::{connect, save};
use crate::network::Network;
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome, Suite};
use crate::run::{free_port, run, tail, which};
use crate::vm::{Spec, with_vm};

/// Where the sidecar answers in the guest.
const METER: u16 = 9999;

/// A case: what it does at a place.
type Case = fn(&Options, &Place) -> Outcome;

const CASES: [(&str, Case); 2] = [("redis-100-benchmarks", benchmarks), ("redis-200-connections", soak)];

/// One soak for each place (by default one VM with 2 CPUs, as it takes long).
pub fn suite(options: &Options) -> Result<bool, String> {
    let mut places = options.combinations();
    if options.machines.len() > 1 && options.cpus.len() > 1 && !options.host {
        places = vec![Place::Vm { machine: options.machines[0].clone(), cpus: 2 }];
    }
    let mut good = true;
    for place in places {
        let mut suite = Suite::new(format!("soak {place}"));
        for (name, run) in CASES.iter().filter(|(name, _)| name.contains(&options.filter)) {
            suite.case(name, || run(options, &place));
        }
        good &= suite.finish();
    }
    Ok(good)
}

/// Free memory of the guest in kB, when it has settled.
fn free_memory(meter: Peer) -> Result<i64, String> {
    let read = || -> Result<i64, String> {
        let text = String::from_utf8_lossy(&Wire::dial(meter)?.rest()?).into_owned();
        let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:")).ok_or("no MemAvailable")?;
        line.trim().trim_end_matches(" kB").parse().map_err(|_| format!("odd MemAvailable {line}"))
    };
    thread::sleep(Duration::from_secs(3));
    (0..3).map(|_| read()).try_fold(0, |best, one| one.map(|o| best.max(o)))
}

/// Memory that is free, and Redis' own, in kB, when Redis holds no data.
fn at_rest(redis: &mut Redis, meter: Peer) -> Result<(i64, i64), String> {
    redis.expect(&["FLUSHALL"], "OK")?;
    save(redis)?;
    redis.expect(&["MEMORY", "PURGE"], "OK")?;
    let free = free_memory(meter)?;
    let own = redis.info("memory", "used_memory_rss")?.parse::<i64>().map_err(|e| e.to_string())?;
    Ok((free, own / 1024))
}

/// One round of load: the benchmark with 200 connections; its output must hold no error.
fn round(peer: Peer, seconds: u64, saves: &mut u32) -> Result<u64, String> {
    let tool = which("redis-benchmark").ok_or("redis-benchmark is not installed")?;
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut control = Redis::dial(peer)?;
    let mut requests = 0;
    while Instant::now() < end {
        let mut command = Command::new(&tool);
        let n = 20_000;
        command.args([
            "-h",
            &peer.0.ip().to_string(),
            "-p",
            &peer.0.port().to_string(),
            "-c",
            "200",
            "-n",
            &n.to_string(),
            "-q",
            "-t",
            "set,get,incr,lpush,rpop,sadd,hset",
        ]);
        let bench = thread::spawn(move || run(&mut command, Duration::from_secs(300)));
        while !bench.is_finished() {
            save(&mut control)?;
            *saves += 1;
            for _ in 0..30 {
                if bench.is_finished() {
                    break;
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
        let done = bench.join().map_err(|_| "the benchmark's thread died")??;
        let results = done.text.replace('\r', "\n").lines().filter(|l| l.contains("requests per second")).count();
        if done.code != 0 || results != 7 || done.text.to_lowercase().contains("error") {
            return Err(format!(
                "redis-benchmark: exit code {}, {results} results\n{}",
                done.code,
                tail(&done.text, 10)
            ));
        }
        requests += 7 * n;
    }
    Ok(requests)
}

/// Redis with the meter beside it; gives the meter's port too.
fn spec(options: &Options, place: &Place) -> Result<(Spec, u16), Bad> {
    let sidecar = c_program(&folder().join("guests/sidecar.c"), Variant::GlibcStatic)?;
    let redis = which("redis-server").ok_or("redis-server is not installed")?.display().to_string();
    let inside = if *place == Place::Host { free_port()? } else { METER };
    let port = crate::vm::port_at(place, 6379)?;
    let (a, b) = (inside.to_string(), port.to_string());
    let args =
        [&a, &redis, "--port", &b, "--protected-mode", "no", "--save", "", "--dir", "/tmp", "--dbfilename", "soak.rdb"];
    let mut spec = Spec::new(&format!("soak-{place}"), sidecar, &args).port(port);
    spec.options.push(format!("--with={redis}"));
    if let Place::Vm { cpus, .. } = place {
        // QEMU's own network takes two connections at a time: 200 would wait for seconds.
        let network = Network::set_up(options.tap_queues(*cpus));
        if !matches!(network, Network::Tap(..)) {
            return Err("the soak needs a tap device, which only root can make".to_owned().into());
        }
        spec.network = Some(Arc::new(network));
    }
    spec.limit = Duration::from_secs((options.minutes * 60.0) as u64 + 600);
    Ok((spec, inside))
}

/// A hundred runs of the benchmark, each as long as the others: none may stall.
fn benchmarks(options: &Options, place: &Place) -> Outcome {
    let tool = which("redis-benchmark").ok_or("redis-benchmark is not installed")?;
    let (spec, _) = spec(options, place)?;
    with_vm(options, place, &spec, |vm| {
        let mut redis = connect(vm)?;
        let peer = vm.peer.0;
        let mut times = Vec::new();
        for number in 1..=100 {
            let mut command = Command::new(&tool);
            command.args(["-h", &peer.ip().to_string(), "-p", &peer.port().to_string()]);
            command.args(["-c", "30", "-n", "10000", "-q", "-t", "set,get"]);
            let start = Instant::now();
            let done = run(&mut command, Duration::from_secs(120)).map_err(|why| format!("run {number}: {why}"))?;
            if done.code != 0 || done.text.to_lowercase().contains("error") {
                return Err(format!("run {number}: exit code {}\n{}", done.code, tail(&done.text, 10)).into());
            }
            times.push(start.elapsed());
        }
        times.sort();
        let (median, longest) = (times[50], times[99]);
        println!("      {place}: 100 benchmarks, median {median:.2?}, longest {longest:.2?}");
        // A stall waits for a retransmission or for ever; a busy machine makes runs a few times longer.
        if longest > median * 20 {
            return Err(format!("a stall: the longest of 100 runs took {longest:?}, half of them {median:?}").into());
        }
        redis.expect(&["PING"], "PONG")?;
        let _ = redis.call(&["SHUTDOWN", "NOSAVE"]);
        Ok(vm.must_exit(0)?)
    })
}

fn soak(options: &Options, place: &Place) -> Outcome {
    let (spec, inside) = spec(options, place)?;
    with_vm(options, place, &spec, |vm| {
        let mut redis = connect(vm)?;
        let meter = Peer((vm.peer.0.ip(), inside).into());
        let mut saves = 0;
        round(vm.peer, 20, &mut saves)?; // every cache and pool is warm after this
        let (before, own_before) = at_rest(&mut redis, meter)?;
        saves = 0;
        let requests = round(vm.peer, (options.minutes * 60.0) as u64, &mut saves)?;
        let (after, own_after) = at_rest(&mut redis, meter)?;
        println!(
            "      {place}: {requests} requests, {saves} snapshots, free before {before} kB, after {after} kB (Redis itself \
             {own_before} and {own_after} kB)"
        );
        // What Redis' allocator keeps for itself is not the kernel's leak.
        let (before, after) = (before + own_before, after + own_after);
        if *place != Place::Host && after < before - before / 100 {
            return Err(format!("a leak: {before} kB were free or Redis' before, {after} kB after").into());
        }
        redis.expect(&["PING"], "PONG")?;
        let _ = redis.call(&["SHUTDOWN", "NOSAVE"]);
        Ok(vm.must_exit(0)?)
    })
}
