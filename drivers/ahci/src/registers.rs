//! Registers and bits (Serial ATA AHCI 1.3.1, section 3).

/// Capabilities of the controller.
pub const CAP: usize = 0x00;
/// Global control.
pub const GHC: usize = 0x04;
/// Ports with an interrupt pending; writing ones clears.
pub const IS: usize = 0x08;
/// Ports that there are.
pub const PI: usize = 0x0c;
/// More capabilities.
pub const CAP2: usize = 0x24;
/// Handing over from the BIOS.
pub const BOHC: usize = 0x28;
/// First port's registers.
pub const PORTS: usize = 0x100;
/// Bytes per port.
pub const PORT: usize = 0x80;

/// CAP: 64-bit addresses.
pub const CAP_S64A: u32 = 1 << 31;
/// CAP: native command queuing.
pub const CAP_SNCQ: u32 = 1 << 30;
/// GHC: reset.
pub const GHC_HR: u32 = 1 << 0;
/// GHC: interrupts on.
pub const GHC_IE: u32 = 1 << 1;
/// GHC: AHCI, and not the legacy interface.
pub const GHC_AE: u32 = 1 << 31;
/// CAP2: there is BOHC.
pub const CAP2_BOH: u32 = 1 << 0;
/// BOHC: the BIOS owns it.
pub const BOHC_BOS: u32 = 1 << 0;
/// BOHC: the system wants it.
pub const BOHC_OOS: u32 = 1 << 1;

/// Port: command list.
pub const P_CLB: usize = 0x00;
/// Port: its upper half.
pub const P_CLBU: usize = 0x04;
/// Port: received frames.
pub const P_FB: usize = 0x08;
/// Port: its upper half.
pub const P_FBU: usize = 0x0c;
/// Port: interrupt causes; writing ones clears.
pub const P_IS: usize = 0x10;
/// Port: causes enabled.
pub const P_IE: usize = 0x14;
/// Port: command and status.
pub const P_CMD: usize = 0x18;
/// Port: the device's status and error.
pub const P_TFD: usize = 0x20;
/// Port: the device's signature.
pub const P_SIG: usize = 0x24;
/// Port: link status.
pub const P_SSTS: usize = 0x28;
/// Port: link control.
pub const P_SCTL: usize = 0x2c;
/// Port: link errors; writing ones clears.
pub const P_SERR: usize = 0x30;
/// Port: queued commands that are not done.
pub const P_SACT: usize = 0x34;
/// Port: commands issued.
pub const P_CI: usize = 0x38;

/// P_CMD: the port works on commands.
pub const CMD_ST: u32 = 1 << 0;
/// P_CMD: spin up, power on.
pub const CMD_UP: u32 = 1 << 1 | 1 << 2;
/// P_CMD: receives frames.
pub const CMD_FRE: u32 = 1 << 4;
/// P_CMD: receiving runs.
pub const CMD_FR: u32 = 1 << 14;
/// P_CMD: the command list runs.
pub const CMD_CR: u32 = 1 << 15;
/// P_CMD: the link is to be active (bits 28 to 31).
pub const CMD_ACTIVE: u32 = 1 << 28;

/// P_IS: a register frame came (a command is done), data of a PIO transfer, bits of queued commands.
pub const IS_DONE: u32 = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 5;
/// P_IS: overflow, interface errors, host bus errors, the device's error.
pub const IS_ERROR: u32 = 1 << 24 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 30;

/// P_TFD: busy, data wanted.
pub const TFD_BUSY: u32 = 1 << 7 | 1 << 3;
/// P_TFD: error.
pub const TFD_ERROR: u32 = 1 << 0;

/// P_SIG of a packet device: CD-ROM.
pub const SIG_PACKET: u32 = 0xeb14_0101;
