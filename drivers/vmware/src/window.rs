//! Device registers: mapping the window that a driver wants.

use driver_kit::Registers;
use hal_core::bus::{Bar, PciFunction};
use hal_core::{Error, Result};

/// The memory register `index`, of at least `least` bytes; decoding is turned on.
pub(crate) fn map(function: &dyn PciFunction, index: u8, least: u64) -> Result<Registers> {
    function.enable();
    let (base, len) = function.map_bar(index)?;
    if len < least {
        return Err(Error::Device("a memory register is too small"));
    }
    // SAFETY: mapped for ever just now, and the bus gives a device to one driver.
    Ok(unsafe { Registers::new(base, len as usize) })
}

/// The first memory register of at least `least` bytes.
pub(crate) fn map_large(function: &dyn PciFunction, least: u64) -> Result<Registers> {
    let fits = |index: &u8| matches!(function.bar(*index), Some(Bar::Memory(_, len, _)) if len >= least);
    let index = (0..6).find(fits).ok_or(Error::Device("there is no memory register of the size wanted"))?;
    map(function, index, least)
}
