//! `getsockopt` and `setsockopt`. An option that is not here gives `ENOPROTOOPT`.

pub(super) mod get;
mod set;

pub use get::get;
pub use set::set;

const SOL_SOCKET: i32 = 1;
const SOL_IP: i32 = 0;
const SOL_TCP: i32 = 6;
const SOL_IPV6: i32 = 41;
const SOL_NETLINK: i32 = 270;

/// Options that are stored and given back, and have no effect here; a bit of `Extra::kept` each.
const KEPT: &[(i32, i32)] = &[
    (SOL_SOCKET, 10),  // SO_OOBINLINE: there is no urgent data
    (SOL_SOCKET, 5),   // SO_DONTROUTE
    (SOL_SOCKET, 11),  // SO_NO_CHECK
    (SOL_SOCKET, 1),   // SO_DEBUG
    (SOL_IP, 11),      // IP_RECVERR: errors come through SO_ERROR
    (SOL_IP, 15),      // IP_FREEBIND
    (SOL_IP, 24),      // IP_BIND_ADDRESS_NO_PORT
    (SOL_IP, 49),      // IP_MULTICAST_ALL
    (SOL_IPV6, 25),    // IPV6_RECVERR
    (SOL_IPV6, 78),    // IPV6_FREEBIND
    (SOL_IPV6, 70),    // IPV6_AUTOFLOWLABEL
    (SOL_TCP, 9),      // TCP_DEFER_ACCEPT
    (SOL_TCP, 23),     // TCP_FASTOPEN: the handshake is an ordinary one
    (SOL_TCP, 30),     // TCP_FASTOPEN_CONNECT
    (SOL_TCP, 25),     // TCP_NOTSENT_LOWAT
    (SOL_TCP, 10),     // TCP_WINDOW_CLAMP
    (SOL_TCP, 7),      // TCP_SYNCNT
    (SOL_TCP, 8),      // TCP_LINGER2
    (SOL_SOCKET, 46),  // SO_BUSY_POLL
    (SOL_SOCKET, 44),  // SO_LOCK_FILTER
    (SOL_NETLINK, 10), // NETLINK_EXT_ACK
    (SOL_NETLINK, 11), // NETLINK_CAP_ACK
    (SOL_NETLINK, 12), // NETLINK_GET_STRICT_CHK
    (SOL_NETLINK, 3),  // NETLINK_PKTINFO
    (SOL_NETLINK, 5),  // NETLINK_NO_ENOBUFS
];
