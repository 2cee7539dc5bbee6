//! UDP, ICMP, NDP, SLAAC, DHCP, fragments: between stacks and against a peer made by hand.
mod common;
use common::*;

use std::sync::Arc;

use base::io::{In, Out};
use base::{Errno, Events};
use net::config::{Config4, Config6};
use net::udp::Udp;
use net::{Endpoint, Family, Ip};
use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

fn udp(world: &World, host: usize) -> Arc<Udp> {
    Udp::new(&world.hosts[host].stack, Family::V6)
}

fn send_to(socket: &Arc<Udp>, data: &[u8], to: Endpoint) -> base::Result<usize> {
    socket.send(&mut In::kernel(data), Some(to), None)
}

fn receive(socket: &Arc<Udp>) -> base::Result<(Vec<u8>, Endpoint)> {
    let item = socket.recv(false)?;
    let mut data = vec![0; item.len()];
    assert_eq!(item.copy(&mut Out::kernel(&mut data)), Ok(data.len()));
    Ok((data, item.from))
}

#[test]
fn datagrams_over_both_families_whole_and_in_fragments() {
    let world = World::new(1, 2, CALM);
    let server = udp(&world, 0);
    server.bind(at("::", 53)).unwrap();
    for (to, from) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
        for len in [0, 1, 1000, 1473, 8000, 60_000] {
            let client = udp(&world, 1);
            let data: Vec<u8> = (0..len).map(|i| i as u8).collect();
            assert_eq!(send_to(&client, &data, at(to, 53)), Ok(len));
            assert!(world.run_until(SECOND, || server.poll().contains(Events::IN)), "{to} {len}");
            let (got, peer) = receive(&server).unwrap();
            assert!(got == data, "{len} bytes");
            assert_eq!(peer, at(from, client.local().port));
            assert_eq!(send_to(&server, b"answer", peer), Ok(6));
            assert!(world.run_until(SECOND, || client.poll().contains(Events::IN)));
            assert_eq!(receive(&client).unwrap(), (b"answer".to_vec(), at(to, 53)));
            client.close();
        }
    }
    assert_eq!(send_to(&server, &[0; 65508], at("10.0.0.2", 1)), Err(Errno::EMSGSIZE));
    assert_eq!(receive(&server).err(), Some(Errno::EAGAIN));
}

#[test]
fn a_closed_port_refuses_connected_sockets() {
    for to in ["10.0.0.1", "fd00::1", "127.0.0.1", "::1"] {
        let world = World::new(2, 2, CALM);
        let client = udp(&world, 1);
        client.connect(Some(at(to, 9))).unwrap();
        assert_eq!(client.send(&mut In::kernel(b"x"), None, None), Ok(1));
        assert!(world.run_until(SECOND, || client.poll().contains(Events::ERR)), "{to}");
        assert_eq!(client.recv(false).err(), Some(Errno::ECONNREFUSED));
        assert_eq!(client.recv(false).err(), Some(Errno::EAGAIN));
    }
}

#[test]
fn bind_conflicts_as_linux_has_them() {
    let world = World::new(3, 1, CALM);
    let (a, b) = (udp(&world, 0), udp(&world, 0));
    a.bind(at("10.0.0.1", 5000)).unwrap();
    assert_eq!(b.bind(at("::", 5000)), Err(Errno::EADDRINUSE));
    assert_eq!(b.bind(at("10.0.0.9", 5000)), Err(Errno::EADDRNOTAVAIL));
    b.bind(at("fd00::1", 5000)).unwrap();
    let first = world.tcp(0);
    first.bind(at("0.0.0.0", 80)).unwrap();
    let second = world.tcp(0);
    assert_eq!(second.bind(at("10.0.0.1", 80)), Err(Errno::EADDRINUSE));
    first.set_options(|o| o.reuse_port = true);
    first.close();
    second.set_options(|o| o.reuse_port = true);
    second.bind(at("0.0.0.0", 80)).unwrap();
    let third = world.tcp(0);
    third.set_options(|o| o.reuse_port = true);
    third.bind(at("0.0.0.0", 80)).unwrap();
    second.listen(1).unwrap();
    third.listen(1).unwrap();
    let only6 = world.tcp(0);
    only6.set_options(|o| o.v6_only = true);
    only6.bind(at("::", 80)).unwrap();
}

#[test]
fn multicast_reaches_members_and_broadcast_needs_permission() {
    let world = World::new(4, 3, CALM);
    let group = ip("239.1.2.3");
    let members: Vec<_> = (0..2)
        .map(|h| {
            let s = udp(&world, h);
            s.bind(at("::", 7000)).unwrap();
            s.membership(group, 0, true).unwrap();
            s
        })
        .collect();
    let other = udp(&world, 2);
    other.bind(at("::", 7000)).unwrap();
    let sender = udp(&world, 2);
    send_to(&sender, b"all", Endpoint::new(group, 7000)).unwrap();
    world.run(SECOND);
    for m in &members {
        assert_eq!(receive(m).unwrap().0, b"all");
    }
    assert_eq!(send_to(&sender, b"x", at("10.0.0.255", 7000)), Err(Errno::EACCES));
    sender.set_options(|o| o.broadcast = true);
    send_to(&sender, b"y", at("10.0.0.255", 7000)).unwrap();
    world.run(SECOND);
    for m in members.iter().chain([&other]) {
        assert_eq!(receive(m).unwrap().0, b"y");
        m.close();
    }
}

#[test]
fn nobody_answers_for_an_address() {
    for to in ["10.0.0.77", "fd00::77"] {
        let world = World::new(5, 2, CALM);
        let client = world.tcp(1);
        assert_eq!(client.connect(at(to, 80)), Err(Errno::EINPROGRESS));
        assert!(world.run_until(10 * SECOND, || client.poll().contains(Events::ERR)), "{to}");
        assert_eq!(client.take_error(), Some(Errno::EHOSTUNREACH));
    }
}

#[test]
fn tcp_over_ipv6_and_neighbours_that_move() {
    let world = World::new(6, 2, CALM);
    let listener = world.listen(0, at("::", 80));
    let (client, server) = world.connect(&listener, at("fd00::1", 80));
    let mut up = Transfer::new(&client, &server, 1_000_000, 1);
    assert!(world.run_until(10 * SECOND, || up.turn()));
    // An hour of silence: neighbours were forgotten and are found again.
    let (client, server) = world.connect(&listener, at("fd00::1", 80));
    world.run(3600 * SECOND);
    let mut down = Transfer::new(&server, &client, 100_000, 2);
    assert!(world.run_until(10 * SECOND, || down.turn()));
}

fn frame(world: &World, host: usize, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut f = world.hosts[host].interface.caps.mac.to_vec();
    f.extend_from_slice(&[2, 9, 9, 9, 9, 9]);
    f.extend_from_slice(&kind.to_be_bytes());
    f.extend_from_slice(body);
    f
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ipv4(src: Ip, dst: Ip, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut h = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
    h.extend_from_slice(&src.v4_bytes());
    h.extend_from_slice(&dst.v4_bytes());
    h[2..4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
    let sum = checksum(&h);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    h.extend_from_slice(payload);
    h
}

fn icmpv6(src: Ip, dst: Ip, mut message: Vec<u8>) -> Vec<u8> {
    let mut pseudo = src.v6_bytes().to_vec();
    pseudo.extend_from_slice(&dst.v6_bytes());
    pseudo.extend_from_slice(&(message.len() as u32).to_be_bytes());
    pseudo.extend_from_slice(&[0, 0, 0, 58]);
    pseudo.extend_from_slice(&message);
    let sum = checksum(&pseudo);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut p = vec![0x60, 0, 0, 0, 0, message.len() as u8, 58, 255];
    p.extend_from_slice(&src.v6_bytes());
    p.extend_from_slice(&dst.v6_bytes());
    p.extend_from_slice(&message);
    p
}

#[test]
fn answers_pings() {
    let world = World::new(7, 1, CALM);
    let mut echo = vec![8, 0, 0, 0, 0, 1, 0, 2];
    echo.extend_from_slice(b"payload");
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    // The asker says who it is first.
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9, 10, 0, 0, 9, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1];
    world.start_log();
    world.inject(0, &frame(&world, 0, 0x806, &arp));
    arp[7] = 2;
    let answer = &world.take_log()[0];
    assert_eq!(answer[20..32], [0, 2, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1]);
    world.inject(0, &frame(&world, 0, 0x800, &ipv4(ip("10.0.0.9"), ip("10.0.0.1"), 1, &echo)));
    let log = world.take_log();
    assert_eq!((log.len(), log[0][34], &log[0][42..]), (1, 0, &b"payload"[..]));
    assert_eq!(checksum(&log[0][34..]), 0);
    let mut v6 = vec![128, 0, 0, 0, 0, 1, 0, 2, 1, 2, 3];
    v6.truncate(11);
    let solicit = {
        let mut m = vec![135, 0, 0, 0, 0, 0, 0, 0];
        m.extend_from_slice(&ip("fd00::1").v6_bytes());
        m.extend_from_slice(&[1, 1, 2, 9, 9, 9, 9, 9]);
        icmpv6(ip("fd00::9"), ip("ff02::1:ff00:1"), m)
    };
    let mut f = frame(&world, 0, 0x86dd, &solicit);
    f[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
    world.inject(0, &f);
    assert_eq!(world.take_log()[0][54], 136, "a neighbour advertisement");
    world.inject(0, &frame(&world, 0, 0x86dd, &icmpv6(ip("fd00::9"), ip("fd00::1"), v6)));
    assert_eq!(world.take_log()[0][54], 129, "an echo reply");
}

#[test]
fn configures_itself_from_router_advertisements() {
    let world = World::bare(8, 1, CALM);
    let host = &world.hosts[0];
    world.start_log();
    host.stack.configure(&host.interface, &Config4::None, &Config6::Auto);
    world.run(20 * SECOND);
    let log = world.take_log();
    assert_eq!(log.iter().filter(|f| f[54] == 133).count(), 3, "three solicitations");
    assert_eq!(log[0][54], 135, "duplicate address detection first");
    let mut ra = vec![134, 0, 0, 0, 64, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0];
    ra.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0, 0, 100, 0, 0, 0, 50, 0, 0, 0, 0]);
    ra.extend_from_slice(&ip("2001:db8:1::").v6_bytes());
    let mut f = frame(&world, 0, 0x86dd, &icmpv6(ip("fe80::99"), ip("ff02::1"), ra));
    f[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]);
    world.inject(0, &f);
    let ours = ip("2001:db8:1::ff:fe00:1");
    assert!(host.interface.addresses().iter().any(|a| a.ip == ours), "{:?}", host.interface.addresses());
    let hop = host.stack.route(ip("2001:4860::1"), None).unwrap();
    assert_eq!(hop.next, ip("fe80::99"));
    assert_eq!(host.stack.source_for(ip("2001:4860::1"), 0), Ok(ours));
    // Somebody else has the address: it goes.
    let mut na = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    na.extend_from_slice(&ours.v6_bytes());
    na.extend_from_slice(&[2, 1, 2, 9, 9, 9, 9, 9]);
    world.inject(0, &frame(&world, 0, 0x86dd, &icmpv6(ours, ip("ff02::1"), na)));
    assert!(!host.interface.addresses().iter().any(|a| a.ip == ours));
    world.run(61 * SECOND);
    assert!(host.stack.route(ip("2001:4860::1"), None).is_err(), "the router's lifetime ended");
}

fn dhcp_server(world: &World, lease: u32, answers: &mut Vec<DhcpMessageType>) {
    for f in world.take_log() {
        if f.len() < 282 || f[12..14] != [8, 0] || f[36..38] != [0, 67] {
            continue;
        }
        let packet = DhcpPacket::new_checked(&f[42..]).unwrap();
        let ask = DhcpRepr::parse(&packet).unwrap();
        answers.push(ask.message_type);
        let server = ip("10.7.0.1").to_v4();
        let reply = DhcpRepr {
            message_type: match ask.message_type {
                DhcpMessageType::Discover => DhcpMessageType::Offer,
                _ => DhcpMessageType::Ack,
            },
            your_ip: ip("10.7.0.42").to_v4(),
            server_identifier: Some(server),
            server_ip: server,
            router: Some(server),
            subnet_mask: Some(ip("255.255.0.0").to_v4()),
            dns_servers: Some([server].into_iter().collect()),
            lease_duration: Some(lease),
            client_identifier: None,
            requested_ip: None,
            parameter_request_list: None,
            max_size: None,
            ..ask
        };
        assert_eq!(ask.client_hardware_address, EthernetAddress(world.hosts[0].interface.caps.mac));
        let mut body = vec![0; 8 + reply.buffer_len()];
        let len = body.len() as u16;
        body[..6].copy_from_slice(&[0, 67, 0, 68, (len >> 8) as u8, len as u8]);
        reply.emit(&mut DhcpPacket::new_unchecked(&mut body[8..])).unwrap();
        world.inject(0, &frame(world, 0, 0x800, &ipv4(ip("10.7.0.1"), ip("10.7.0.42"), 17, &body)));
    }
}

#[test]
fn gets_renews_and_loses_a_dhcp_lease() {
    let world = World::bare(9, 1, CALM);
    let host = &world.hosts[0];
    world.start_log();
    host.stack.configure(&host.interface, &Config4::Dhcp, &Config6::None);
    let mut asked = Vec::new();
    for _ in 0..3 {
        world.run(SECOND / 10);
        dhcp_server(&world, 1000, &mut asked);
    }
    assert_eq!(asked, [DhcpMessageType::Discover, DhcpMessageType::Request]);
    assert_eq!(host.interface.addresses()[0].ip, ip("10.7.0.42"));
    assert_eq!(host.interface.addresses()[0].prefix, 16);
    assert_eq!(host.stack.route(ip("8.8.8.8"), None).unwrap().next, ip("10.7.0.1"));
    assert_eq!(host.stack.resolv_conf(), "nameserver 10.7.0.1\n");
    // A renewal that is answered keeps it; the request goes to the server, so it must be found first.
    host.stack.run_timers();
    world.run(510 * SECOND);
    let arp = [0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9, 10, 7, 0, 1, 0, 0, 0, 0, 0, 0, 10, 7, 0, 42];
    world.inject(0, &frame(&world, 0, 0x806, &arp));
    asked.clear();
    for _ in 0..200 {
        world.inject(0, &frame(&world, 0, 0x806, &arp));
        world.run(2 * SECOND);
        dhcp_server(&world, 1000, &mut asked);
    }
    assert!(asked.contains(&DhcpMessageType::Request));
    assert!(host.interface.addresses().iter().any(|a| a.ip == ip("10.7.0.42")));
    // Nobody answers any more: it ends.
    world.run(1100 * SECOND);
    assert!(host.interface.addresses().is_empty());
    assert!(host.stack.route(ip("8.8.8.8"), None).is_err());
}
