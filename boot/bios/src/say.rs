//! The loader's last words: to the screen and to the first serial port. It says nothing while all goes well.

use core::arch::asm;
use core::fmt::{self, Write};

use crate::bios;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;

/// Says why there is no boot, and stops.
pub fn refuse(why: fmt::Arguments) -> ! {
    // 115200 baud, 8 bits, no parity; FIFOs on.
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        out(COM1 + register, value);
    }
    let _ = writeln!(Both, "Coracle: {why}");
    loop {
        // SAFETY: waits for ever.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

struct Both;

impl Write for Both {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                one(b'\r');
            }
            one(byte);
        }
        Ok(())
    }
}

fn one(byte: u8) {
    bios::put(byte);
    // The transmitter may be busy; where there is no port all bits read as ones.
    for _ in 0..100_000 {
        if input(LINE_STATUS) & 0x20 != 0 {
            break;
        }
    }
    out(COM1, byte);
}

fn out(port: u16, value: u8) {
    // SAFETY: the ports of the first serial port: no memory is involved.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

fn input(port: u16) -> u8 {
    let value;
    // SAFETY: as in `out`.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}
