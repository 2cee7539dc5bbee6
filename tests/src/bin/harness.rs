//! Runs test suites: `harness boot disk volumes unlucky conformance e2e robust matrix soak`. The exit code is 0 when everything passed.

use std::process::ExitCode;

use tests::options::Options;
use tests::report::Suite;
use tests::{boot, conformance, disk, e2e, matrix, robust, soak, unlucky, volumes};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let mut good = true;
    for suite in &options.suites {
        let result = match suite.as_str() {
            "boot" => boot::suite(&options),
            "conformance" => conformance::suite(&options),
            "disk" => disk::suite(&options),
            "e2e" => e2e::suite(&options),
            "robust" => robust::suite(&options),
            "matrix" => matrix::suite(&options),
            "unlucky" => unlucky::suite(&options),
            "volumes" => volumes::suite(&options),
            _ => soak::suite(&options),
        };
        good &= result.unwrap_or_else(|why| {
            let mut broken = Suite::new(suite.clone());
            broken.fail("set-up", &why);
            broken.finish()
        });
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
