//! The kernel's command line: tokens and percent-encoding, as `docs/command-line.md` says in section 1.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use anyhow::{Result, bail};

/// Firmware copies at most this many bytes, the terminating zero not counted.
pub const MAX_LINE: usize = 4095;
/// Where an image keeps its own tokens.
pub const IMAGE_FILE: &str = "/.coracle/cmdline";
/// Longest [`IMAGE_FILE`] in bytes.
pub const MAX_IMAGE_FILE: usize = 64 << 10;

/// The bytes that stand for themselves.
fn is_plain(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-_./:,@+=~".contains(&b)
}

/// Percent-encodes a value.
pub fn encode(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    for &b in value {
        if is_plain(b) {
            out.push(b as char);
        } else {
            out.push_str(&format!("%{b:02X}"));
        }
    }
    out
}

/// Undoes [`encode`]. A `%` without two hexadecimal digits is an error.
pub fn decode(value: &str) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |d: Option<u8>| d.and_then(|d| (d as char).to_digit(16));
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
            _ => bail!("bad percent-encoding in {value:?}"),
        }
    }
    Ok(out)
}

/// What to run in the guest, and as what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Path of the program file in the image.
    pub init: OsString,
    /// argv, the first element included.
    pub args: Vec<OsString>,
    /// Environment, `NAME=VALUE` each.
    pub env: Vec<OsString>,
    /// Working directory.
    pub cwd: OsString,
}

impl Program {
    /// Sets `name` in the environment; an earlier value goes.
    pub fn set_env(&mut self, pair: &OsStr) {
        let name = |p: &OsStr| p.as_bytes().split(|b| *b == b'=').next().unwrap_or_default().to_vec();
        let wanted = name(pair);
        self.env.retain(|p| name(p) != wanted);
        self.env.push(pair.to_owned());
    }

    /// As tokens.
    pub fn tokens(&self) -> Vec<String> {
        let mut out = vec![format!("init={}", encode(self.init.as_bytes()))];
        out.extend(self.args.iter().map(|a| format!("arg={}", encode(a.as_bytes()))));
        out.extend(self.env.iter().map(|e| format!("env={}", encode(e.as_bytes()))));
        out.push(format!("cwd={}", encode(self.cwd.as_bytes())));
        out
    }

    /// From tokens; keys that are not about the program are passed over.
    pub fn parse(text: &str) -> Result<Program> {
        let mut program = Program { cwd: "/".into(), ..Program::default() };
        for token in text.split_ascii_whitespace() {
            let (key, value) = token.split_once('=').unwrap_or((token, ""));
            let value = OsString::from_vec(decode(value)?);
            match key {
                "init" => program.init = value,
                "arg" => program.args.push(value),
                "env" => program.env.push(value),
                "cwd" => program.cwd = value,
                _ => {}
            }
        }
        if program.init.is_empty() {
            bail!("no init= in {text:?}");
        }
        if program.args.is_empty() {
            program.args.push(program.init.clone());
        }
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encode(&all);
        assert!(text.bytes().all(|b| is_plain(b) || b == b'%'));
        assert_eq!(decode(&text).unwrap(), all);
        assert_eq!(encode(b"a b\"%"), "a%20b%22%25");
    }

    #[test]
    fn bad_percent_is_refused() {
        for bad in ["%", "%4", "%zz", "a%2"] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_program_survives() {
        let p = Program {
            init: "/usr/bin/x y".into(),
            args: vec!["x".into(), "".into(), OsString::from_vec(vec![0xff, b'\n', b'='])],
            env: vec!["A=b=c d".into()],
            cwd: "/tmp".into(),
        };
        assert_eq!(Program::parse(&p.tokens().join(" ")).unwrap(), p);
        assert!(Program::parse("log=warn").is_err());
    }

    #[test]
    fn a_later_environment_value_replaces_an_earlier() {
        let mut p = Program::default();
        p.set_env(OsStr::new("A=1"));
        p.set_env(OsStr::new("AB=2"));
        p.set_env(OsStr::new("A=3"));
        assert_eq!(p.env, ["AB=2", "A=3"]);
    }
}
