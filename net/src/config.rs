//! Configuring an interface, as the kernel's command line asks: DHCP, static, SLAAC or nothing.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

use base::{Errno, Result};

use crate::addr::Ip;
use crate::dhcp::Dhcp;
use crate::interface::Interface;
use crate::ndp::Auto6;
use crate::route::{Origin, Route};
use crate::stack::{Stack, Tx};

/// How an interface gets its IPv4 address (`ip=`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Config4 {
    /// No IPv4.
    None,
    /// DHCP.
    Dhcp,
    /// Fixed.
    Static {
        /// Address.
        ip: Ip,
        /// Prefix length.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ip>,
        /// Name servers.
        dns: Vec<Ip>,
    },
}

/// How an interface gets its IPv6 addresses (`ip6=`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Config6 {
    /// No IPv6.
    None,
    /// A link-local address, and SLAAC.
    Auto,
    /// A link-local address, and a fixed one.
    Static {
        /// Address.
        ip: Ip,
        /// Prefix length.
        prefix: u8,
        /// Default gateway.
        gateway: Option<Ip>,
    },
}

fn address(text: &str, v4: bool) -> Result<Ip> {
    let ip: core::net::IpAddr = text.parse().map_err(|_| Errno::EINVAL)?;
    if ip.is_ipv4() == v4 { Ok(ip.into()) } else { Err(Errno::EINVAL) }
}

fn network(text: &str, v4: bool) -> Result<(Ip, u8)> {
    let (ip, prefix) = text.split_once('/').ok_or(Errno::EINVAL)?;
    let ip = address(ip, v4)?;
    let prefix: u8 = prefix.parse().map_err(|_| Errno::EINVAL)?;
    if prefix > if v4 { 32 } else { 128 } || !ip.is_unicast() {
        return Err(Errno::EINVAL);
    }
    Ok((ip, prefix))
}

impl Config4 {
    /// From the value of `ip=` (docs/command-line.md). `EINVAL` if it is none.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "none" => return Ok(Self::None),
            "dhcp" => return Ok(Self::Dhcp),
            _ => {}
        }
        let mut parts = text.split(',');
        let (ip, prefix) = network(parts.next().unwrap_or(""), true)?;
        let gateway = match parts.next() {
            None | Some("") => None,
            Some(g) => Some(address(g, true)?),
        };
        let dns = parts
            .map(|d| d.parse::<core::net::IpAddr>().map(Ip::from).map_err(|_| Errno::EINVAL))
            .collect::<Result<_>>()?;
        Ok(Self::Static { ip, prefix, gateway, dns })
    }
}

impl Config6 {
    /// From the value of `ip6=`. `EINVAL` if it is none.
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "none" => return Ok(Self::None),
            "auto" => return Ok(Self::Auto),
            _ => {}
        }
        let mut parts = text.split(',');
        let (ip, prefix) = network(parts.next().unwrap_or(""), false)?;
        let gateway = match parts.next() {
            None | Some("") => None,
            Some(g) => Some(address(g, false)?),
        };
        if parts.next().is_some() {
            return Err(Errno::EINVAL);
        }
        Ok(Self::Static { ip, prefix, gateway })
    }
}

impl Stack {
    /// Starts an interface. Returns at once: addresses from the network come later.
    pub fn configure(self: &Arc<Self>, interface: &Arc<Interface>, v4: &Config4, v6: &Config6) {
        let now = self.env().now_ns();
        let mut tx = Tx::new();
        match v4 {
            Config4::None => {}
            Config4::Dhcp => Dhcp::start(self, interface, now),
            Config4::Static { ip, prefix, gateway, dns } => {
                self.add_address(interface, *ip, *prefix);
                self.default_route(interface, Ip::ANY4, *gateway);
                self.static_dns.lock().extend(dns);
            }
        }
        match v6 {
            Config6::None => {}
            Config6::Auto => Auto6::start(self, interface, true, now, &mut tx),
            Config6::Static { ip, prefix, gateway } => {
                Auto6::start(self, interface, false, now, &mut tx);
                self.add_address(interface, *ip, *prefix);
                crate::ndp::detect_duplicates(self, interface, *ip, now, &mut tx);
                self.default_route(interface, Ip::ANY, *gateway);
            }
        }
        self.finish(&mut tx, now);
        self.run_timers();
    }

    fn default_route(&self, interface: &Interface, any: Ip, gateway: Option<Ip>) {
        if let Some(gateway) = gateway {
            self.add_route(Route {
                dst: any,
                prefix: 0,
                gateway: Some(gateway),
                interface: interface.index,
                metric: 0,
                origin: Origin::Static,
            });
        }
    }

    /// The name servers that are known, configured ones first.
    pub fn name_servers(&self) -> Vec<Ip> {
        let mut all = self.static_dns.lock().clone();
        for interface in self.interfaces() {
            if let Some(dhcp) = interface.dhcp.get() {
                all.extend(dhcp.dns());
            }
        }
        all
    }

    /// The text of /etc/resolv.conf for an image that has none.
    pub fn resolv_conf(&self) -> String {
        let mut text = String::new();
        for ip in self.name_servers() {
            let _ = writeln!(text, "nameserver {ip}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_command_line() {
        assert_eq!(Config4::parse("dhcp"), Ok(Config4::Dhcp));
        let ip = |s: &str| Ip::from(s.parse::<core::net::IpAddr>().unwrap());
        assert_eq!(
            Config4::parse("10.0.2.15/24,10.0.2.2,10.0.2.3,1.1.1.1"),
            Ok(Config4::Static {
                ip: ip("10.0.2.15"),
                prefix: 24,
                gateway: Some(ip("10.0.2.2")),
                dns: alloc::vec![ip("10.0.2.3"), ip("1.1.1.1")],
            })
        );
        for bad in ["", "10.0.2.15", "10.0.2.15/33", "fd00::1/64", "10.0.2.15/24,x", "10.0.2.15/24,10.0.2.2,", "dhcp,"]
        {
            assert_eq!(Config4::parse(bad), Err(Errno::EINVAL), "{bad}");
        }
        assert_eq!(
            Config6::parse("fd00::2/64,fd00::1"),
            Ok(Config6::Static { ip: ip("fd00::2"), prefix: 64, gateway: Some(ip("fd00::1")) })
        );
        assert_eq!(Config6::parse("10.0.0.1/8"), Err(Errno::EINVAL));
    }
}
