//! The VGA text buffer: plain writes, no set-up. It is there only where the loader says that the screen shows text
//! (`screen=text`, from boot/bios); after UEFI it is a picture.

use core::fmt::{Arguments, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

use hal_core::power::Screen;
use hal_core::{PhysAddr, memory};

use crate::paging;

const BUFFER: PhysAddr = PhysAddr(0xb8000);
const COLUMNS: usize = 80;
const ROWS: usize = 25;
/// White on red.
const COLOUR: u16 = 0x4f00;

/// The screen, from its first row on. When it is full the rest is dropped: the first lines say what happened.
pub struct TextScreen {
    row: AtomicUsize,
}

/// The machine's one.
pub static TEXT_SCREEN: TextScreen = TextScreen { row: AtomicUsize::new(0) };

struct Row {
    at: usize,
    end: usize,
}

impl Row {
    fn put(&mut self, byte: u8) {
        if self.at < self.end {
            let cell = memory::direct::<u16>(BUFFER).wrapping_add(self.at);
            // SAFETY: the cell is in the 4000 bytes of the text buffer, which `line` mapped.
            unsafe { cell.write_volatile(COLOUR | u16::from(byte)) };
            self.at += 1;
        }
    }
}

impl Write for Row {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            match byte {
                b'\n' => self.put(b' '),
                b' '..=b'~' => self.put(byte),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Screen for TextScreen {
    fn line(&self, text: Arguments) {
        if self.row.load(Ordering::Relaxed) >= ROWS || paging::map_direct(BUFFER, (COLUMNS * ROWS * 2) as u64).is_err()
        {
            return;
        }
        let row = self.row.load(Ordering::Relaxed);
        let mut out = Row { at: row * COLUMNS, end: ROWS * COLUMNS };
        let _ = out.write_fmt(text);
        // A long text goes on in the next rows; what the firmware wrote there goes away.
        let rows = out.at.div_ceil(COLUMNS).clamp(row + 1, ROWS);
        while out.at < rows * COLUMNS {
            out.put(b' ');
        }
        self.row.store(rows, Ordering::Relaxed);
    }

    fn hold(&self) {
        // Counted in ticks, because a clock may not be there yet: some five seconds on any machine of today.
        const TICKS: u64 = 15_000_000_000;
        let start = hal_core::clock::tsc();
        while hal_core::clock::tsc().wrapping_sub(start) < TICKS {
            core::hint::spin_loop();
        }
    }
}
