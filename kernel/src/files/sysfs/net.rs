//! /sys/class/net: the network interfaces.

use alloc::format;
use alloc::vec::Vec;

use base::Errno;
use fs::FileType;
use fs::synth::{dir, dynamic, fixed};

use super::{Node, text};
use crate::devices::net::{Nic, nics};

/// Index of the loopback interface; the others follow.
const LOOPBACK: usize = 1;

fn loopback() -> Node {
    dir(alloc::vec![
        ("address", fixed("00:00:00:00:00:00\n")),
        ("carrier", fixed("1\n")),
        ("ifindex", fixed("1\n")),
        ("mtu", fixed("65536\n")),
        ("operstate", fixed("unknown\n")),
        ("type", fixed("772\n")),
    ])
}

fn node(number: usize, nic: &'static Nic) -> Node {
    let caps = nic.caps();
    let [a, b, c, d, e, f] = caps.mac;
    let state = |up: bool| if up { "up\n" } else { "down\n" };
    dir(alloc::vec![
        ("addr_len", fixed("6\n")),
        ("address", text(move || format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\n"))),
        ("broadcast", fixed("ff:ff:ff:ff:ff:ff\n")),
        ("carrier", text(|| format!("{}\n", u8::from(nic.link_up())))),
        ("device", super::device(nic.driver())),
        ("ifindex", text(move || format!("{}\n", LOOPBACK + 1 + number))),
        ("mtu", text(|| format!("{}\n", caps.mtu))),
        ("operstate", text(move || state(nic.link_up()).into())),
        ("type", fixed("1\n")),
    ])
}

/// By name: `lo`, `eth0` and so on.
pub fn interfaces() -> Node {
    let name = |number: usize| format!("eth{number}").into_bytes();
    dynamic(
        alloc::vec![("lo", loopback())],
        move |wanted| {
            let (number, nic) = nics().iter().enumerate().find(|(n, _)| name(*n) == wanted).ok_or(Errno::ENOENT)?;
            Ok(node(number, nic))
        },
        move || Ok((0..nics().len()).map(|n| (name(n), FileType::Directory)).collect::<Vec<_>>()),
    )
}
