//! Socket addresses as programs pass them (`struct sockaddr` and its kin).

use alloc::vec::Vec;

use base::{Errno, Result};
use net::{Endpoint, Ip};

use super::family;
use crate::mm::user;

/// Most bytes of an address (`struct sockaddr_storage`).
pub const MAX_LEN: usize = 128;

/// A socket address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// AF_UNSPEC: dissolves an association.
    None,
    /// AF_INET.
    V4(Endpoint),
    /// AF_INET6 with its scope (interface index); IPv4-mapped where so.
    V6(Endpoint, u32),
    /// AF_UNIX: the bytes of `sun_path`. Empty: no name; first byte 0: abstract.
    Unix(Vec<u8>),
    /// AF_NETLINK: port and groups.
    Netlink(u32, u32),
    /// Any other family.
    Other(u16),
}

/// Reads an address of `len` bytes. `EINVAL` if the length is wrong for the family.
pub fn read(address: usize, len: usize) -> Result<Address> {
    if len > MAX_LEN {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; MAX_LEN];
    user::read_bytes(address, &mut bytes[..len])?;
    parse(&bytes[..len])
}

/// As [`read`], from bytes.
pub fn parse(bytes: &[u8]) -> Result<Address> {
    let Some([a, b]) = bytes.first_chunk::<2>() else {
        return Err(Errno::EINVAL);
    };
    let port = |b: &[u8]| u16::from_be_bytes([b[2], b[3]]);
    match u16::from_ne_bytes([*a, *b]) {
        family::UNSPEC => Ok(Address::None),
        family::INET => {
            let b: &[u8; 16] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
            let ip = Ip::from_v4_bytes([b[4], b[5], b[6], b[7]]);
            Ok(Address::V4(Endpoint::new(ip, port(b))))
        }
        family::INET6 => {
            // sin6_scope_id came later: 24 bytes were an address once.
            let b: &[u8; 24] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
            let mut ip = [0; 16];
            ip.copy_from_slice(&b[8..24]);
            let scope = bytes.get(24..28).map_or(0, |s| u32::from_ne_bytes([s[0], s[1], s[2], s[3]]));
            Ok(Address::V6(Endpoint::new(Ip::from_v6_bytes(ip), port(b)), scope))
        }
        family::UNIX => {
            if bytes.len() > 110 {
                return Err(Errno::EINVAL);
            }
            let path = &bytes[2..];
            let name = match path.first() {
                None => &[][..],
                Some(0) => path,
                Some(_) => path.split(|b| *b == 0).next().unwrap_or(path),
            };
            Ok(Address::Unix(name.to_vec()))
        }
        family::NETLINK => {
            let b: &[u8; 12] = bytes.first_chunk().ok_or(Errno::EINVAL)?;
            let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
            Ok(Address::Netlink(word(4), word(8)))
        }
        other => Ok(Address::Other(other)),
    }
}

impl Address {
    /// An endpoint as a socket of this family shows it.
    pub fn of(endpoint: Endpoint, v6: bool, scope: u32) -> Self {
        if v6 {
            let scope = if endpoint.ip.is_link_local6() { scope } else { 0 };
            Self::V6(endpoint, scope)
        } else {
            Self::V4(endpoint)
        }
    }

    /// Its bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut b = Vec::with_capacity(28);
        match self {
            Self::None => b.extend_from_slice(&family::UNSPEC.to_ne_bytes()),
            Self::V4(e) => {
                b.extend_from_slice(&family::INET.to_ne_bytes());
                b.extend_from_slice(&e.port.to_be_bytes());
                b.extend_from_slice(&e.ip.v4_bytes());
                b.extend_from_slice(&[0; 8]);
            }
            Self::V6(e, scope) => {
                b.extend_from_slice(&family::INET6.to_ne_bytes());
                b.extend_from_slice(&e.port.to_be_bytes());
                b.extend_from_slice(&[0; 4]);
                b.extend_from_slice(&e.ip.v6_bytes());
                b.extend_from_slice(&scope.to_ne_bytes());
            }
            Self::Unix(name) => {
                b.extend_from_slice(&family::UNIX.to_ne_bytes());
                b.extend_from_slice(name);
                if name.first().is_some_and(|c| *c != 0) {
                    b.push(0);
                }
            }
            Self::Netlink(port, groups) => {
                b.extend_from_slice(&family::NETLINK.to_ne_bytes());
                b.extend_from_slice(&[0; 2]);
                b.extend_from_slice(&port.to_ne_bytes());
                b.extend_from_slice(&groups.to_ne_bytes());
            }
            Self::Other(family) => b.extend_from_slice(&family.to_ne_bytes()),
        }
        b
    }

    /// Writes it to a program's buffer whose size is at `len_at`, which gets the full length. `EINVAL` for a
    /// negative size.
    pub fn write(&self, address: usize, len_at: usize) -> Result<()> {
        let room = user::read::<i32>(len_at)?;
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
        let bytes = self.to_bytes();
        user::write_bytes(address, &bytes[..bytes.len().min(room)])?;
        user::write(len_at, &(bytes.len() as u32))
    }

    /// The endpoint for a socket of this family, and the scope. `EAFNOSUPPORT` for another one.
    pub fn endpoint(&self, v6: bool) -> Result<(Endpoint, u32)> {
        match *self {
            Self::V4(e) if !v6 => Ok((e, 0)),
            Self::V6(e, scope) if v6 => Ok((e, scope)),
            Self::V4(_) | Self::V6(..) if v6 => Err(Errno::EINVAL),
            _ => Err(Errno::EAFNOSUPPORT),
        }
    }
}
