//! ARP (RFC 826) for the neighbour cache; formats by smoltcp.

use alloc::sync::Arc;

use hal_core::device::NetBuf;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use crate::addr::Ip;
use crate::interface::Interface;
use crate::packet::{ETHERNET_LEN, ETHERTYPE_ARP};
use crate::stack::{Stack, Tx};

const BROADCAST: [u8; 6] = [0xff; 6];

/// Takes an ARP packet, Ethernet header removed.
pub(crate) fn input(stack: &Stack, interface: &Arc<Interface>, buf: &NetBuf, now: u64, tx: &mut Tx) {
    let Ok(packet) = ArpPacket::new_checked(buf.bytes()) else {
        return;
    };
    let Ok(ArpRepr::EthernetIpv4 {
        operation, source_hardware_addr, source_protocol_addr, target_protocol_addr, ..
    }) = ArpRepr::parse(&packet)
    else {
        return;
    };
    let (source, target) = (Ip::from(source_protocol_addr), Ip::from(target_protocol_addr));
    let mac = source_hardware_addr.0;
    let ours = interface.addresses().iter().any(|a| a.ip == target);
    if source.is_unicast() && !interface.addresses().iter().any(|a| a.ip == source) {
        // A request for us comes from somebody whom we shall answer: remember him.
        let create = ours && operation == ArpOperation::Request;
        stack.learn(interface, source, mac, create, now, tx);
    }
    if ours && operation == ArpOperation::Request {
        send(stack, interface, ArpOperation::Reply, (target, source), mac, mac, tx);
    }
}

/// Asks who has `target`: everybody, or the one who had it.
pub(crate) fn request(stack: &Stack, interface: &Interface, target: Ip, to: Option<[u8; 6]>, tx: &mut Tx) {
    let source = interface.source_for(target).unwrap_or(Ip::ANY4);
    let addresses = (source, target);
    send(stack, interface, ArpOperation::Request, addresses, to.unwrap_or(BROADCAST), [0; 6], tx);
}

/// Tells everybody that `ip` is here (RFC 5227, 2.3).
pub(crate) fn announce(stack: &Stack, interface: &Interface, ip: Ip, tx: &mut Tx) {
    send(stack, interface, ArpOperation::Request, (ip, ip), BROADCAST, [0; 6], tx);
}

fn send(
    stack: &Stack,
    interface: &Interface,
    operation: ArpOperation,
    (source, target): (Ip, Ip),
    to: [u8; 6],
    target_mac: [u8; 6],
    tx: &mut Tx,
) {
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(interface.caps.mac),
        source_protocol_addr: source.to_v4(),
        target_hardware_addr: EthernetAddress(target_mac),
        target_protocol_addr: target.to_v4(),
    };
    let mut buf = NetBuf::new(ETHERNET_LEN + repr.buffer_len());
    buf.set_len(repr.buffer_len());
    repr.emit(&mut ArpPacket::new_unchecked(buf.bytes_mut()));
    stack.push_with_header(interface, to, ETHERTYPE_ARP, buf, tx);
}
