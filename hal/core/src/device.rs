//! Devices as the kernel sees them, whatever hypervisor or driver is behind.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{Error, Result, interrupt::Handler};

/// A device brought up by a driver.
#[derive(Clone)]
pub enum Device {
    /// A network interface.
    Net(Arc<dyn NetDevice>),
    /// A disk.
    Block(Arc<dyn BlockDevice>),
    /// A character console.
    Console(Arc<dyn ConsoleDevice>),
    /// A source of randomness.
    Entropy(Arc<dyn EntropyDevice>),
    /// A memory balloon.
    Balloon(Arc<dyn BalloonDevice>),
}

/// Room kept free before a packet's first byte, for headers and the driver's own (virtio's is 12 bytes).
pub const NET_HEADROOM: usize = 128;

/// A packet: one owned, physically contiguous buffer with headroom. Memory comes from the kernel's heap,
/// which lies in the direct map.
///
/// 64 bytes, which is what compilers move in registers without vector instructions: it is moved a lot.
pub struct NetBuf {
    data: Box<[u8]>,
    start: u32,
    end: u32,
    /// What the device did, or shall do, for this packet.
    pub offload: Offload,
    /// More buffers of the same received frame (mergeable buffers, LRO), in order.
    pub more: Vec<NetBuf>,
}

/// Checksum and segmentation offload of one packet (as virtio 1.2, section 5.1.6, and every NIC's).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// Received: checksums are known to be good. Sent: not used.
    pub checksum_valid: bool,
    /// Sent: the device shall put the checksum of the bytes from `.0` to the packet's end at `.0 + .1`
    /// (the pseudo-header's sum is there already). Received: the packet still needs that done (it comes
    /// from a neighbour on the same host), and can be taken as valid.
    pub checksum: Option<(u16, u16)>,
    /// Sent: cut the TCP payload into segments of this many bytes. Received: it was joined from such.
    pub segment: Option<Segment>,
}

/// TCP segmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// IPv6, else IPv4.
    pub ipv6: bool,
    /// Payload bytes per segment.
    pub size: u16,
    /// Length of all headers: link, network, transport.
    pub header_len: u16,
}

const _: () = assert!(size_of::<NetBuf>() <= 64);

impl NetBuf {
    /// A buffer with room for `capacity` bytes behind [`NET_HEADROOM`]; holds no bytes yet.
    pub fn new(capacity: usize) -> Self {
        Self::from_box(alloc::vec![0; NET_HEADROOM + capacity].into_boxed_slice(), NET_HEADROOM, 0)
    }

    /// Takes over a buffer (of less than 4 GiB) that has `len` bytes of packet from `start` on. Cut to the buffer.
    #[inline]
    pub fn from_box(data: Box<[u8]>, start: usize, len: usize) -> Self {
        let limit = data.len().min(u32::MAX as usize);
        let start = start.min(limit);
        let end = start.saturating_add(len).min(limit);
        Self { data, start: start as u32, end: end as u32, offload: Offload::default(), more: Vec::new() }
    }

    /// The packet's bytes (of this buffer; see `more`).
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start as usize..self.end as usize]
    }
    /// The packet's bytes.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start as usize..self.end as usize]
    }
    /// Length of this buffer's part.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }
    /// True if it holds no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
    /// Sets the length; cut to the capacity.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        let limit = self.data.len().min(u32::MAX as usize);
        self.end = (self.start as usize).saturating_add(len).min(limit) as u32;
    }
    /// Free bytes before the packet.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.start as usize
    }
    /// Free bytes behind the packet.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.data.len() - self.end as usize
    }
    /// Grows the packet to the front by `n` bytes and returns them; `None` if there is no room.
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = (self.start as usize).checked_sub(n)?;
        self.start = start as u32;
        Some(&mut self.data[start..start + n])
    }
    /// Drops `n` bytes from the front (at most all).
    #[inline]
    pub fn pull_front(&mut self, n: usize) {
        self.start = (self.start as usize).saturating_add(n).min(self.end as usize) as u32;
    }
    /// The whole buffer, headroom included, for a driver's DMA; and where the packet starts and ends.
    #[inline]
    pub fn raw(&mut self) -> (&mut [u8], usize, usize) {
        (&mut self.data, self.start as usize, self.end as usize)
    }
    /// The storage, for reuse.
    #[inline]
    pub fn into_box(self) -> Box<[u8]> {
        self.data
    }
}

/// What a network interface can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetCaps {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Pairs of receive and send queues; at least 1.
    pub queues: u16,
    /// Fills in checksums on sending.
    pub tx_checksum: bool,
    /// Cuts IPv4 TCP segments on sending.
    pub tso4: bool,
    /// Cuts IPv6 TCP segments on sending.
    pub tso6: bool,
    /// May deliver joined TCP segments up to 64 KiB.
    pub lro: bool,
}

/// A network interface: Ethernet frames in batches over several queues.
///
/// Each queue is used by one CPU at a time (the kernel serialises); different queues are independent.
pub trait NetDevice: Send + Sync {
    /// Capabilities; fixed after the driver's start.
    fn caps(&self) -> NetCaps;
    /// Takes up to `budget` received frames of a queue; refills the ring. Returns how many there were.
    fn receive(&self, queue: u16, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> usize;
    /// Queues packets from the front of `packets` for sending, and tells the device once. What does not
    /// fit stays in `packets`.
    fn send(&self, queue: u16, packets: &mut alloc::collections::VecDeque<NetBuf>);
    /// Frees the buffers of packets that were sent. Called before `send` finds the ring full, too.
    fn reap(&self, queue: u16);
    /// Turns a queue's receive interrupt on or off (a hint where the device cannot). Returns true if frames
    /// are waiting after turning it on, so that the caller must poll once more.
    fn set_receive_interrupt(&self, queue: u16, on: bool) -> bool;
    /// Calls `handler(queue)` in the interrupt when frames arrived or, after a full ring, space came.
    fn on_interrupt(&self, handler: Arc<dyn Fn(u16) + Send + Sync>);
    /// True if the link is up.
    fn link_up(&self) -> bool {
        true
    }
}

/// A request to a disk. Positions and lengths are in bytes, multiples of the block size.
pub enum BlockOp {
    /// Fill `buffers` from `position`.
    Read,
    /// Write `buffers` at `position`.
    Write,
    /// Make earlier writes durable.
    Flush,
    /// The range holds nothing any more (bytes in `.0`).
    Discard(u64),
}

/// One piece of memory of a request: direct-map address and bytes. Physically contiguous.
#[derive(Clone, Copy, Debug)]
pub struct Dma {
    /// Address in the direct map.
    pub address: usize,
    /// Bytes.
    pub len: usize,
}

/// Runs when a request is done: in [`BlockDevice::poll`] or in [`BlockDevice::submit`], never in an interrupt.
/// The driver holds no lock then, so it may submit again.
pub type Completion = Box<dyn FnOnce(Result<()>) + Send>;

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCaps {
    /// Size in bytes.
    pub size: u64,
    /// Bytes in a block: the unit of every position and length.
    pub block_size: u32,
    /// Refuses writes.
    pub read_only: bool,
    /// Understands [`BlockOp::Discard`].
    pub discard: bool,
    /// Largest request in bytes.
    pub max_request: u32,
    /// Most pieces of memory in one request.
    pub max_pieces: u16,
    /// Queues; at least 1.
    pub queues: u16,
}

/// A disk: many requests in flight.
pub trait BlockDevice: Send + Sync {
    /// What it is.
    fn caps(&self) -> BlockCaps;
    /// Starts a request; `done` is called exactly once, also when this returns. If the ring is full the request
    /// waits inside the driver.
    ///
    /// # Safety
    /// The memory of `buffers` stays valid, and for a read is not otherwise used, until `done` is called.
    unsafe fn submit(&self, op: BlockOp, position: u64, buffers: &[Dma], done: Completion);
    /// Runs the completions of what the device has finished; starts what waits. Cheap if there is nothing.
    fn poll(&self);
    /// Calls `handler` in the interrupt when requests are finished: it shall see to it that
    /// [`BlockDevice::poll`] is called soon.
    fn on_interrupt(&self, handler: Handler);
    /// The disk's serial number or name, if it tells one.
    fn serial(&self) -> alloc::string::String {
        alloc::string::String::new()
    }
}

/// A character console device.
pub trait ConsoleDevice: Send + Sync {
    /// Writes what fits now; returns the number of bytes taken.
    fn write(&self, bytes: &[u8]) -> usize;
    /// Reads what has arrived.
    fn read(&self, to: &mut [u8]) -> usize;
    /// Called in an interrupt when input arrives.
    fn on_input(&self, handler: Handler);
    /// Columns and rows, if the device tells.
    fn size(&self) -> Option<(u16, u16)> {
        None
    }
}

/// Gets the bytes of an entropy request.
pub type EntropyDone = Box<dyn FnOnce(&[u8]) + Send>;

/// A source of randomness.
pub trait EntropyDevice: Send + Sync {
    /// Asks for up to `len` bytes; `done` gets them in [`EntropyDevice::poll`] (none if the device failed).
    fn request(&self, len: usize, done: EntropyDone) -> Result<()>;
    /// Hands over what has arrived.
    fn poll(&self);
    /// Calls `handler` in the interrupt when bytes have arrived: it shall see to it that
    /// [`EntropyDevice::poll`] is called soon.
    fn on_interrupt(&self, handler: Handler);
}

/// A memory balloon.
pub trait BalloonDevice: Send + Sync {
    /// How many 4 KiB frames the host wants back in all.
    fn target(&self) -> u32;
    /// Hands frames (frame numbers) to the host.
    fn inflate(&self, frames: &[u64]) -> Result<()>;
    /// Takes frames back.
    fn deflate(&self, frames: &[u64]) -> Result<()>;
    /// Called in an interrupt when the target changed.
    fn on_change(&self, handler: Handler);
}

/// Checks that a request fits a disk: aligned and inside.
pub fn check_request(caps: &BlockCaps, position: u64, len: u64) -> Result<()> {
    let block = u64::from(caps.block_size.max(1));
    match position.checked_add(len) {
        Some(end) if end <= caps.size && position.is_multiple_of(block) && len.is_multiple_of(block) => Ok(()),
        _ => Err(Error::Invalid),
    }
}
