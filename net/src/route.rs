//! The routing table: longest prefix first, then lowest metric.

use alloc::vec::Vec;

use crate::addr::Ip;

/// Who made a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// By an address on the interface.
    Kernel,
    /// Configured.
    Static,
    /// DHCP.
    Dhcp,
    /// Router advertisement.
    Ra,
}

/// One route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination network.
    pub dst: Ip,
    /// Its prefix length.
    pub prefix: u8,
    /// Where to send; `None`: the destination is on the link.
    pub gateway: Option<Ip>,
    /// Interface index.
    pub interface: u32,
    /// Preference, lower first.
    pub metric: u32,
    /// Who made it.
    pub origin: Origin,
}

/// The table.
#[derive(Default)]
pub(crate) struct Routes(Vec<Route>);

impl Routes {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a route or replaces the one to the same network over the same interface by the same maker.
    pub(crate) fn add(&mut self, route: Route) {
        self.0.retain(|r| {
            !(r.dst == route.dst
                && r.prefix == route.prefix
                && r.interface == route.interface
                && r.origin == route.origin
                && r.gateway.is_some() == route.gateway.is_some())
        });
        let place = self.0.partition_point(|r| (r.prefix, route.metric) > (route.prefix, r.metric));
        self.0.insert(place, route);
    }

    pub(crate) fn remove(&mut self, which: impl Fn(&Route) -> bool) {
        self.0.retain(|r| !which(r));
    }

    pub(crate) fn lookup(&self, dst: Ip, only: Option<u32>) -> Option<&Route> {
        self.0.iter().find(|r| only.is_none_or(|i| i == r.interface) && dst.in_prefix(r.dst, r.prefix))
    }

    pub(crate) fn all(&self) -> &[Route] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn ip(s: &str) -> Ip {
        s.parse::<IpAddr>().unwrap().into()
    }

    fn route(dst: &str, prefix: u8, gateway: Option<&str>, metric: u32) -> Route {
        Route { dst: ip(dst), prefix, gateway: gateway.map(ip), interface: 2, metric, origin: Origin::Static }
    }

    #[test]
    fn longest_prefix_then_lowest_metric() {
        let mut t = Routes::new();
        t.add(route("0.0.0.0", 0, Some("10.0.0.1"), 100));
        t.add(route("10.0.0.0", 8, None, 0));
        t.add(route("10.1.0.0", 16, Some("10.0.0.9"), 0));
        t.add(route("::", 0, Some("fe80::1"), 1024));
        assert_eq!(t.lookup(ip("10.1.2.3"), None).unwrap().gateway, Some(ip("10.0.0.9")));
        assert_eq!(t.lookup(ip("10.2.2.3"), None).unwrap().gateway, None);
        assert_eq!(t.lookup(ip("8.8.8.8"), None).unwrap().gateway, Some(ip("10.0.0.1")));
        assert_eq!(t.lookup(ip("2001:db8::1"), None).unwrap().gateway, Some(ip("fe80::1")));
        t.remove(|r| r.prefix == 0);
        assert!(t.lookup(ip("8.8.8.8"), None).is_none());
    }
}
