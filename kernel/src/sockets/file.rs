//! A socket as an open file.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use base::io::{In, Out};
use base::{Errno, Events, Result, Subject};
use fs::types::{FileType, OpenFlags, Stat, Time};
use fs::{File, IoFlags, Status};
use net::tcp::{Shutdown, Tcp};
use net::udp::Udp;

use super::address::Address;
use super::message::{Flags, Received, SendControl};
use super::netlink::Netlink;
use super::unix::Unix;
use super::{family, inet, ioctl};

/// What is behind the descriptor.
pub enum Kind {
    /// TCP.
    Tcp(Arc<Tcp>),
    /// UDP.
    Udp(Arc<Udp>),
    /// AF_UNIX.
    Unix(Arc<Unix>),
    /// AF_NETLINK.
    Netlink(Arc<Netlink>),
}

/// Options of every socket that the protocols do not look at.
#[derive(Default)]
pub struct Extra {
    /// SO_RCVTIMEO, ns; 0: none.
    pub receive_timeout: AtomicU64,
    /// SO_SNDTIMEO, ns; 0: none.
    pub send_timeout: AtomicU64,
    /// SO_PASSCRED.
    pub pass_credentials: AtomicBool,
    /// SO_TIMESTAMP (1) or SO_TIMESTAMPNS (2).
    pub timestamp: AtomicU32,
    /// IP_PKTINFO or IPV6_RECVPKTINFO.
    pub packet_info: AtomicBool,
    /// IP_RECVTTL or IPV6_RECVHOPLIMIT.
    pub receive_ttl: AtomicBool,
    /// IP_RECVTOS or IPV6_RECVTCLASS.
    pub receive_tos: AtomicBool,
    /// SO_PRIORITY.
    pub priority: AtomicU32,
    /// SO_MARK.
    pub mark: AtomicU32,
    /// Options that are kept and have no effect here: IP_RECVERR, SO_OOBINLINE, SO_DONTROUTE and the like, a bit
    /// each (`options::kept`).
    pub kept: AtomicU32,
}

/// A socket.
pub struct SocketFile {
    /// What it is.
    pub kind: Kind,
    /// AF_*.
    pub family: u16,
    /// SOCK_*.
    pub socket_type: i32,
    /// IPPROTO_*.
    pub protocol: i32,
    /// Common options.
    pub extra: Extra,
    status: Status,
    number: u64,
    created: Time,
}

static NUMBER: AtomicU64 = AtomicU64::new(1 << 20);

impl SocketFile {
    /// A file for a socket.
    pub fn new(kind: Kind, family: u16, socket_type: i32, protocol: i32, nonblocking: bool) -> Arc<Self> {
        let mut flags = OpenFlags::RDWR;
        if nonblocking {
            flags |= OpenFlags::NONBLOCK;
        }
        Arc::new(Self {
            kind,
            family,
            socket_type,
            protocol,
            extra: Extra::default(),
            status: Status::new(flags),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            created: Time::now(),
        })
    }

    /// The socket behind an open file. `ENOTSOCK`.
    #[inline]
    pub fn of(file: &dyn File) -> Result<&Self> {
        file.as_any().downcast_ref().ok_or(Errno::ENOTSOCK)
    }

    /// Inode number, as /proc shows it.
    pub fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_v6(&self) -> bool {
        self.family == family::INET6
    }

    /// Gives it a local address.
    pub fn bind(&self, address: &Address) -> Result<()> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.bind(inet::bind_address(self, address)?),
            Kind::Udp(udp) => udp.bind(inet::bind_address(self, address)?),
            Kind::Unix(unix) => unix.bind(address),
            Kind::Netlink(netlink) => netlink.bind(address),
        }
    }

    /// Starts to connect; does not wait.
    pub fn connect(&self, address: &Address) -> Result<()> {
        match &self.kind {
            Kind::Tcp(tcp) => inet::connect_tcp(self, tcp, address),
            Kind::Udp(udp) => inet::connect_udp(self, udp, address),
            Kind::Unix(unix) => unix.connect(address),
            Kind::Netlink(_) => Ok(()),
        }
    }

    /// Starts to listen.
    pub fn listen(&self, backlog: i32) -> Result<()> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.listen(backlog),
            Kind::Unix(unix) => unix.listen(backlog),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Takes a connection; does not wait.
    pub fn accept(&self, nonblocking: bool) -> Result<Arc<SocketFile>> {
        let kind = match &self.kind {
            Kind::Tcp(tcp) => Kind::Tcp(tcp.accept()?),
            Kind::Unix(unix) => Kind::Unix(unix.accept()?),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let file = Self::new(kind, self.family, self.socket_type, self.protocol, nonblocking);
        file.extra.receive_timeout.store(self.extra.receive_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
        file.extra.send_timeout.store(self.extra.send_timeout.load(Ordering::Relaxed), Ordering::Relaxed);
        file.extra.pass_credentials.store(self.extra.pass_credentials.load(Ordering::Relaxed), Ordering::Relaxed);
        Ok(file)
    }

    /// Shuts a direction or both.
    pub fn shutdown(&self, how: Shutdown) -> Result<()> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.shutdown(how),
            Kind::Udp(udp) => udp.shutdown(how),
            Kind::Unix(unix) => unix.shutdown(how),
            Kind::Netlink(_) => Err(Errno::EOPNOTSUPP),
        }
    }

    /// Our address.
    pub fn local(&self) -> Address {
        match &self.kind {
            Kind::Tcp(tcp) => Address::of(tcp.local(), self.is_v6(), 0),
            Kind::Udp(udp) => Address::of(udp.local(), self.is_v6(), 0),
            Kind::Unix(unix) => unix.local(),
            Kind::Netlink(netlink) => netlink.local(),
        }
    }

    /// The peer's address. `ENOTCONN`.
    pub fn peer(&self) -> Result<Address> {
        match &self.kind {
            Kind::Tcp(tcp) => Ok(Address::of(tcp.remote()?, self.is_v6(), 0)),
            Kind::Udp(udp) => Ok(Address::of(udp.remote()?, self.is_v6(), 0)),
            Kind::Unix(unix) => unix.peer_address(),
            Kind::Netlink(_) => Ok(Address::Netlink(0, 0)),
        }
    }

    /// Sends once; does not wait. `EPIPE` without its signal.
    pub fn send(
        &self,
        input: &mut In<'_>,
        to: Option<&Address>,
        control: &mut SendControl,
        flags: Flags,
    ) -> Result<usize> {
        if flags.contains(Flags::OOB) {
            return Err(Errno::EOPNOTSUPP); // urgent data is not sent
        }
        match &self.kind {
            Kind::Tcp(tcp) => tcp.send(input, flags.contains(Flags::MORE)),
            Kind::Udp(udp) => inet::send_udp(self, udp, input, to, control),
            Kind::Unix(unix) => unix.send(input, to, control),
            Kind::Netlink(netlink) => netlink.send(input),
        }
    }

    /// Receives once; does not wait.
    pub fn receive(&self, out: &mut Out<'_>, flags: Flags) -> Result<Received> {
        if flags.contains(Flags::ERRQUEUE) {
            return Err(Errno::EAGAIN); // nothing is ever put there
        }
        if flags.contains(Flags::OOB) {
            return Err(Errno::EINVAL);
        }
        match &self.kind {
            Kind::Tcp(tcp) => inet::receive_tcp(tcp, out, flags),
            Kind::Udp(udp) => inet::receive_udp(self, udp, out, flags),
            Kind::Unix(unix) => unix.receive(out, flags, self.extra.pass_credentials.load(Ordering::Relaxed)),
            Kind::Netlink(netlink) => netlink.receive(out, flags),
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.close(),
            Kind::Udp(udp) => udp.close(),
            Kind::Unix(unix) => unix.close(),
            Kind::Netlink(_) => {}
        }
    }
}

impl File for SocketFile {
    fn status(&self) -> &Status {
        &self.status
    }

    #[inline]
    fn read(&self, out: &mut Out<'_>, _flags: IoFlags) -> Result<usize> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.recv(out, false),
            _ => self.receive(out, Flags::empty()).map(|r| r.len),
        }
    }

    #[inline]
    fn write(&self, input: &mut In<'_>, _flags: IoFlags) -> Result<usize> {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.send(input, false),
            _ => self.send(input, None, &mut SendControl::default(), Flags::empty()),
        }
    }

    fn is_stream(&self) -> bool {
        self.socket_type == super::kind::STREAM
    }

    #[inline]
    fn poll(&self) -> Events {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.poll(),
            Kind::Udp(udp) => udp.poll(),
            Kind::Unix(unix) => unix.poll(),
            Kind::Netlink(netlink) => netlink.poll(),
        }
    }

    fn subject(&self) -> &Subject {
        match &self.kind {
            Kind::Tcp(tcp) => tcp.subject(),
            Kind::Udp(udp) => udp.subject(),
            Kind::Unix(unix) => unix.subject(),
            Kind::Netlink(netlink) => netlink.subject(),
        }
    }

    fn read_timeout_ns(&self) -> Option<u64> {
        Some(self.extra.receive_timeout.load(Ordering::Relaxed)).filter(|t| *t != 0)
    }

    fn write_timeout_ns(&self) -> Option<u64> {
        Some(self.extra.send_timeout.load(Ordering::Relaxed)).filter(|t| *t != 0)
    }

    fn ioctl(&self, command: u32, arg: usize) -> Result<u64> {
        ioctl::ioctl(self, command, arg)
    }

    fn stat(&self) -> Result<Stat> {
        Ok(Stat {
            ino: self.number,
            mode: FileType::Socket.mode_bits() | 0o777,
            nlink: 1,
            blksize: 4096,
            atime: self.created,
            mtime: self.created,
            ctime: self.created,
            btime: self.created,
            ..Stat::default()
        })
    }

    fn describe(&self) -> String {
        format!("socket:[{}]", self.number)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
