//! Configuring an interface, as the kernel's command line asks: DHCP, static, SLAAC or nothing.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;

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
