//! Values: decoding, and what each kind of value may be.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::{Console, Ip4, Ip6, Root};

/// A token that the kernel refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadToken {
    /// The token as it came, lossily as text, cut to a line's length.
    pub token: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl BadToken {
    pub(crate) fn new(token: &[u8], reason: &'static str) -> Self {
        let shown = &token[..token.len().min(200)];
        Self { token: String::from_utf8_lossy(shown).into_owned(), reason }
    }
}

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad command line: {:?}: {}", self.token, self.reason)
    }
}

type Parsed<T> = Result<T, &'static str>;

/// Where the root is. Disks are named as the kernel names them: `vd`, letters, a number for a partition.
pub fn root(text: &str) -> Parsed<Root> {
    let volume = |name: &str| {
        let letters = name.trim_end_matches(|c: char| c.is_ascii_digit());
        (1..=2).contains(&letters.len()) && name.len() <= 8 && letters.bytes().all(|b| b.is_ascii_lowercase())
    };
    match text {
        "disk" => Ok(Root::Disk),
        "module" => Ok(Root::Module),
        _ if text.strip_prefix("vd").or(text.strip_prefix("/dev/vd")).is_some_and(volume) => {
            Ok(Root::Volume(String::from(text.trim_start_matches("/dev/"))))
        }
        _ => Err("not disk, module or a name such as vda3"),
    }
}

/// Undoes percent-encoding.
pub fn decode(raw: &[u8]) -> Parsed<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = after;
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&d| char::from(d).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("% is not followed by two hexadecimal digits");
        };
        out.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    Ok(out)
}

/// As [`decode`], for what is handed to a program.
pub fn decode_string(raw: &[u8]) -> Parsed<Vec<u8>> {
    let bytes = decode(raw)?;
    if bytes.contains(&0) { Err("a program's string cannot hold a zero byte") } else { Ok(bytes) }
}

pub fn absolute(path: Vec<u8>) -> Parsed<Vec<u8>> {
    if path.first() == Some(&b'/') { Ok(path) } else { Err("not an absolute path") }
}

pub fn environment(entry: Vec<u8>) -> Parsed<Vec<u8>> {
    match entry.iter().position(|&b| b == b'=') {
        Some(at) if at > 0 => Ok(entry),
        _ => Err("not NAME=VALUE"),
    }
}

/// Linux takes 64 bytes; letters, digits, dots, hyphens.
pub fn hostname(name: String) -> Parsed<String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if (1..=64).contains(&name.len()) && name.bytes().all(good) {
        Ok(name)
    } else {
        Err("a host name has 1 to 64 letters, digits, dots and hyphens")
    }
}

pub fn console(name: String) -> Parsed<Console> {
    match name.as_str() {
        "serial" => Ok(Console::Serial),
        _ if !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') => Ok(Console::Driver(name)),
        _ => Err("neither serial nor a driver's name"),
    }
}

pub fn choice<T: Copy>(value: &str, choices: &[(&str, T)]) -> Parsed<T> {
    choices.iter().find(|(name, _)| *name == value).map(|&(_, t)| t).ok_or("not one of the values it can have")
}

pub fn switch(value: &str) -> Parsed<bool> {
    choice(value, &[("on", true), ("off", false)]).map_err(|_| "neither on nor off")
}

pub fn nothing(raw: Option<&[u8]>) -> Parsed<bool> {
    if raw.is_none() { Ok(true) } else { Err("this key takes no value") }
}

pub fn winsize(value: &str) -> Parsed<(u16, u16)> {
    let bad = "not ROWSxCOLUMNS";
    let (rows, columns) = value.split_once('x').ok_or(bad)?;
    match (rows.parse(), columns.parse()) {
        (Ok(rows @ 1..), Ok(columns @ 1..)) => Ok((rows, columns)),
        _ => Err(bad),
    }
}

fn with_prefix<A: FromStr>(text: &str, longest: u8) -> Parsed<(A, u8)> {
    let (address, prefix) = text.split_once('/').ok_or("the address has no /PREFIX")?;
    let address = address.parse().map_err(|_| "not an address")?;
    match prefix.parse() {
        Ok(prefix) if prefix <= longest => Ok((address, prefix)),
        _ => Err("the prefix is out of range"),
    }
}

pub fn ip4(value: &str) -> Parsed<Ip4> {
    match value {
        "dhcp" => return Ok(Ip4::Dhcp),
        "none" => return Ok(Ip4::None),
        _ => {}
    }
    let mut parts = value.split(',');
    let (address, prefix) = with_prefix(parts.next().unwrap_or(""), 32)?;
    let gateway = parts.next().map(str::parse).transpose().map_err(|_| "the gateway is not an address")?;
    let dns = parts.map(str::parse).collect::<Result<_, _>>().map_err(|_| "a name server is not an address")?;
    Ok(Ip4::Static { address, prefix, gateway, dns })
}

pub fn ip6(value: &str) -> Parsed<Ip6> {
    match value {
        "auto" => return Ok(Ip6::Auto),
        "none" => return Ok(Ip6::None),
        _ => {}
    }
    let mut parts = value.split(',');
    let (address, prefix) = with_prefix(parts.next().unwrap_or(""), 128)?;
    let gateway = parts.next().map(str::parse).transpose().map_err(|_| "the gateway is not an address")?;
    match parts.next() {
        None => Ok(Ip6::Static { address, prefix, gateway }),
        Some(_) => Err("more than ADDRESS/PREFIX,GATEWAY"),
    }
}
