//! QEMU's machine protocol, as far as these tests command a running VM.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::run::retry;

/// How long QEMU may take for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A connection to a VM's QEMU.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// The arguments of `coracle run` that make QEMU listen.
    pub fn options(socket: &Path) -> [String; 2] {
        ["--qemu=-qmp".into(), format!("--qemu=unix:{},server=on,wait=off", socket.display())]
    }

    /// Connects to where QEMU listens, or soon will.
    pub fn connect(socket: &Path) -> Result<Qmp, String> {
        let stream = retry(LIMIT, || UnixStream::connect(socket).map_err(|e| e.to_string()))?;
        stream.set_read_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
        let mut qmp = Qmp(BufReader::new(stream));
        qmp.line()?; // the greeting
        qmp.call(r#"{"execute":"qmp_capabilities"}"#)?;
        Ok(qmp)
    }

    /// Presses the power button.
    pub fn power_button(&mut self) -> Result<(), String> {
        self.call(r#"{"execute":"system_powerdown"}"#)
    }

    /// Takes the medium from the disk with this name: from now on it answers with errors only.
    pub fn take_disk(&mut self, name: &str) -> Result<(), String> {
        self.call(&format!(
            r#"{{"execute":"human-monitor-command","arguments":{{"command-line":"drive_del {name}"}}}}"#
        ))
    }

    fn call(&mut self, command: &str) -> Result<(), String> {
        writeln!(self.0.get_mut(), "{command}").map_err(|e| e.to_string())?;
        loop {
            let line = self.line()?;
            let line = line.trim();
            // Both commands' answers are empty; events come in between.
            if line == r#"{"return": {}}"# || line == r#"{"return": ""}"# {
                return Ok(());
            }
            if line.starts_with(r#"{"return""#) || line.starts_with(r#"{"error""#) {
                return Err(format!("QEMU answers {command} with {line}"));
            }
        }
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => Err("QEMU ended the connection".into()),
            Ok(_) => Ok(line),
            Err(why) => Err(format!("QEMU does not answer: {why}")),
        }
    }
}
