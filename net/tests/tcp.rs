//! TCP between two stacks.
mod common;
use common::*;

use base::{Errno, Events};
use net::tcp::{Shutdown, State};

fn both_ways(world: &World, to: &str, len: usize, limit: u64) {
    let listener = world.listen(0, at("::", 80));
    let (client, server) = world.connect(&listener, at(to, 80));
    assert_eq!(server.remote().unwrap(), client.local());
    let mut up = Transfer::new(&client, &server, len, 1);
    let mut down = Transfer::new(&server, &client, len, 2);
    let start = world.now();
    let done = world.run_until(limit, || up.turn() & down.turn());
    assert!(done, "not done after {} ms: {:?} {:?}", limit / MS, client.info(), server.info());
    println!(
        "{len} bytes each way in {} ms, {} frames, {} again",
        (world.now() - start) / MS,
        world.frames(),
        client.info().retransmits + server.info().retransmits
    );
    client.close();
    server.close();
    listener.close();
    assert!(world.run_until(300 * SECOND, || world.hosts.iter().all(|h| h.stack.tcp_count() == (0, 0))));
}

#[test]
fn transfers_over_ipv4() {
    both_ways(&World::new(1, 2, CALM), "10.0.0.1", 3_000_000, 10 * SECOND);
}

#[test]
fn transfers_over_loopback() {
    let world = World::new(2, 2, CALM);
    let listener = world.listen(1, at("127.0.0.1", 80));
    let (client, server) = world.connect(&listener, at("127.0.0.1", 80));
    let mut up = Transfer::new(&client, &server, 5_000_000, 1);
    assert!(world.run_until(SECOND, || up.turn()));
    assert_eq!(world.frames(), 2, "only the announcements of the addresses go out");
}

#[test]
fn refuses_and_times_out() {
    let world = World::new(3, 2, CALM);
    let client = world.tcp(1);
    assert_eq!(client.connect(at("10.0.0.1", 81)), Err(Errno::EINPROGRESS));
    assert_eq!(client.connect(at("10.0.0.1", 81)), Err(Errno::EALREADY));
    assert!(world.run_until(SECOND, || client.poll().contains(Events::ERR)));
    assert_eq!(client.take_error(), Some(Errno::ECONNREFUSED));
    let client = world.tcp(1);
    assert_eq!(client.connect(at("192.168.1.1", 81)), Err(Errno::ENETUNREACH));
    // A full backlog: the SYN is passed over again and again.
    let listener = world.listen(0, at("0.0.0.0", 80));
    listener.listen(1).unwrap();
    let first = world.tcp(1);
    assert_eq!(first.connect(at("10.0.0.1", 80)), Err(Errno::EINPROGRESS));
    world.run(SECOND);
    assert_eq!(first.connect(at("10.0.0.1", 80)), Ok(()));
    assert_eq!(first.connect(at("10.0.0.1", 80)), Err(Errno::EISCONN));
    let client = world.tcp(1);
    assert_eq!(client.connect(at("10.0.0.1", 80)), Err(Errno::EINPROGRESS));
    assert!(world.run_until(300 * SECOND, || client.poll().contains(Events::ERR)));
    assert_eq!(client.take_error(), Some(Errno::ETIMEDOUT));
    drop(listener);
}

#[test]
fn half_close_reset_and_end_of_stream() {
    let world = World::new(4, 2, CALM);
    let listener = world.listen(0, at("10.0.0.1", 80));
    let (client, server) = world.connect(&listener, at("10.0.0.1", 80));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(send(&client, b"x"), Err(Errno::EPIPE));
    assert!(world.run_until(SECOND, || server.poll().contains(Events::RDHUP)));
    assert_eq!(recv(&server, 10), Ok(vec![]));
    assert_eq!(send(&server, b"still here"), Ok(10));
    assert!(world.run_until(SECOND, || client.poll().contains(Events::IN)));
    assert_eq!(recv(&client, 100), Ok(b"still here".to_vec()));
    // Unread data at close: a reset.
    send(&server, b"unread").unwrap();
    world.run(SECOND);
    client.close();
    world.run(SECOND);
    assert!(server.poll().contains(Events::HUP));
    assert_eq!(server.info().state, Some(State::Closed));
    assert_eq!(send(&server, b"x"), Err(Errno::EPIPE));
}

#[test]
fn requests_and_answers_carry_their_acknowledgements() {
    let world = World::new(5, 2, CALM);
    let listener = world.listen(0, at("10.0.0.1", 80));
    let (client, server) = world.connect(&listener, at("10.0.0.1", 80));
    let turn = |n: usize| {
        for _ in 0..n {
            send(&client, b"GET key").unwrap();
            assert!(world.run_until(SECOND, || server.poll().contains(Events::IN)));
            assert_eq!(recv(&server, 100).unwrap(), b"GET key");
            send(&server, b"value").unwrap();
            assert!(world.run_until(SECOND, || client.poll().contains(Events::IN)));
            assert_eq!(recv(&client, 100).unwrap(), b"value");
        }
    };
    turn(20);
    let before = world.frames();
    turn(100);
    assert_eq!(world.frames() - before, 200, "one frame each way, no bare acknowledgement");
}

#[test]
fn a_closed_window_opens_again() {
    let world = World::new(6, 2, CALM);
    let listener = world.listen(0, at("10.0.0.1", 80));
    let (client, server) = world.connect(&listener, at("10.0.0.1", 80));
    server.set_options(|o| o.receive_buffer = 20_000);
    let data = vec![7u8; 300_000];
    let mut sent = 0;
    while let Ok(n) = send(&client, &data[sent..]) {
        sent += n;
        if sent == data.len() {
            break;
        }
    }
    world.run(30 * SECOND);
    let mut got = 0;
    assert!(
        world.run_until(600 * SECOND, || {
            while let Ok(bytes) = recv(&server, 5000) {
                got += bytes.len();
            }
            if sent < data.len() {
                sent += send(&client, &data[sent..]).unwrap_or(0);
            }
            got == data.len()
        }),
        "{got} of {sent}"
    );
}

#[test]
fn ten_thousand_connections() {
    let world = World::new(7, 2, CALM);
    let listener = world.listen(0, at("::", 80));
    listener.listen(4096).unwrap();
    let mut clients = Vec::new();
    let mut servers = Vec::new();
    for round in 0..100 {
        for _ in 0..100 {
            let client = world.tcp(1);
            assert_eq!(client.connect(at("10.0.0.1", 80)), Err(Errno::EINPROGRESS));
            clients.push(client);
        }
        assert!(world.run_until(10 * SECOND, || {
            while let Ok(server) = listener.accept() {
                servers.push(server);
            }
            servers.len() == (round + 1) * 100
        }));
    }
    for (i, server) in servers.iter().enumerate() {
        send(server, &i.to_be_bytes()).unwrap();
    }
    world.run(SECOND);
    let mut seen = vec![false; clients.len()];
    for client in &clients {
        let i = usize::from_be_bytes(recv(client, 8).unwrap().try_into().unwrap());
        assert!(!std::mem::replace(&mut seen[i], true));
    }
    assert_eq!(world.hosts[0].stack.tcp_count(), (10_000, 0));
}

#[test]
fn transfers_through_storms() {
    for seed in 100..108 {
        println!("seed {seed}");
        both_ways(&World::new(seed, 2, STORM), "10.0.0.1", 300_000, 1200 * SECOND);
    }
}

#[test]
fn a_peer_without_window_scaling_gets_no_needless_updates() {
    let world = World::new(11, 2, CALM);
    world.strip_options(3);
    let listener = world.listen(0, at("10.0.0.1", 80));
    let (client, server) = world.connect(&listener, at("10.0.0.1", 80));
    assert_eq!(server.info().window_scale, None);
    let turn = || {
        send(&client, b"GET key").unwrap();
        assert!(world.run_until(SECOND, || server.poll().contains(Events::IN)));
        assert_eq!(recv(&server, 100).unwrap(), b"GET key");
        send(&server, b"value").unwrap();
        assert!(world.run_until(SECOND, || client.poll().contains(Events::IN)));
        assert_eq!(recv(&client, 100).unwrap(), b"value");
    };
    (0..20).for_each(|_| turn());
    let before = world.frames();
    (0..100).for_each(|_| turn());
    assert_eq!(world.frames() - before, 200);
    let mut up = Transfer::new(&client, &server, 1_000_000, 1);
    assert!(world.run_until(10 * SECOND, || up.turn()));
}
