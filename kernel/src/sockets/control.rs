//! Control messages (`struct cmsghdr`) between the program's memory and [`super::message`].

use alloc::vec::Vec;

use base::{Errno, Result};
use net::Ip;

use super::message::{Control, Flags, Received, SendControl, Ucred};
use crate::files;
use crate::mm::user;
use crate::sched;

const HEADER: usize = 16;
/// Most descriptors in one message, as on Linux (SCM_MAX_FD).
const MAX_FILES: usize = 253;
/// As Linux's optmem_max.
const MAX_CONTROL: usize = 128 << 10;

pub const SOL_SOCKET: i32 = 1;
pub const SCM_RIGHTS: i32 = 1;
pub const SCM_CREDENTIALS: i32 = 2;
pub const SOL_IP: i32 = 0;
pub const IP_PKTINFO: i32 = 8;
pub const SOL_IPV6: i32 = 41;
pub const IPV6_PKTINFO: i32 = 50;

fn word(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*b.get(at..)?.first_chunk()?))
}

/// Reads the control data of a message to send. `EINVAL` for a bad length, `EBADF` for a bad descriptor, `EPERM` for
/// credentials that are not the sender's.
pub fn read(address: usize, len: usize) -> Result<SendControl> {
    let mut control = SendControl::default();
    if len < HEADER {
        return Ok(control);
    }
    if len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = alloc::vec![0; len];
    user::read_bytes(address, &mut bytes)?;
    let mut rest = &bytes[..];
    while let Some(header) = rest.first_chunk::<HEADER>() {
        let len = usize::from_ne_bytes(*header.first_chunk().ok_or(Errno::EINVAL)?);
        if len < HEADER || len > rest.len() {
            return Err(Errno::EINVAL);
        }
        let (level, kind) = (word(header, 8).unwrap_or(0) as i32, word(header, 12).unwrap_or(0) as i32);
        take(&mut control, level, kind, &rest[HEADER..len])?;
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    Ok(control)
}

fn take(control: &mut SendControl, level: i32, kind: i32, data: &[u8]) -> Result<()> {
    match (level, kind) {
        (SOL_SOCKET, SCM_RIGHTS) => {
            if control.files.len() + data.len() / 4 > MAX_FILES {
                return Err(Errno::EINVAL);
            }
            for fd in data.as_chunks::<4>().0 {
                control.files.push(files::get(i32::from_ne_bytes(*fd))?);
            }
        }
        (SOL_SOCKET, SCM_CREDENTIALS) => {
            if data.len() < 12 {
                return Err(Errno::EINVAL);
            }
            let given = Ucred {
                pid: word(data, 0).unwrap_or(0),
                uid: word(data, 4).unwrap_or(0),
                gid: word(data, 8).unwrap_or(0),
            };
            if let Some(process) = sched::current().process() {
                let ids = process.credentials();
                let uid_ok = [ids.uid.real, ids.uid.effective, ids.uid.saved].contains(&given.uid);
                let gid_ok = [ids.gid.real, ids.gid.effective, ids.gid.saved].contains(&given.gid);
                let root = ids.uid.effective == 0;
                if !root && (given.pid != process.pid || !uid_ok || !gid_ok) {
                    return Err(Errno::EPERM);
                }
            }
            control.credentials = Some(given);
        }
        (SOL_IP, IP_PKTINFO) => {
            let b: &[u8; 12] = data.first_chunk().ok_or(Errno::EINVAL)?;
            let ip = Ip::from_v4_bytes([b[4], b[5], b[6], b[7]]);
            control.source = Some((ip, word(b, 0).unwrap_or(0)));
        }
        (SOL_IPV6, IPV6_PKTINFO) => {
            let b: &[u8; 20] = data.first_chunk().ok_or(Errno::EINVAL)?;
            let mut ip = [0; 16];
            ip.copy_from_slice(&b[..16]);
            control.source = Some((Ip::from_v6_bytes(ip), word(b, 16).unwrap_or(0)));
        }
        // Time to live and the like for one packet: what does not matter for delivery is passed over.
        (SOL_IP | SOL_IPV6, _) => {}
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// Writes control messages to a buffer of `room` bytes; descriptors are installed as far as they fit. Returns the
/// bytes used; sets `MSG_CTRUNC` for what did not fit.
pub fn write(received: &mut Received, address: usize, room: usize, close_on_exec: bool) -> Result<usize> {
    let mut used = 0;
    let controls = core::mem::take(&mut received.control);
    for control in &controls {
        let len = HEADER + control.data.len();
        if used + HEADER > room {
            received.flags |= Flags::CTRUNC;
            return Ok(used);
        }
        let fits = len.min(room - used);
        put(address + used, fits, control)?;
        if fits < len {
            received.flags |= Flags::CTRUNC;
        }
        used = (used + len.next_multiple_of(8)).min(room);
    }
    let files = core::mem::take(&mut received.files);
    if files.is_empty() {
        return Ok(used);
    }
    let fit = room.saturating_sub(used + HEADER) / 4;
    let mut numbers: Vec<u8> = Vec::new();
    for file in files {
        if numbers.len() / 4 >= fit {
            received.flags |= Flags::CTRUNC;
            break;
        }
        match files::install(file, close_on_exec) {
            Ok(fd) => numbers.extend_from_slice(&fd.to_ne_bytes()),
            Err(_) => {
                received.flags |= Flags::CTRUNC;
                break;
            }
        }
    }
    if numbers.is_empty() {
        received.flags |= Flags::CTRUNC;
        return Ok(used);
    }
    let control = Control { level: SOL_SOCKET, kind: SCM_RIGHTS, data: numbers };
    let len = HEADER + control.data.len();
    put(address + used, len, &control)?;
    Ok((used + len.next_multiple_of(8)).min(room))
}

fn put(address: usize, len: usize, control: &Control) -> Result<()> {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&control.level.to_ne_bytes());
    bytes.extend_from_slice(&control.kind.to_ne_bytes());
    bytes.extend_from_slice(&control.data);
    user::write_bytes(address, &bytes[..len])
}
