//! The files that every root has, whatever program is in it: empty mount points, names of users, the resolver's files.

use std::fs;
use std::path::Path;

use anyhow::Result;

use crate::tree::{Node, Tree};

/// Folders that a Linux program expects, with their modes.
const FOLDERS: [(&str, u16); 14] = [
    ("/dev", 0o755),
    ("/etc", 0o755),
    ("/home", 0o755),
    ("/mnt", 0o755),
    ("/opt", 0o755),
    ("/proc", 0o555),
    ("/root", 0o700),
    ("/run", 0o755),
    ("/srv", 0o755),
    ("/sys", 0o555),
    ("/tmp", 0o1777),
    ("/var/lib", 0o755),
    ("/var/log", 0o755),
    ("/var/tmp", 0o1777),
];

/// Files of the host that are taken as they are, where they are there.
const TAKEN: [&str; 10] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/gai.conf",
    "/etc/host.conf",
];

/// Adds the layout of the host's root (a merged /usr or not) and the folders that everything expects.
pub fn add_layout(tree: &mut Tree) -> Result<()> {
    for link in ["/bin", "/sbin", "/lib", "/lib64"] {
        if Path::new(link).is_symlink() {
            tree.add_host(Path::new(link))?;
        } else {
            tree.put(Path::new(link), Node::dir(0o755))?;
        }
    }
    for (path, mode) in FOLDERS {
        tree.put_resolved(Path::new(path), Node::dir(mode))?;
    }
    for (link, target) in [("/var/run", "/run"), ("/var/lock", "/run/lock")] {
        tree.put(Path::new(link), Node::link(target))?;
    }
    tree.put(Path::new("/run/lock"), Node::dir(0o1777))
}

/// Adds the files of /etc. `name_servers` go into resolv.conf.
pub fn add_files(tree: &mut Tree, name_servers: &[String]) -> Result<()> {
    for path in TAKEN {
        if Path::new(path).exists() {
            tree.add_host(Path::new(path))?;
        }
    }
    let made = [
        (
            "/etc/hosts",
            "127.0.0.1\tlocalhost\n127.0.1.1\tcoracle\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned(),
        ),
        ("/etc/hostname", "coracle\n".to_owned()),
        (
            "/etc/nsswitch.conf",
            "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"
                .to_owned(),
        ),
        ("/etc/resolv.conf", name_servers.iter().map(|s| format!("nameserver {s}\n")).collect()),
    ];
    for (path, text) in made {
        tree.put(Path::new(path), Node::file(0o644, text))?;
    }
    // OpenSSL's default: one file with all certificates.
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        tree.put_resolved(Path::new("/usr/lib/ssl/cert.pem"), Node::link("/etc/ssl/certs/ca-certificates.crt"))?;
        tree.put_resolved(Path::new("/usr/lib/ssl/openssl.cnf"), Node::link("/etc/ssl/openssl.cnf"))?;
        tree.put_resolved(Path::new("/usr/lib/ssl/certs"), Node::link("/etc/ssl/certs"))?;
    }
    Ok(())
}

/// The host's name servers that a guest on the host's own network can reach (none on the loopback).
pub fn host_name_servers() -> Vec<String> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    text.lines()
        .filter_map(|l| l.strip_prefix("nameserver "))
        .map(|s| s.trim().to_owned())
        .filter(|s| s.parse::<std::net::IpAddr>().is_ok_and(|a| !a.is_loopback()))
        .collect()
}
