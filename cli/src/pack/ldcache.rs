//! Writes `/etc/ld.so.cache` for the libraries in the image, so that the loader finds each with one open instead of a
//! search, and finds those in folders that only the host's configuration names.
//!
//! The format is glibc's second one ("glibc-ld.so.cache1.1"): a header, entries of 24 bytes sorted by name, strings.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::tree::{Node, Tree};

const MAGIC: &[u8; 20] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// A library of glibc 2 for x86-64.
const FLAGS: u32 = 0x0303;
/// The header's mark for little-endian files.
const LITTLE: u8 = 2;

/// Puts the cache into the tree; `libraries` are paths as the loader may open them.
pub fn add(tree: &mut Tree, libraries: &BTreeSet<PathBuf>) -> Result<()> {
    let mut by_name = BTreeMap::new();
    for path in libraries {
        if let Some(name) = path.file_name().and_then(|n| n.to_str()) {
            by_name.entry(name.to_owned()).or_insert_with(|| path.clone());
        }
    }
    tree.put(Path::new("/etc/ld.so.cache"), Node::file(0o644, encode(&by_name)))
}

fn encode(libraries: &BTreeMap<String, PathBuf>) -> Vec<u8> {
    let mut sorted: Vec<_> = libraries.iter().collect();
    // The loader halves a list that falls in its own order of names.
    sorted.sort_by(|a, b| compare(b.0.as_bytes(), a.0.as_bytes()));
    let base = HEADER + sorted.len() * ENTRY;
    let (mut entries, mut strings) = (Vec::new(), Vec::new());
    for (name, path) in &sorted {
        let text = path.to_string_lossy();
        let value = base + strings.len();
        let key = value + text.len() - name.len();
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        entries.extend_from_slice(&FLAGS.to_le_bytes());
        entries.extend_from_slice(&(key as u32).to_le_bytes());
        entries.extend_from_slice(&(value as u32).to_le_bytes());
        entries.extend_from_slice(&[0; 12]);
    }
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&(sorted.len() as u32).to_le_bytes());
    out.extend_from_slice(&(strings.len() as u32).to_le_bytes());
    out.push(LITTLE);
    out.resize(HEADER, 0);
    out.extend(entries);
    out.extend(strings);
    out
}

/// glibc's order of library names: runs of digits compare as numbers and come after other characters.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => match (x.is_ascii_digit(), y.is_ascii_digit()) {
                (true, true) => {
                    let (m, n) = (number(&mut a), number(&mut b));
                    if m != n {
                        return m.cmp(&n);
                    }
                }
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) if x != y => return x.cmp(y),
                _ => {
                    a = &a[1..];
                    b = &b[1..];
                }
            },
        }
    }
}

fn number(text: &mut &[u8]) -> u64 {
    let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
    let value = text[..digits].iter().fold(0u64, |n, d| n.wrapping_mul(10).wrapping_add(u64::from(d - b'0')));
    *text = &text[digits..];
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_loaders_order() {
        assert_eq!(compare(b"libc.so.6", b"libc.so.10"), Ordering::Less);
        assert_eq!(compare(b"libc.so.6", b"libcrypt.so.1"), Ordering::Less);
        assert_eq!(compare(b"liba1", b"libab"), Ordering::Greater);
        assert_eq!(compare(b"x", b"x"), Ordering::Equal);
    }

    /// glibc's own tool reads what we write.
    #[test]
    fn ldconfig_prints_it() {
        let names = ["libc.so.6", "libssl.so.3", "libcrypto.so.3", "libm.so.6", "libb2.so.1", "libb10.so.1"];
        let libs = names.iter().map(|n| (n.to_string(), PathBuf::from("/usr/lib/x").join(n))).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), encode(&libs)).unwrap();
        let out = std::process::Command::new("/sbin/ldconfig").arg("-p").arg("-C").arg(file.path()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        for name in names {
            assert!(text.contains(&format!("{name} (libc6,x86-64) => /usr/lib/x/{name}")), "{text}");
        }
    }
}
