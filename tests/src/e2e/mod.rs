//! End-to-end: real programs of this machine, unmodified, served from a VM to real clients.

pub mod http;
pub mod redis;
mod scripts;

use std::path::PathBuf;

use crate::options::{Options, Place};
use crate::report::{Bad, Outcome, Suite};
use crate::run::which;

/// One program: its name and what is done with it.
struct Case {
    name: &'static str,
    run: fn(&Options, &Place) -> Outcome,
}

const CASES: &[Case] = &[
    Case { name: "redis", run: redis::whole },
    Case { name: "redis-ctrl-c", run: redis::interrupted },
    Case { name: "redis-tap", run: redis::over_tap },
    Case { name: "nginx", run: http::nginx },
    Case { name: "memcached", run: redis::memcached },
    Case { name: "lua", run: scripts::lua },
    Case { name: "python-http", run: http::python },
    Case { name: "python-mixed", run: scripts::python_mixed },
    Case { name: "busybox-sh", run: scripts::busybox },
    Case { name: "go-http", run: http::go },
    Case { name: "rust-http", run: http::rust },
    Case { name: "stdin-stdout", run: scripts::cat },
];

/// Runs every case at every place.
pub fn suite(options: &Options) -> Result<bool, String> {
    let mut good = true;
    for place in options.combinations() {
        let mut suite = Suite::new(format!("e2e {place}"));
        for case in CASES.iter().filter(|c| c.name.contains(&options.filter)) {
            suite.case(case.name, || (case.run)(options, &place));
        }
        good &= suite.finish();
    }
    Ok(good)
}

/// A program that the case needs; the case fails without it, as its package is one of `./x test`'s.
fn program(name: &str) -> Result<PathBuf, Bad> {
    which(name).ok_or_else(|| Bad::Failed(format!("{name} is not installed")))
}

/// What the command returns after Ctrl-C: 130 from a VM; on the host the program's own exit code.
fn interrupted_code(place: &Place, own: i32) -> i32 {
    if *place == Place::Host { own } else { 130 }
}
