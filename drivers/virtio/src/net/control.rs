//! The control queue (virtio 1.2, section 5.1.6.5): only to tell how many queue pairs are used.

use driver_kit::wait_for;
use hal_core::{Error, Result};

use crate::ring::{Piece, Ring};
use crate::transport::Transport;
use driver_kit::DmaArea;

const CLASS_MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const OK: u8 = 0;

/// Tells the device to use `pairs` queue pairs.
pub(crate) fn set_pairs(transport: &dyn Transport, queue: u16, ring: &mut Ring<()>, pairs: u16) -> Result<()> {
    let area = DmaArea::new(8)?;
    let [low, high] = pairs.to_le_bytes();
    area.write(0, &[CLASS_MQ, MQ_VQ_PAIRS_SET, low, high, 0xff]);
    let piece = |offset, len, writable| Piece { address: area.phys(offset), len, writable };
    let pieces = [piece(0, 2, false), piece(2, 2, false), piece(4, 1, true)];
    // SAFETY: the area lives for ever.
    unsafe { ring.add(&pieces, ()) }.map_err(|()| Error::Device("the control queue is too small"))?;
    if ring.publish() {
        transport.notify(queue);
    }
    let answered = wait_for(1_000_000_000, || ring.pop().is_some() || ring.broken().is_some());
    match ring.broken() {
        Some(why) => Err(Error::Device(why)),
        None if !answered => Err(Error::Device("the control queue does not answer")),
        None if area.byte(4) == OK => Ok(()),
        None => Err(Error::Device("the device refuses the number of queues")),
    }
}
