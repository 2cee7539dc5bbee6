//! Sockets: socket, bind, connect, accept, send, receive, options.

use alloc::sync::Arc;
use alloc::vec::Vec;

use base::io::{In, Out};
use base::time::now_ns;
use base::{Errno, Events, Result};
use fs::{File, IoFlags};
use net::tcp::Shutdown;

use super::transfer::{self, Memory};
use super::{Args, calls};
use crate::files;
use crate::mm::user;
use crate::sched::wait::{wait_for, wait_for_exclusive};
use crate::sockets::address::{self, Address};
use crate::sockets::message::{Flags, Received, SendControl};
use crate::sockets::{self, SocketFile, control, file::Kind};

const SOCK_NONBLOCK: i32 = 0o4000;
const SOCK_CLOEXEC: i32 = 0o2000000;
const IN_EVENTS: Events = Events::IN.union(Events::RDNORM).union(Events::RDHUP);
const OUT_EVENTS: Events = Events::OUT.union(Events::WRNORM);
/// Most messages of one `sendmmsg` or `recvmmsg` (UIO_MAXIOV).
const MAX_MESSAGES: usize = 1024;

// A socket by its descriptor; the file stays open while it is used.
fn socket_file(fd: i32) -> Result<Arc<dyn File>> {
    let file = files::get(fd)?;
    SocketFile::of(&*file)?;
    Ok(file)
}

fn split_type(value: i32) -> Result<(i32, bool, bool)> {
    if value & !(0xf | SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((value & 0xf, value & SOCK_NONBLOCK != 0, value & SOCK_CLOEXEC != 0))
}

fn socket(args: &Args) -> Result<u64> {
    let (kind, nonblocking, close_on_exec) = split_type(args.int(1))?;
    let file = sockets::create(args.int(0), kind, args.int(2), nonblocking)?;
    files::install(file, close_on_exec).map(|fd| fd as u64)
}

fn socketpair(args: &Args) -> Result<u64> {
    let (kind, nonblocking, close_on_exec) = split_type(args.int(1))?;
    let [a, b] = sockets::pair(args.int(0), kind, args.int(2), nonblocking)?;
    let first = files::install(a, close_on_exec)?;
    let second = files::install(b, close_on_exec).inspect_err(|_| {
        let _ = files::close_fd(first);
    })?;
    user::write(args.usize(3), &[first, second]).inspect_err(|_| {
        let _ = files::close_fd(first);
        let _ = files::close_fd(second);
    })?;
    Ok(0)
}

fn bind(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let len = usize::try_from(args.int(2)).map_err(|_| Errno::EINVAL)?;
    let address = address::read(args.usize(1), len)?;
    SocketFile::of(&*file)?.bind(&address)?;
    Ok(0)
}

fn listen(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    SocketFile::of(&*file)?.listen(args.int(1))?;
    Ok(0)
}

fn connect(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let socket = SocketFile::of(&*file)?;
    let len = usize::try_from(args.int(2)).map_err(|_| Errno::EINVAL)?;
    let address = address::read(args.usize(1), len)?;
    let deadline = socket.write_timeout_ns().map(|t| now_ns().saturating_add(t));
    let waits = !socket.status().nonblocking();
    let result = match socket.connect(&address) {
        Err(Errno::EINPROGRESS | Errno::EALREADY) if waits => {
            let Kind::Tcp(tcp) = &socket.kind else { return Err(Errno::EINPROGRESS) };
            // The result is there when the state is: asking again gives it.
            let again = || match socket.connect(&address) {
                Err(Errno::EALREADY) => Err(Errno::EAGAIN),
                done => done,
            };
            match wait_for(tcp.subject(), Events::all(), deadline, again) {
                Err(Errno::ETIMEDOUT) if deadline.is_some_and(|d| now_ns() >= d) => Err(Errno::EINPROGRESS),
                done => done,
            }
        }
        Err(Errno::EAGAIN) if waits => wait_for(socket.subject(), OUT_EVENTS, deadline, || socket.connect(&address)),
        done => done,
    };
    result.map(|()| 0)
}

fn accept_with(args: &Args, flags: i32) -> Result<u64> {
    // A bad descriptor comes before bad flags, and those before a descriptor of another kind.
    let file = files::get(args.int(0))?;
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let socket = SocketFile::of(&*file)?;
    let attempt = || socket.accept(flags & SOCK_NONBLOCK != 0);
    let connection = match attempt() {
        Err(Errno::EAGAIN) if !socket.status().nonblocking() => {
            let deadline = socket.read_timeout_ns().map(|t| now_ns().saturating_add(t));
            wait_for_exclusive(socket.subject(), IN_EVENTS, deadline, attempt).map_err(|e| match e {
                Errno::ETIMEDOUT => Errno::EAGAIN,
                e => e,
            })?
        }
        done => done?,
    };
    if args.u64(1) != 0 {
        let peer = connection.peer().unwrap_or(Address::Other(socket.family));
        peer.write(args.usize(1), args.usize(2))?;
    }
    files::install(connection, flags & SOCK_CLOEXEC != 0).map(|fd| fd as u64)
}

fn accept(args: &Args) -> Result<u64> {
    accept_with(args, 0)
}

fn accept4(args: &Args) -> Result<u64> {
    accept_with(args, args.int(3))
}

fn shutdown(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let how = match args.int(1) {
        0 => Shutdown::Read,
        1 => Shutdown::Write,
        2 => Shutdown::Both,
        _ => return Err(Errno::EINVAL),
    };
    SocketFile::of(&*file)?.shutdown(how)?;
    Ok(0)
}

fn getsockname(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    SocketFile::of(&*file)?.local().write(args.usize(1), args.usize(2))?;
    Ok(0)
}

fn getpeername(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    SocketFile::of(&*file)?.peer()?.write(args.usize(1), args.usize(2))?;
    Ok(0)
}

fn setsockopt(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let len = usize::try_from(args.int(4)).map_err(|_| Errno::EINVAL)?;
    sockets::options::set(SocketFile::of(&*file)?, args.int(1), args.int(2), args.usize(3), len)?;
    Ok(0)
}

fn getsockopt(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let room = usize::try_from(user::read::<i32>(args.usize(4))?).map_err(|_| Errno::EINVAL)?;
    let value = sockets::options::get(SocketFile::of(&*file)?, args.int(1), args.int(2))?;
    let len = value.len().min(room);
    user::write_bytes(args.usize(3), &value[..len])?;
    user::write(args.usize(4), &(len as i32))?;
    Ok(0)
}

fn io_flags(flags: Flags) -> IoFlags {
    if flags.contains(Flags::DONTWAIT) { IoFlags::NOWAIT } else { IoFlags::empty() }
}

/// Sends a message, waiting for room; on a stream all of it. SIGPIPE goes with `EPIPE`.
fn send_message(
    file: &dyn File,
    input: &mut In<'_>,
    to: Option<&Address>,
    control: &mut SendControl,
    flags: Flags,
) -> Result<usize> {
    let socket = SocketFile::of(file)?;
    let timeout = socket.write_timeout_ns();
    let mut total = 0;
    let result = loop {
        let sent =
            transfer::waiting(file, OUT_EVENTS, timeout, io_flags(flags), || socket.send(input, to, control, flags));
        match sent {
            Ok(n) => total += n,
            Err(_) if total > 0 => break Ok(total),
            Err(error) => break Err(error),
        }
        let nonblocking = flags.contains(Flags::DONTWAIT) || socket.status().nonblocking();
        if !socket.is_stream() || nonblocking || input.remaining() == 0 {
            break Ok(total);
        }
    };
    if result == Err(Errno::EPIPE) && !flags.contains(Flags::NOSIGNAL) && socket.socket_type != sockets::kind::DGRAM {
        transfer::broken_pipe();
    }
    result
}

/// Receives a message, waiting for one; with `MSG_WAITALL` on a stream for all bytes.
fn receive_message(file: &dyn File, out: &mut Out<'_>, flags: Flags) -> Result<Received> {
    let socket = SocketFile::of(file)?;
    let timeout = socket.read_timeout_ns();
    let mut receive = || transfer::waiting(file, IN_EVENTS, timeout, io_flags(flags), || socket.receive(out, flags));
    let mut received = receive()?;
    let all = flags.contains(Flags::WAITALL) && socket.is_stream() && !flags.intersects(Flags::PEEK | Flags::DONTWAIT);
    if !all || received.len == 0 || socket.status().nonblocking() {
        return Ok(received);
    }
    while out.remaining() > 0 {
        let more = transfer::waiting(file, IN_EVENTS, timeout, io_flags(flags), || socket.receive(out, flags));
        match more {
            Ok(more) if more.len > 0 => {
                received.len += more.len;
                received.files.extend(more.files);
            }
            _ => break,
        }
    }
    Ok(received)
}

fn sendto(args: &Args) -> Result<u64> {
    let memory = Memory::one(args.usize(1), args.usize(2))?;
    let file = socket_file(args.int(0))?;
    let flags = Flags::from_bits_retain(args.u32(3));
    let to = match args.optional(4) {
        Some(at) => Some(address::read(at, usize::try_from(args.int(5)).map_err(|_| Errno::EINVAL)?)?),
        None => None,
    };
    send_message(&*file, &mut memory.input(), to.as_ref(), &mut SendControl::default(), flags).map(|n| n as u64)
}

fn recvfrom(args: &Args) -> Result<u64> {
    let memory = Memory::one(args.usize(1), args.usize(2))?;
    let file = socket_file(args.int(0))?;
    let flags = Flags::from_bits_retain(args.u32(3));
    let received = receive_message(&*file, &mut memory.out(), flags)?;
    if let Some(at) = args.optional(4) {
        match &received.from {
            Some(from) => from.write(at, args.usize(5))?,
            None => user::write(args.usize(5), &0u32)?,
        }
    }
    Ok(received.len as u64)
}

/// `struct msghdr`: name, its length, iovec and count, control and its length, flags.
const MSGHDR: usize = 56;

struct Header {
    name: usize,
    name_len: u32,
    vector: usize,
    count: usize,
    control: usize,
    control_len: usize,
}

fn read_header(at: usize) -> Result<Header> {
    let words: [u64; 7] = user::read(at)?;
    Ok(Header {
        name: words[0] as usize,
        name_len: words[1] as u32,
        vector: words[2] as usize,
        count: words[3] as usize,
        control: words[4] as usize,
        control_len: words[5] as usize,
    })
}

fn vector(header: &Header) -> Result<Memory> {
    if header.count > 1024 {
        return Err(Errno::EMSGSIZE);
    }
    Memory::vector(header.vector, header.count)
}

fn send_one(file: &dyn File, at: usize, flags: Flags) -> Result<usize> {
    let header = read_header(at)?;
    let to = match header.name {
        0 => None,
        name => {
            let len = usize::try_from(header.name_len as i32).map_err(|_| Errno::EINVAL)?;
            (len > 0).then(|| address::read(name, len.min(address::MAX_LEN))).transpose()?
        }
    };
    let memory = vector(&header)?;
    let mut control = match header.control {
        0 => SendControl::default(),
        data => control::read(data, header.control_len)?,
    };
    send_message(file, &mut memory.input(), to.as_ref(), &mut control, flags)
}

fn receive_one(file: &dyn File, at: usize, flags: Flags) -> Result<usize> {
    let header = read_header(at)?;
    let memory = vector(&header)?;
    let mut received = receive_message(file, &mut memory.out(), flags)?;
    if header.name != 0 {
        let bytes = received.from.as_ref().map_or_else(Vec::new, Address::to_bytes);
        let room = (header.name_len as usize).min(bytes.len());
        user::write_bytes(header.name, &bytes[..room])?;
        user::write(at + 8, &(bytes.len() as u32))?;
    }
    let room = if header.control == 0 { 0 } else { header.control_len };
    let cloexec = flags.contains(Flags::CMSG_CLOEXEC);
    let used = control::write(&mut received, header.control, room, cloexec)?;
    user::write(at + 40, &used)?;
    let shown = received.flags | flags & Flags::CMSG_CLOEXEC;
    user::write(at + 48, &shown.bits())?;
    Ok(received.len)
}

fn sendmsg(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    send_one(&*file, args.usize(1), Flags::from_bits_retain(args.u32(2))).map(|n| n as u64)
}

fn recvmsg(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    receive_one(&*file, args.usize(1), Flags::from_bits_retain(args.u32(2))).map(|n| n as u64)
}

/// `struct mmsghdr`: a msghdr and the message's length.
const MMSGHDR: usize = MSGHDR + 8;

fn sendmmsg(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let flags = Flags::from_bits_retain(args.u32(3));
    let count = (args.u32(2) as usize).min(MAX_MESSAGES);
    for i in 0..count {
        let at = args.usize(1) + i * MMSGHDR;
        let sent = send_one(&*file, at, flags).and_then(|n| user::write(at + MSGHDR, &(n as u32)));
        match sent {
            Ok(()) => {}
            Err(_) if i > 0 => return Ok(i as u64),
            Err(error) => return Err(error),
        }
    }
    Ok(count as u64)
}

fn recvmmsg(args: &Args) -> Result<u64> {
    let file = socket_file(args.int(0))?;
    let mut flags = Flags::from_bits_retain(args.u32(3));
    let deadline = match args.optional(4) {
        None => None,
        Some(at) => {
            let [seconds, ns]: [i64; 2] = user::read(at)?;
            if seconds < 0 || !(0..1_000_000_000).contains(&ns) {
                return Err(Errno::EINVAL);
            }
            let wait = (seconds as u64).saturating_mul(1_000_000_000).saturating_add(ns as u64);
            Some(now_ns().saturating_add(wait))
        }
    };
    let count = (args.u32(2) as usize).min(MAX_MESSAGES);
    for i in 0..count {
        let at = args.usize(1) + i * MMSGHDR;
        let got =
            receive_one(&*file, at, flags & !Flags::WAITFORONE).and_then(|n| user::write(at + MSGHDR, &(n as u32)));
        match got {
            Ok(()) => {}
            Err(_) if i > 0 => return Ok(i as u64),
            Err(error) => return Err(error),
        }
        // As Linux: the time is looked at after each message.
        if deadline.is_some_and(|d| now_ns() >= d) {
            return Ok(i as u64 + 1);
        }
        if flags.contains(Flags::WAITFORONE) {
            flags |= Flags::DONTWAIT;
        }
    }
    Ok(count as u64)
}

calls! {
    41 socket, "AF_UNIX (stream, datagram, seqpacket), AF_INET and AF_INET6 (TCP, UDP), AF_NETLINK (route); no raw or packet sockets";
    42 connect, "complete";
    43 accept, "complete";
    44 sendto, "no MSG_OOB, MSG_ZEROCOPY copies, MSG_FASTOPEN is ignored";
    45 recvfrom, "no MSG_OOB; MSG_ERRQUEUE is always empty";
    46 sendmsg, "SCM_RIGHTS, SCM_CREDENTIALS, IP_PKTINFO, IPV6_PKTINFO";
    47 recvmsg, "SCM_RIGHTS, SCM_CREDENTIALS, packet info, time stamps, TTL, TOS";
    48 shutdown, "complete";
    49 bind, "complete";
    50 listen, "complete";
    51 getsockname, "complete";
    52 getpeername, "complete";
    53 socketpair, "AF_UNIX";
    54 setsockopt, "the common options of SOL_SOCKET, IP, IPv6 and TCP; others give ENOPROTOOPT";
    55 getsockopt, "as setsockopt, and TCP_INFO, SO_PEERCRED";
    288 accept4, "complete";
    299 recvmmsg, "complete";
    307 sendmmsg, "complete";
}
