//! TCP: one object per socket, one channel per flow.
//!
//! A packet is processed where it is received, under its connection's own lock, if that lock is free; if the
//! application holds it just then, the packet goes on the connection's channel (`inbox`), and the holder
//! processes it before it leaves. Nobody waits for a connection's lock in the receive path, and there is no lock
//! for all connections. Cost per packet does not depend on their number.
//!
//! Header formats, and those of every other protocol that is not on the hot path, are smoltcp's. The
//! connection itself is ours: smoltcp's socket fixes both buffers, and with them memory and window scale, when it is
//! made, and has no selective retransmission.

mod buffers;
mod close;
mod congestion;
mod demux;
mod info;
mod input;
pub(crate) mod listen;
mod options;
mod output;
mod path;
pub(crate) mod segment;
mod socket;
pub(crate) mod tables;
mod tcb;

pub use info::Info;
pub use options::{MAX_BUFFER, Options};
pub use socket::{Shutdown, Tcp};
pub use tcb::State;
