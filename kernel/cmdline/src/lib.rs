//! The kernel's command line, as docs/command-line.md defines it: tokens, percent-encoding, keys and their values.
//!
//! A crate of its own so that it is tested on the host. It knows no device and does nothing: bad input is an error that
//! names the token.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod value;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr};

use log::LevelFilter;

pub use value::BadToken;

/// IPv4 of the first network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ip4 {
    /// By DHCP.
    Dhcp,
    /// None.
    None,
    /// Fixed.
    Static {
        /// Address.
        address: Ipv4Addr,
        /// Length of the network's prefix, 0..=32.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ipv4Addr>,
        /// Name servers.
        dns: Vec<Ipv4Addr>,
    },
}

/// IPv6 of the first network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ip6 {
    /// By router advertisements.
    Auto,
    /// None.
    None,
    /// Fixed.
    Static {
        /// Address.
        address: Ipv6Addr,
        /// Length of the network's prefix, 0..=128.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ipv6Addr>,
    },
}

/// Where the root file system is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// The disk or partition that is found to hold one.
    Disk,
    /// The first boot module.
    Module,
    /// This disk or partition, such as `vdb` or `vda3`.
    Volume(String),
}

/// Where the program's console is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// The first serial port.
    Serial,
    /// The console device of the driver with this name.
    Driver(String),
}

/// What the kernel does instead of running a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selftest {
    /// All checks.
    Checks,
    /// Those that take less than a second or so.
    Quick,
    /// Panics, to see the report.
    Panic,
    /// Reads where nothing is.
    Fault,
    /// Uses up a kernel stack.
    Overflow,
}

impl Selftest {
    const ENDS: &[(&str, Self)] = &[
        ("all", Self::Checks),
        ("quick", Self::Quick),
        ("panic", Self::Panic),
        ("fault", Self::Fault),
        ("overflow", Self::Overflow),
    ];
}

/// All that the command line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program's file.
    pub init: Option<Vec<u8>>,
    /// argv; empty means that it is just `init`.
    pub args: Vec<Vec<u8>>,
    /// envp, `NAME=VALUE` each.
    pub env: Vec<Vec<u8>>,
    /// Working directory.
    pub cwd: Vec<u8>,
    /// Host name.
    pub hostname: String,
    /// IPv4.
    pub ip: Ip4,
    /// IPv6.
    pub ip6: Ip6,
    /// Where the root is; `None`: a disk or partition that holds one, else the module.
    pub root: Option<Root>,
    /// Least severe log level to print.
    pub log: LevelFilter,
    /// Where the program's console is; `None`: the first that is there.
    pub console: Option<Console>,
    /// Descriptors 0-2 are a terminal.
    pub tty: bool,
    /// Rows and columns of the terminal.
    pub winsize: (u16, u16),
    /// Descriptor 0 is the console, else /dev/null.
    pub stdin: bool,
    /// Output is framed (docs/command-line.md, section 3).
    pub framing: bool,
    /// The last boot module is more text in this format.
    pub params_in_module: bool,
    /// Print the boot chart.
    pub chart: bool,
    /// Run the kernel's own checks instead of a program.
    pub selftest: Option<Selftest>,
    /// Keys that nobody knows, for a warning each.
    pub unknown: Vec<String>,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self {
            init: None,
            args: Vec::new(),
            env: Vec::new(),
            cwd: Vec::from(*b"/"),
            hostname: String::from("coracle"),
            ip: Ip4::Dhcp,
            ip6: Ip6::Auto,
            root: None,
            log: LevelFilter::Warn,
            console: None,
            tty: false,
            winsize: (24, 80),
            stdin: true,
            framing: false,
            params_in_module: false,
            chart: false,
            selftest: None,
            unknown: Vec::new(),
        }
    }
}

impl CommandLine {
    /// Parses texts in this order; later ones win, `arg` and `env` add up.
    ///
    /// # Errors
    /// The first token with a bad value or bad percent-encoding.
    pub fn parse(texts: &[&[u8]]) -> Result<Self, BadToken> {
        let mut line = Self::default();
        for text in texts {
            let tokens = text.split(|&b| matches!(b, b' ' | b'\t' | b'\n')).filter(|token| !token.is_empty());
            for token in tokens {
                line.take(token).map_err(|reason| BadToken::new(token, reason))?;
            }
        }
        Ok(line)
    }

    /// argv as the program gets it.
    pub fn argv(&self) -> Vec<Vec<u8>> {
        match (&self.init, self.args.is_empty()) {
            (Some(init), true) => Vec::from([init.clone()]),
            _ => self.args.clone(),
        }
    }

    fn take(&mut self, token: &[u8]) -> Result<(), &'static str> {
        let (key, raw) = match token.iter().position(|&b| b == b'=') {
            Some(at) => (&token[..at], Some(&token[at + 1..])),
            None => (token, None),
        };
        let key = core::str::from_utf8(key).map_err(|_| "the key is not UTF-8")?;
        let bytes = || value::decode(raw.ok_or("a value is missing")?);
        let string = || value::decode_string(raw.ok_or("a value is missing")?);
        let text =
            || -> Result<String, &'static str> { String::from_utf8(bytes()?).map_err(|_| "the value is not UTF-8") };
        match key {
            "init" => self.init = Some(value::absolute(string()?)?),
            "arg" => self.args.push(string()?),
            "env" => self.env.push(value::environment(string()?)?),
            "cwd" => self.cwd = value::absolute(string()?)?,
            "hostname" => self.hostname = value::hostname(text()?)?,
            "ip" => self.ip = value::ip4(&text()?)?,
            "ip6" => self.ip6 = value::ip6(&text()?)?,
            "root" => self.root = Some(value::root(&text()?)?),
            "log" => self.log = text()?.parse().map_err(|_| "not off, error, warn, info, debug or trace")?,
            "console" => self.console = Some(value::console(text()?)?),
            "tty" => self.tty = value::switch(&text()?)?,
            "winsize" => self.winsize = value::winsize(&text()?)?,
            "stdin" => self.stdin = value::choice(&text()?, &[("console", true), ("none", false)])?,
            "framing" => self.framing = value::switch(&text()?)?,
            "params" => self.params_in_module = value::choice(&text()?, &[("module", true)])?,
            "chart" => self.chart = value::nothing(raw)?,
            "selftest" if raw.is_none() => self.selftest = Some(Selftest::Checks),
            "selftest" => self.selftest = Some(value::choice(&text()?, Selftest::ENDS)?),
            // Read by the boot code and the buses, before and beside this parser.
            "nokaslr" | "stderr" | "screen" => {}
            _ if key.ends_with("_mmio.device") => {}
            _ => self.unknown.push(String::from(key)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
