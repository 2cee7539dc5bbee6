//! Bringing the network up: interfaces and their configuration, /proc/net, /etc/resolv.conf.

use alloc::vec::Vec;

use base::{Errno, Result};
use cmdline::{Ip4, Ip6};
use fs::inode::New;
use fs::vfs::{Dentry, Resolve};
use fs::{Credentials, Path, Walk};
use net::config::{Config4, Config6};

use super::{proc, stack};
use crate::devices;
use crate::files::net_files;

fn config4(ip: &Ip4) -> Config4 {
    match ip {
        Ip4::None => Config4::None,
        Ip4::Dhcp => Config4::Dhcp,
        Ip4::Static { address, prefix, gateway, dns } => Config4::Static {
            ip: (*address).into(),
            prefix: *prefix,
            gateway: gateway.map(Into::into),
            dns: dns.iter().map(|a| (*a).into()).collect(),
        },
    }
}

fn config6(ip: &Ip6) -> Config6 {
    match ip {
        Ip6::None => Config6::None,
        Ip6::Auto => Config6::Auto,
        Ip6::Static { address, prefix, gateway } => {
            Config6::Static { ip: (*address).into(), prefix: *prefix, gateway: gateway.map(Into::into) }
        }
    }
}

/// Gives the network interfaces to the stack and starts to configure them: the first as the command line says, the
/// others by DHCP and SLAAC. Returns at once: addresses from the network come later.
pub fn init(ip: &Ip4, ip6: &Ip6) {
    let stack = stack();
    let interfaces = devices::net::attach(stack);
    if interfaces.is_empty() {
        match ip {
            Ip4::Static { address, prefix, .. } => {
                log::warn!("ip={address}/{prefix}: there is no network interface, only the loopback");
            }
            _ => log::info!("no network interface, only the loopback"),
        }
    }
    for (number, interface) in interfaces.iter().enumerate() {
        if number == 0 {
            stack.configure(interface, &config4(ip), &config6(ip6));
        } else {
            stack.configure(interface, &Config4::Dhcp, &Config6::Auto);
        }
    }
    net_files::register("tcp", || proc::tcp(false));
    net_files::register("tcp6", || proc::tcp(true));
    net_files::register("udp", || proc::udp(false));
    net_files::register("udp6", || proc::udp(true));
    net_files::register("dev", proc::dev);
    net_files::register("route", proc::route);
    net_files::register("arp", proc::arp);
    net_files::register("if_inet6", proc::if_inet6);
}

/// If the image has no name servers of its own, shows those of the network in /etc/resolv.conf: whatever they are when
/// the file is read.
pub fn provide_resolv_conf(root: &Path) -> Result<()> {
    let credentials = Credentials::root();
    let walk = Walk { root, start: root, cred: &credentials };
    const NAME: &[u8] = b"/etc/resolv.conf";
    let path = match walk.lookup(NAME, Resolve::FOLLOW) {
        Ok(path) if path.inode()?.size() > 0 => return Ok(()),
        Ok(path) => path,
        Err(Errno::ENOENT) => {
            match walk.create(b"/etc", New::Directory, 0o755) {
                Ok(_) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error),
            }
            walk.create(NAME, New::File, 0o644)?
        }
        Err(error) => return Err(error),
    };
    let text = fs::synth::file(|| Ok(Vec::from(stack().resolv_conf())));
    path.mount_here(Dentry::root(text), "coracle", "network", true)?;
    Ok(())
}
