//! Sockets: the network stack, AF_UNIX and netlink behind file descriptors.
//!
//! What lives here is Linux's view of a socket: addresses, messages, control data, options. Protocols are the `net`
//! crate's. The system calls are in `syscall::socket`.
#![forbid(unsafe_code)]

pub mod address;
pub mod control;
mod env;
pub mod file;
mod inet;
mod ioctl;
pub mod message;
mod netlink;
pub mod options;
pub mod proc;
mod start;
mod unix;

use alloc::sync::Arc;

use base::{Errno, Once, Result};

pub use file::SocketFile;
pub use start::{init, provide_resolv_conf};

static STACK: Once<Arc<net::Stack>> = Once::new();

/// The network stack. It has the loopback interface from the first use on.
pub fn stack() -> &'static Arc<net::Stack> {
    STACK.call_once(env::new_stack)
}

/// Address families (linux/socket.h).
pub mod family {
    /// None.
    pub const UNSPEC: u16 = 0;
    /// Local.
    pub const UNIX: u16 = 1;
    /// IPv4.
    pub const INET: u16 = 2;
    /// IPv6.
    pub const INET6: u16 = 10;
    /// Netlink.
    pub const NETLINK: u16 = 16;
}

/// Socket types (linux/net.h).
pub mod kind {
    /// A byte stream.
    pub const STREAM: i32 = 1;
    /// Datagrams.
    pub const DGRAM: i32 = 2;
    /// IP packets.
    pub const RAW: i32 = 3;
    /// Datagrams over a connection.
    pub const SEQPACKET: i32 = 5;
}

/// Makes a socket of the current thread's process. Errors as socket(2).
pub fn create(domain: i32, kind: i32, protocol: i32, nonblocking: bool) -> Result<Arc<SocketFile>> {
    if !(0..=0xffff).contains(&domain) {
        return Err(Errno::EAFNOSUPPORT);
    }
    let what = match domain as u16 {
        family::UNIX => unix::create(kind, protocol)?,
        family::INET | family::INET6 => inet::create(domain as u16, kind, protocol)?,
        family::NETLINK => netlink::create(kind, protocol)?,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    Ok(SocketFile::new(what, domain as u16, kind, protocol, nonblocking))
}

/// Makes two connected sockets. Errors as socketpair(2).
pub fn pair(domain: i32, kind: i32, protocol: i32, nonblocking: bool) -> Result<[Arc<SocketFile>; 2]> {
    if domain != i32::from(family::UNIX) {
        create(domain, kind, protocol, false)?;
        return Err(Errno::EOPNOTSUPP);
    }
    let ends = unix::pair(kind, protocol)?;
    Ok(ends.map(|end| SocketFile::new(end, family::UNIX, kind, protocol, nonblocking)))
}
