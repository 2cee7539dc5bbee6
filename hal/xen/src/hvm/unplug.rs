//! The protocol that takes emulated disks and network interfaces away, when Xen's own stand for the same devices
//! (docs/misc/hvm-emulated-unplug.pandoc).

use hal_x86::arch::{inb, inw, outl, outw};

const MAGIC_PORT: u16 = 0x10;
const PRODUCT_PORT: u16 = 0x12;
const MAGIC: u16 = 0x49d2;
const DISKS: u16 = 1 << 0;
const NETWORK: u16 = 1 << 1;
const OTHER_DISKS: u16 = 1 << 2;
/// Registered products get a number; others are to use this.
const PRODUCT: u16 = 0xffff;

/// Takes emulated disks or network interfaces away. Without that protocol (PVH) nothing is emulated.
pub fn unplug(disks: bool, network: bool) {
    // SAFETY: on Xen these ports are the protocol's or nobody's.
    if unsafe { inw(MAGIC_PORT) } != MAGIC {
        return;
    }
    // SAFETY: as above; the drivers of PCI devices have not begun.
    unsafe {
        if inb(PRODUCT_PORT) >= 1 {
            outw(PRODUCT_PORT, PRODUCT);
            outl(MAGIC_PORT, 0);
            // A host may refuse this product.
            if inw(MAGIC_PORT) != MAGIC {
                log::warn!("Xen refuses to take emulated devices away: disks and interfaces may appear twice");
                return;
            }
        }
        let mut what = 0;
        if disks {
            what |= DISKS | OTHER_DISKS;
        }
        if network {
            what |= NETWORK;
        }
        if what != 0 {
            outw(MAGIC_PORT, what);
        }
    }
}
