//! What `sendmsg` and `recvmsg` carry besides bytes.

use alloc::sync::Arc;
use alloc::vec::Vec;

use fs::File;

use super::address::Address;

bitflags::bitflags! {
    /// `MSG_*` (linux/socket.h).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Flags: u32 {
        /// Urgent data.
        const OOB = 0x1;
        /// Leave the data there.
        const PEEK = 0x2;
        /// Do not route.
        const DONTROUTE = 0x4;
        /// Control data did not fit.
        const CTRUNC = 0x8;
        /// Tell the real length; or the message did not fit.
        const TRUNC = 0x20;
        /// Do not wait.
        const DONTWAIT = 0x40;
        /// End of a record.
        const EOR = 0x80;
        /// Wait for all bytes.
        const WAITALL = 0x100;
        /// Confirm the path.
        const CONFIRM = 0x800;
        /// From the queue of errors.
        const ERRQUEUE = 0x2000;
        /// No SIGPIPE.
        const NOSIGNAL = 0x4000;
        /// More will follow.
        const MORE = 0x8000;
        /// `recvmmsg`: do not wait after the first message.
        const WAITFORONE = 0x10000;
        /// Send without a copy.
        const ZEROCOPY = 0x400_0000;
        /// Connect with data.
        const FASTOPEN = 0x2000_0000;
        /// Descriptors close on exec.
        const CMSG_CLOEXEC = 0x4000_0000;
    }
}

/// Who sent a message over AF_UNIX (`struct ucred`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Ucred {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Ucred {
    /// Of the running process.
    pub fn current() -> Self {
        crate::sched::current().process().map_or_else(Self::default, |process| {
            let ids = process.credentials();
            Self { pid: process.pid, uid: ids.uid.effective, gid: ids.gid.effective }
        })
    }

    /// As the ABI has it.
    pub fn to_bytes(self) -> [u8; 12] {
        let mut b = [0; 12];
        b[0..4].copy_from_slice(&self.pid.to_ne_bytes());
        b[4..8].copy_from_slice(&self.uid.to_ne_bytes());
        b[8..12].copy_from_slice(&self.gid.to_ne_bytes());
        b
    }
}

/// Control data to send, read from the program.
#[derive(Default)]
pub struct SendControl {
    /// SCM_RIGHTS.
    pub files: Vec<Arc<dyn File>>,
    /// SCM_CREDENTIALS.
    pub credentials: Option<Ucred>,
    /// IP_PKTINFO, IPV6_PKTINFO: source address and interface.
    pub source: Option<(net::Ip, u32)>,
}

/// One control message for the program.
pub struct Control {
    /// `cmsg_level`.
    pub level: i32,
    /// `cmsg_type`.
    pub kind: i32,
    /// Its data.
    pub data: Vec<u8>,
}

/// What a receive returns besides the bytes.
#[derive(Default)]
pub struct Received {
    /// The result of the call: bytes, or with `MSG_TRUNC` the real length.
    pub len: usize,
    /// Sender, if the socket tells one.
    pub from: Option<Address>,
    /// `msg_flags`.
    pub flags: Flags,
    /// Control messages.
    pub control: Vec<Control>,
    /// SCM_RIGHTS.
    pub files: Vec<Arc<dyn File>>,
}
