//! Web servers: nginx with four workers, Python's, and static ones in Go and Rust.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use super::{interrupted_code, program};
use crate::client::{Peer, Wire, http_get};
use crate::compile::{folder, output};
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome};
use crate::run::{Scratch, must, which};
use crate::vm::{Spec, Vm, port_at, volume, with_vm};

/// Several megabytes that do not repeat (a linear congruential generator).
pub fn large_file() -> Vec<u8> {
    let mut x = 12345u32;
    let mut word = || {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        x.to_le_bytes()
    };
    (0..5 << 18).flat_map(|_| word()).collect()
}

/// A folder with files to serve.
pub fn website() -> Result<Scratch, String> {
    let folder = Scratch::new("www")?;
    folder.write("large.bin", large_file())?;
    folder.write("hello.txt", "hello from the guest\n")?;
    Ok(folder)
}

fn first_answer(vm: &mut Vm, path: &str) -> Result<Vec<u8>, String> {
    let port = vm.port;
    vm.until("the first answer", |_| {
        let mut wire = Wire::dial(port)?;
        wire.read_limit(Duration::from_millis(3000))?;
        match wire.get(path)? {
            (200, body) => Ok(body),
            (code, _) => Err(format!("status {code}")),
        }
    })
}

/// Connections that have each answered once. They are opened one after the other: QEMU's user network listens with a
/// backlog of one, and what it does not accept at once waits for a repeated SYN, seconds later.
pub fn open(peer: impl Into<Peer>, connections: usize, path: &str) -> Result<Vec<(Wire, Vec<u8>)>, String> {
    let peer = peer.into();
    (0..connections)
        .map(|_| {
            let mut wire = Wire::dial(peer)?;
            let (_, first) = wire.get(path)?;
            Ok((wire, first))
        })
        .collect()
}

/// Many requests on kept connections, every answer checked.
pub fn load(peer: impl Into<Peer>, connections: usize, requests: usize, path: &str, body: &[u8]) -> Result<(), String> {
    let one = |mut wire: Wire| -> Result<(), String> {
        for _ in 0..requests {
            match wire.get(path)? {
                (200, got) if got == body => {}
                (code, got) => return Err(format!("{path}: status {code}, {} bytes, not as expected", got.len())),
            }
        }
        Ok(())
    };
    let wires = open(peer, connections, path)?;
    thread::scope(|s| {
        let clients: Vec<_> = wires.into_iter().map(|(wire, _)| s.spawn(|| one(wire))).collect();
        clients.into_iter().try_for_each(|c| c.join().unwrap_or(Err("a client died".into())))
    })
}

/// Two byte strings must be equal.
pub fn same(what: &str, got: &[u8], expected: &[u8]) -> Result<(), String> {
    if got == expected {
        return Ok(());
    }
    let at = got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(got.len().min(expected.len()));
    Err(format!("{what}: {} bytes, expected {}; they differ at {at}", got.len(), expected.len()))
}

/// The configuration: four workers, everything that is written goes to /tmp.
pub fn nginx_conf(port: u16, root: &Path, workers: u32) -> String {
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|n| format!("    {n}_temp_path /tmp/nginx-{n};\n"))
        .concat();
    format!(
        "daemon off;\nmaster_process on;\nworker_processes {workers};\nuser root root;\npid /tmp/nginx-{port}.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\nhttp {{\n{temp}    access_log off;\n    keepalive_requests 1000000;\n    sendfile on;\n    server {{\n        \
         listen {port};\n        root {};\n        location /pid {{ return 200 \"$pid\"; }}\n    }}\n}}\n",
        root.display()
    )
}

/// A large file, kept connections, several workers, the end by Ctrl-C.
pub fn nginx(options: &Options, place: &Place) -> Outcome {
    let port = port_at(place, 8080)?;
    let site = website()?;
    let conf = site.write("nginx.conf", nginx_conf(port, site.path(), 4))?;
    let here = site.path().display().to_string();
    let spec =
        Spec::new(&format!("nginx-{place}"), program("nginx")?, &["-e", "stderr", "-c", &conf.display().to_string()])
            .port(port)
            .options(&["-v", &volume(&site, &here)]);
    with_vm(options, place, &spec, |vm| {
        same("hello.txt", &first_answer(vm, "/hello.txt")?, b"hello from the guest\n")?;
        let saved = site.path().join("saved");
        let url = format!("http://127.0.0.1:{}/large.bin", vm.port);
        must(
            Command::new(program("curl")?).args(["--noproxy", "*", "-sSf", "-o"]).arg(&saved).arg(&url),
            Duration::from_secs(60),
        )?;
        same("large.bin", &std::fs::read(&saved)?, &large_file())?;
        load(vm.port, 16, 60, "/hello.txt", b"hello from the guest\n")?;
        load(vm.port, 3, 2, "/large.bin", &large_file())?;
        let mut workers = BTreeSet::new();
        for _ in 0..20 {
            // Kept open together, so that the workers share them.
            workers.extend(open(vm.port, 8, "/pid")?.into_iter().map(|(_, pid)| pid));
        }
        if workers.len() < 2 {
            return Err("of four workers only one ever answered".into());
        }
        match Wire::dial(vm.port)?.get("/absent")? {
            (404, _) => {}
            (code, _) => return Err(format!("/absent gave {code}").into()),
        }
        vm.signal(Signal::INT);
        Ok(vm.must_exit(interrupted_code(place, 0))?)
    })
}

/// A Python of the distribution (not a shim of a version manager) and the folders of its library.
pub fn python_of_this_machine() -> Result<(PathBuf, Vec<String>), Bad> {
    let python = Some(PathBuf::from("/usr/bin/python3")).filter(|p| p.exists()).or_else(|| which("python3"));
    let python = python.ok_or("python3 is not installed")?;
    let script = "import sysconfig as s, sys; print(sys.executable); print(s.get_path('stdlib')); print(s.get_path('platstdlib'))";
    let text = must(Command::new(&python).args(["-c", script]), Duration::from_secs(20))?;
    let mut lines = text.lines();
    let real = lines.next().unwrap_or_default().into();
    let folders: BTreeSet<&str> = lines.collect();
    let options = folders.into_iter().map(|f| format!("--with={f}")).collect();
    Ok((real, options))
}

/// `python3 -m http.server`.
pub fn python(options: &Options, place: &Place) -> Outcome {
    let port = port_at(place, 8000)?;
    let site = website()?;
    let here = site.path().display().to_string();
    let (python, library) = python_of_this_machine()?;
    let mut spec = Spec::new(
        &format!("python-http-{place}"),
        python,
        &["-m", "http.server", &port.to_string(), "--directory", &here],
    );
    spec = spec.port(port).options(&["-v", &volume(&site, &here)]).limit(180);
    spec.options.extend(library);
    with_vm(options, place, &spec, |vm| {
        same("hello.txt", &first_answer(vm, "/hello.txt")?, b"hello from the guest\n")?;
        same("large.bin", &http_get(vm.port, "/large.bin")?, &large_file())?;
        let listing = String::from_utf8_lossy(&http_get(vm.port, "/")?).into_owned();
        if !listing.contains("large.bin") {
            return Err(format!("the listing lacks large.bin: {listing}").into());
        }
        vm.signal(Signal::INT);
        Ok(vm.must_exit(interrupted_code(place, 0))?)
    })
}

/// Drives the two static servers, which answer alike: `/large`, `/echo`, `/quit`.
fn drive_static(options: &Options, place: &Place, name: &str, server: PathBuf) -> Outcome {
    let port = port_at(place, 8081)?;
    let spec = Spec::new(&format!("{name}-{place}"), server, &[&port.to_string()]).port(port);
    with_vm(options, place, &spec, |vm| {
        same("/hello", &first_answer(vm, "/hello")?, b"hello from a static server\n")?;
        let large: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(7) >> 3) as u8).collect();
        same("/large", &http_get(vm.port, "/large")?, &large)?;
        load(vm.port, 16, 40, "/hello", b"hello from a static server\n")?;
        // the server is told to end, and with which code
        let _ = http_get(vm.port, "/quit");
        Ok(vm.must_exit(9)?)
    })
}

/// A static Go server, when this machine has a Go compiler.
pub fn go(options: &Options, place: &Place) -> Outcome {
    let Some(go) = which("go") else {
        return Err(Bad::Skipped("no Go compiler here; rust-http is tried in its place".into()));
    };
    let server = output()?.join("http-go");
    let mut build = Command::new(go);
    build.env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local").env("GO111MODULE", "off");
    must(build.arg("build").arg("-o").arg(&server).arg(folder().join("guests/http.go")), Duration::from_secs(300))?;
    drive_static(options, place, "go-http", server)
}

/// A static Rust server.
pub fn rust(options: &Options, place: &Place) -> Outcome {
    let rustc = which("rustc").ok_or("rustc is not installed")?;
    let server = output()?.join("http-rust");
    let source = folder().join("guests/http.rs");
    let mut build = Command::new(rustc);
    build.args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-o"]).arg(&server).arg(source);
    must(&mut build, Duration::from_secs(300))?;
    drive_static(options, place, "rust-http", server)
}
