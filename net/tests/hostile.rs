//! Packets that no honest peer sends: no panic, no memory without bound, and honest connections go on.
mod common;
use common::*;

use std::sync::Arc;

use base::Events;
use net::config::{Config4, Config6};
use net::tcp::Tcp;
use net::udp::Udp;
use net::{Endpoint, Family};

/// A mutation: bits, bytes, lengths, cuts, growth, other frames' pieces.
fn mutate(frame: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    for _ in 0..1 + rng.below(4) {
        if frame.is_empty() {
            return;
        }
        let at = rng.below(frame.len());
        match rng.below(8) {
            0 => frame[at] ^= 1 << rng.below(8),
            1 => frame[at] = rng.next() as u8,
            2 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5)],
            3 => frame.truncate(at),
            4 => frame.extend((0..rng.below(200)).map(|i| i as u8)),
            5 if frame.len() > 34 => {
                // Length fields and flags are where the harm is.
                let place = [14, 16, 17, 20, 21, 23, 38, 39, 46, 47, 48, 49][rng.below(12)];
                if place < frame.len() {
                    frame[place] = rng.next() as u8;
                }
            }
            6 if !others.is_empty() => {
                let other = &others[rng.below(others.len())];
                let from = rng.below(other.len().max(1));
                let n = (other.len() - from).min(rng.below(60));
                let at = at.min(frame.len());
                frame.splice(at..at, other[from..from + n].iter().copied());
            }
            _ => frame[at] = frame[at].wrapping_add(1),
        }
    }
}

/// Makes the checksums of a frame right again, so that it gets further.
fn repair(f: &mut [u8]) {
    fn sum(b: &[u8], mut s: u32) -> u32 {
        for p in b.chunks(2) {
            s += u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0));
            s = (s & 0xffff) + (s >> 16);
        }
        s
    }
    if f.len() < 34 {
        return;
    }
    let (start, protocol, mut pseudo) = if f[12..14] == [8, 0] {
        let header = usize::from(f[14] & 15) * 4;
        if header < 20 || 14 + header > f.len() {
            return;
        }
        f[24..26].fill(0);
        let value = !(sum(&f[14..14 + header], 0) as u16);
        f[24..26].copy_from_slice(&value.to_be_bytes());
        (14 + header, f[23], sum(&f[26..34], 0))
    } else if f[12..14] == [0x86, 0xdd] && f.len() >= 54 {
        (54, f[20], sum(&f[22..54], 0))
    } else {
        return;
    };
    let field = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return,
    };
    if protocol == 1 {
        pseudo = 0;
    } else {
        pseudo += u32::from(protocol) + (f.len() - start) as u32;
    }
    if start + field + 2 <= f.len() {
        f[start + field..start + field + 2].fill(0);
        let value = !(sum(&f[start..], pseudo) as u16);
        f[start + field..start + field + 2].copy_from_slice(&value.to_be_bytes());
    }
}

fn is_neighbourly(f: &[u8]) -> bool {
    f.get(12..14) == Some(&[8, 6]) || f.get(12..14) == Some(&[0x86, 0xdd]) && f.get(54).is_some_and(|t| *t >= 133)
}

#[test]
fn mutated_traffic_does_no_harm() {
    for seed in 0..6 {
        let world = World::new(seed, 2, CALM);
        for host in &world.hosts {
            host.stack.configure(&host.interface, &Config4::None, &Config6::Auto);
        }
        let mut rng = Rng(seed + 77);
        world.start_log();
        let listener = world.listen(0, at("::", 80));
        let server = Udp::new(&world.hosts[0].stack, Family::V6);
        server.bind(at("::", 53)).unwrap();
        let mut corpus: Vec<Vec<u8>> = Vec::new();
        for round in 0..30 {
            let to = if round % 2 == 0 { "10.0.0.1" } else { "fd00::1" };
            let (client, accepted) = world.connect(&listener, at(to, 80));
            let mut up = Transfer::new(&client, &accepted, 5000, round);
            assert!(world.run_until(60 * SECOND, || up.turn()));
            let asker = Udp::new(&world.hosts[1].stack, Family::V6);
            asker.send(&mut base::io::In::kernel(&[1; 3000]), Some(at(to, 53)), None).unwrap();
            asker.send(&mut base::io::In::kernel(b"x"), Some(at(to, 54)), None).unwrap();
            world.run(SECOND);
            while server.recv(false).is_ok() {}
            corpus.extend(world.take_log().into_iter().filter(|f| f[..6] != world.hosts[1].interface.caps.mac));
            for _ in 0..3000 {
                let mut frame = corpus[rng.below(corpus.len())].clone();
                mutate(&mut frame, &corpus, &mut rng);
                if rng.percent(80) {
                    repair(&mut frame);
                }
                if is_neighbourly(&frame) {
                    continue; // whoever is on the link can redirect traffic: that is ARP and NDP
                }
                world.inject(0, &frame);
                while let Ok(stray) = listener.accept() {
                    stray.close();
                }
            }
            world.take_log();
            let keep = corpus.len().saturating_sub(400);
            corpus.drain(..keep);
            client.close();
            accepted.close();
            asker.close();
            world.run(2 * SECOND);
        }
        world.run(400 * SECOND);
        let (flows, _) = world.hosts[0].stack.tcp_count();
        assert_eq!(flows, 0, "connections are left over");
        let (client, accepted) = world.connect(&listener, at("10.0.0.1", 80));
        let mut up = Transfer::new(&client, &accepted, 50_000, 9);
        assert!(world.run_until(60 * SECOND, || up.turn()));
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let world = World::new(99, 1, CALM);
    let host = &world.hosts[0];
    host.stack.configure(&host.interface, &Config4::Dhcp, &Config6::Auto);
    let mut rng = Rng(4711);
    for _ in 0..200_000 {
        let mut frame: Vec<u8> = (0..rng.below(120)).map(|_| rng.next() as u8).collect();
        if frame.len() >= 24 {
            frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
            let kind: [u8; 2] = [[8, 0], [8, 6], [0x86, 0xdd]][rng.below(3)];
            frame[12..14].copy_from_slice(&kind);
            frame[14] = if kind == [8, 0] { 0x45 } else { 0x60 };
            let (len, protocol) = (frame.len() - 14, [1, 6, 17, 58, 44, 0][rng.below(6)]);
            if kind == [8, 0] {
                frame[16..18].copy_from_slice(&(len as u16).to_be_bytes());
                frame[23] = protocol;
            } else if frame.len() >= 54 {
                frame[18..20].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                frame[20] = protocol;
                frame[21] = 255;
            }
            repair(&mut frame);
        }
        world.inject(0, &frame);
        if rng.percent(1) {
            world.run(SECOND);
        }
    }
}

/// A frame with a TCP header from `port` of 10.0.0.200.
fn tcp_frame(world: &World, port: u16, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut f = world.hosts[0].interface.caps.mac.to_vec();
    f.extend_from_slice(&[2, 9, 9, 9, 9, 9, 8, 0]);
    let total = (40 + payload.len()) as u16;
    f.extend_from_slice(&[0x45, 0]);
    f.extend_from_slice(&total.to_be_bytes());
    f.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 200, 10, 0, 0, 1]);
    f.extend_from_slice(&port.to_be_bytes());
    f.extend_from_slice(&80u16.to_be_bytes());
    f.extend_from_slice(&seq.to_be_bytes());
    f.extend_from_slice(&ack.to_be_bytes());
    f.extend_from_slice(&[0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    f.extend_from_slice(payload);
    repair(&mut f);
    f
}

#[test]
fn a_flood_of_syns_costs_little_and_others_get_through() {
    let world = World::new(5, 2, CALM);
    let listener = world.listen(0, at("::", 80));
    listener.listen(64).unwrap();
    for i in 0..50_000u32 {
        world.inject(0, &tcp_frame(&world, (1024 + i % 60000) as u16, i * 7919, 0, 2, b""));
    }
    let (flows, _) = world.hosts[0].stack.tcp_count();
    assert!(flows <= 1024, "{flows} half-open connections");
    let (client, server) = world.connect(&listener, at("10.0.0.1", 80));
    let mut up = Transfer::new(&client, &server, 100_000, 1);
    assert!(world.run_until(60 * SECOND, || up.turn()));
    client.close();
    server.close();
    world.run(400 * SECOND);
    assert_eq!(world.hosts[0].stack.tcp_count().0, 0);
}

#[test]
fn blind_segments_do_not_end_a_connection() {
    let world = World::new(6, 2, CALM);
    let listener = world.listen(0, at("::", 80));
    let (client, server) = world.connect(&listener, at("10.0.0.1", 80));
    let port = client.local().port;
    let mut rng = Rng(1);
    for _ in 0..20_000 {
        let flags = [4, 20, 2, 18, 17, 16][rng.below(6)];
        let mut f = tcp_frame(&world, port, rng.next() as u32, rng.next() as u32, flags, b"evil");
        f[26..30].copy_from_slice(&[10, 0, 0, 2]);
        repair(&mut f);
        world.inject(0, &f);
    }
    assert!(!server.poll().intersects(Events::HUP | Events::IN | Events::ERR), "{:?}", server.info());
    let mut up = Transfer::new(&client, &server, 100_000, 1);
    assert!(world.run_until(60 * SECOND, || up.turn()));
}

#[test]
fn tiny_segments_out_of_order_hold_bounded_memory() {
    let world = World::new(7, 1, CALM);
    let listener = Tcp::new(&world.hosts[0].stack, Family::V6);
    listener.bind(at("::", 80)).unwrap();
    listener.listen(5).unwrap();
    world.inject(0, &{
        let mut arp = world.hosts[0].interface.caps.mac.to_vec();
        arp.extend_from_slice(&[2, 9, 9, 9, 9, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 9, 9, 9, 9, 9, 10, 0, 0, 200]);
        arp.extend_from_slice(&[0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        arp
    });
    world.start_log();
    world.inject(0, &tcp_frame(&world, 5000, 1000, 0, 2, b""));
    let answer = world.take_log().into_iter().find(|f| f[12..14] == [8, 0]).unwrap();
    let iss = u32::from_be_bytes(answer[38..42].try_into().unwrap());
    world.inject(0, &tcp_frame(&world, 5000, 1001, iss.wrapping_add(1), 16, b""));
    let server: Arc<Tcp> = listener.accept().unwrap();
    for i in 0..20_000u32 {
        world.inject(0, &tcp_frame(&world, 5000, 1003 + 2 * i, iss.wrapping_add(1), 24, b"z"));
    }
    assert_eq!(server.readable(), 0);
    world.inject(0, &tcp_frame(&world, 5000, 1001, iss.wrapping_add(1), 24, b"ab"));
    assert!((3..=1024).contains(&server.readable()), "{}", server.readable());
    assert_eq!(server.remote(), Ok(Endpoint::new(ip("10.0.0.200"), 5000)));
}
