//! A controller: reset, and the disks at its ports.

use alloc::sync::Arc;
use alloc::vec::Vec;

use driver_kit::{Io, wait_for};
use hal_core::{Error, Result};

use crate::disk::Disk;
use crate::registers::*;

/// How long a link that was up before the reset may take to come up again.
const LINK_NS: u64 = 1_000_000_000;

/// Resets the controller and brings up the disks behind it.
pub(crate) fn start(io: &Arc<dyn Io>) -> Result<Vec<Arc<Disk>>> {
    take_over(&**io);
    let ports = io.read(PI);
    let numbers = |ports: u32| (0..32).filter(move |n| ports & 1 << n != 0);
    // Who is there now is what firmware found, or an emulator has: empty ports need not be waited for.
    let linked: u32 = numbers(ports).filter(|&n| link(&**io, n)).map(|n| 1 << n).sum();
    io.write(GHC, GHC_AE);
    io.write(GHC, GHC_AE | GHC_HR);
    if !wait_for(1_000_000_000, || io.read(GHC) & GHC_HR == 0) {
        return Err(Error::Device("the controller does not reset"));
    }
    io.write(GHC, GHC_AE);
    let capabilities = io.read(CAP);
    if capabilities & CAP_S64A == 0 {
        return Err(Error::Device("the controller has no 64-bit addresses"));
    }
    let slots = (capabilities >> 8 & 0x1f) as usize + 1;
    for number in numbers(ports) {
        let at = PORTS + number * PORT + P_CMD;
        io.write(at, io.read(at) | CMD_UP);
    }
    wait_for(LINK_NS, || numbers(linked).all(|number| link(&**io, number)));
    let mut disks = Vec::new();
    for number in numbers(ports).filter(|&number| link(&**io, number)) {
        match disk(io, number, slots, capabilities & CAP_SNCQ != 0) {
            Ok(Some(disk)) => disks.push(disk),
            Ok(None) => {}
            Err(error) => log::warn!("ahci: port {number}: {error:?}"),
        }
    }
    io.write(IS, u32::MAX);
    Ok(disks)
}

/// Lets the controller interrupt.
pub(crate) fn enable_interrupts(io: &dyn Io) {
    io.write(GHC, GHC_AE | GHC_IE);
}

/// The controller's interrupt, whose line others may share.
pub(crate) fn interrupt(io: &dyn Io, disks: &[Arc<Disk>]) {
    let ports = io.read(IS);
    if ports == 0 || ports == u32::MAX {
        return;
    }
    disks.iter().for_each(|disk| disk.interrupt(ports));
    // After the ports' own registers, else it would be set again (section 10.7.2.1).
    io.write(IS, ports);
}

/// From the BIOS, if it has the controller (section 10.6.3).
fn take_over(io: &dyn Io) {
    if io.read(CAP2) & CAP2_BOH == 0 {
        return;
    }
    io.write(BOHC, io.read(BOHC) | BOHC_OOS);
    if !wait_for(2_000_000_000, || io.read(BOHC) & BOHC_BOS == 0) {
        log::warn!("ahci: the BIOS does not let go of the controller");
    }
}

/// A device is there and the link works.
fn link(io: &dyn Io, number: usize) -> bool {
    io.read(PORTS + number * PORT + P_SSTS) & 0xf == 3
}

/// The disk at a port; `None` if something else is there.
fn disk(io: &Arc<dyn Io>, number: usize, slots: usize, queues: bool) -> Result<Option<Arc<Disk>>> {
    let at = PORTS + number * PORT;
    // The signature comes with the first frame, which is received from now on.
    match io.read(at + P_SIG) {
        SIG_PACKET => {
            log::info!("ahci: port {number}: a packet device (CD-ROM): not used");
            Ok(None)
        }
        _ => Disk::start(io, number, slots, queues).map(Some),
    }
}
