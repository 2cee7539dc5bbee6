use core::net::Ipv4Addr;
use std::string::ToString;
use std::vec;

use super::*;

fn parse(text: &str) -> Result<CommandLine, BadToken> {
    CommandLine::parse(&[text.as_bytes()])
}

#[test]
fn reads_the_documented_example() {
    let line = parse(
        "init=/usr/bin/redis-server arg=redis-server arg=--save arg= arg=--protected-mode arg=no \
         env=PATH=/usr/bin:/bin env=GREETING=hello%20world cwd=/ ip=10.0.2.15/24,10.0.2.2,10.0.2.3 log=warn framing=on \
         root=disk",
    )
    .unwrap();
    assert_eq!(line.init.as_deref(), Some(&b"/usr/bin/redis-server"[..]));
    assert_eq!(line.args, [&b"redis-server"[..], b"--save", b"", b"--protected-mode", b"no"]);
    assert_eq!(line.env, [&b"PATH=/usr/bin:/bin"[..], b"GREETING=hello world"]);
    assert_eq!(
        line.ip,
        Ip4::Static {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            dns: vec![Ipv4Addr::new(10, 0, 2, 3)],
        }
    );
    assert!(line.framing && !line.tty && line.stdin);
    assert_eq!(line.root, Some(Root::Disk));
    assert!(line.unknown.is_empty());
}

#[test]
fn has_the_documented_defaults() {
    let line = parse(" \t\n").unwrap();
    assert_eq!(line, CommandLine::default());
    assert_eq!(line.cwd, b"/");
    assert_eq!(line.winsize, (24, 80));
    assert_eq!(line.log, LevelFilter::Warn);
    assert_eq!(line.argv(), Vec::<Vec<u8>>::new());
}

#[test]
fn later_texts_win_and_arguments_add_up() {
    let line = CommandLine::parse(&[b"init=/a arg=x hostname=one", b"init=/b arg=y hostname=two"]).unwrap();
    assert_eq!(line.init.as_deref(), Some(&b"/b"[..]));
    assert_eq!(line.args, [b"x", b"y"]);
    assert_eq!(line.hostname, "two");
}

#[test]
fn argv_defaults_to_the_program() {
    assert_eq!(parse("init=/bin/true").unwrap().argv(), [b"/bin/true"]);
    assert_eq!(parse("init=/bin/true arg=").unwrap().argv(), [b""]);
}

#[test]
fn decodes_bytes_that_are_not_text() {
    let line = parse("init=/x arg=%ff%00x").unwrap_err();
    assert!(line.reason.contains("zero byte"));
    assert_eq!(parse("arg=%fF%25%3d=").unwrap().args, [b"\xff%=="]);
}

#[test]
fn names_the_bad_token() {
    for bad in [
        "arg=%",
        "arg=%4",
        "arg=%zz",
        "init=relative",
        "init",
        "cwd=x",
        "env=NOVALUE",
        "env==x",
        "ip=10.0.2.15",
        "ip=10.0.2.15/33",
        "ip=x/8",
        "ip=1.2.3.4/8,x",
        "ip6=::1",
        "ip6=fe80::1/129",
        "ip6=fe80::1/64,::2,::3",
        "root=net",
        "log=loud",
        "console=V2",
        "tty=yes",
        "winsize=24",
        "winsize=0x80",
        "winsize=24x99999",
        "stdin=file",
        "framing=1",
        "params=file",
        "chart=on",
        "hostname=",
        "selftest=x",
        "hostname=a%20b",
    ] {
        let error = parse(bad).expect_err(bad);
        assert_eq!(error.token, bad);
        assert!(error.to_string().contains(bad), "{error}");
    }
    assert!(CommandLine::parse(&[b"\xff=1"]).is_err());
}

#[test]
fn passes_over_what_it_does_not_know() {
    let line = parse("quiet splash=1 nokaslr stderr=com2 any_mmio.device=512@0xfeb00000:5").unwrap();
    assert_eq!(line.unknown, ["quiet", "splash"]);
}

#[test]
fn survives_any_bytes() {
    // A small generator: every token shape with every byte.
    for key in ["init", "arg", "env", "ip", "ip6", "winsize", "hostname", ""] {
        for a in 0..=255u8 {
            for b in [0u8, b'%', b'/', b'=', b',', 0xff] {
                let mut text = Vec::from(key.as_bytes());
                text.extend([b'=', a, b, a]);
                let _ = CommandLine::parse(&[&text]);
            }
        }
    }
}

#[test]
fn roots() {
    let root = |text: &str| CommandLine::parse(&[text.as_bytes()]).map(|line| line.root);
    assert_eq!(root("root=vda3"), Ok(Some(Root::Volume("vda3".into()))));
    assert_eq!(root("root=/dev/vdab"), Ok(Some(Root::Volume("vdab".into()))));
    for bad in ["root=sda1", "root=vd", "root=vd1", "root=vdA", "root=vdabc", "root=vda123456789"] {
        assert!(root(bad).is_err(), "{bad}");
    }
}
