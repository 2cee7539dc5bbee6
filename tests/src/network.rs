//! How guests are reached: a tap device of this process, or QEMU's own network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::run::{free_port, must};

/// The guest's hardware address.
pub const MAC: &str = "52:54:00:43:4f:52";

/// Names of our tap devices: this and the number of the process.
const PREFIX: &str = "corb";

/// A guest's network.
#[derive(Debug)]
pub enum Network {
    /// A tap device of ours, which goes away with this value; its subnet's third number.
    Tap(String, u8),
    /// QEMU's own network, where a tap device cannot be had: much slower, and told in results.
    User,
}

impl Network {
    /// A tap device when this process may make one, with several queues if the guest's device has several.
    pub fn set_up(queues: u32) -> Network {
        Self::forget_the_dead();
        let id = std::process::id();
        let name = format!("{PREFIX}{id}");
        let subnet = (id % 254 + 1) as u8;
        let ip = |args: &[&str]| must(Command::new("ip").args(args), Duration::from_secs(10));
        let host = Self::address(subnet, 1);
        let queues: &[&str] = if queues > 1 { &["multi_queue"] } else { &[] };
        let made = ip(&[&["tuntap", "add", "dev", &name, "mode", "tap"], queues].concat())
            .and_then(|_| ip(&["addr", "add", &format!("{host}/24"), "dev", &name]))
            .and_then(|_| ip(&["link", "set", &name, "up"]));
        match made {
            Ok(_) => Network::Tap(name, subnet),
            Err(why) => {
                eprintln!("no tap device ({}); QEMU's own network instead", why.lines().next().unwrap_or_default());
                Network::User
            }
        }
    }

    /// Removes the devices of processes that were killed.
    fn forget_the_dead() {
        let devices = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        for name in devices.filter_map(|d| d.file_name().into_string().ok()) {
            if let Some(pid) = name.strip_prefix(PREFIX).and_then(|pid| pid.parse::<u32>().ok())
                && !Path::new(&format!("/proc/{pid}")).exists()
            {
                let _ = must(Command::new("ip").args(["link", "del", &name]), Duration::from_secs(10));
            }
        }
    }

    /// Tells this machine the guest's hardware address, [`MAC`]: a lost ARP request would hide a whole second.
    pub fn pin(self) -> Network {
        if let Network::Tap(name, subnet) = &self {
            let guest = Self::address(*subnet, 2).to_string();
            let pinned = must(
                Command::new("ip").args(["neigh", "replace", &guest, "lladdr", MAC, "dev", name, "nud", "permanent"]),
                Duration::from_secs(10),
            );
            if let Err(why) = pinned {
                eprintln!("the guest's hardware address cannot be pinned: {why}");
            }
        }
        self
    }

    fn address(subnet: u8, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, subnet, host)
    }

    /// The guest's address and prefix.
    pub fn guest(&self) -> String {
        match self {
            Network::Tap(_, subnet) => format!("{}/24", Self::address(*subnet, 2)),
            Network::User => "10.0.2.15/24".into(),
        }
    }

    /// The value of Coracle's `ip=`.
    pub fn ip_option(&self) -> String {
        match self {
            Network::Tap(_, subnet) => format!("{},{}", self.guest(), Self::address(*subnet, 1)),
            Network::User => "10.0.2.15/24,10.0.2.2,10.0.2.3".into(),
        }
    }

    /// Where the guest's `port` is reached, when QEMU's own network forwards to a port of its choice.
    pub fn peer(&self, port: u16) -> Result<SocketAddr, String> {
        Ok(match self {
            Network::Tap(_, subnet) => SocketAddr::new(IpAddr::V4(Self::address(*subnet, 2)), port),
            Network::User => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), free_port()?),
        })
    }

    /// In words.
    pub fn words(&self) -> &'static str {
        match self {
            Network::Tap(..) => "virtio-net on a tap device",
            Network::User => "virtio-net on QEMU's user network",
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if let Network::Tap(name, _) = self {
            let _ = must(Command::new("ip").args(["link", "del", name]), Duration::from_secs(10));
        }
    }
}
