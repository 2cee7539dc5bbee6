//! What PV makes of the shared parts' [`Mode`].

use hal_core::{Error, Result, VirtAddr};

use super::{area, frames};
use crate::Mode;
use crate::abi::{DOMID_SELF, grant, op};
use crate::hypercall;

static MODE: Mode = Mode { frame_number: |at| frames::of(at), map_grant_frame, vcpu: |cpu| cpu as u32 };

/// Puts it in force.
pub fn set() {
    crate::mode::set(&MODE);
}

/// Most frames of the grant table that are asked for at once.
const FRAMES: usize = 64;

/// Makes frame `index` of the grant table accessible.
fn map_grant_frame(index: u32) -> Result<VirtAddr> {
    let mut list = [0u64; FRAMES];
    if index as usize >= FRAMES {
        return Err(Error::Exhausted);
    }
    let mut setup =
        grant::SetupTable { domain: DOMID_SELF, frames: index + 1, status: 0, list: list.as_mut_ptr() as u64 };
    // SAFETY: the list has room for the frames' numbers.
    hypercall::check(unsafe {
        hypercall::call(op::GRANT_TABLE, [grant::SETUP_TABLE, (&raw mut setup) as u64, 1, 0, 0])
    })?;
    if setup.status != 0 {
        return Err(Error::Device("Xen gives no frame for the grant table"));
    }
    // SAFETY: Xen named the frame as one of this domain's grant table.
    unsafe { area::map(list[index as usize]) }
}
