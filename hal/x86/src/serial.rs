//! 16550 UARTs: COM1 as the console that is there from the first moment, COM2 for the program's standard error.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use hal_core::interrupt::Handler;
use hal_core::{Console, Error};

use crate::arch::{inb, outb};

const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
const SCRATCH: u16 = 7;

const STATUS_DATA: u8 = 0x01;
const STATUS_ROOM: u8 = 0x20;
const STATUS_IDLE: u8 = 0x40;

/// Depth of a 16550A's transmit FIFO.
const FIFO: usize = 16;

/// How often the status is polled before a byte is given up (a UART that is not there any more).
const PATIENCE: u32 = 1_000_000;

/// A UART at an I/O port.
pub struct Uart {
    port: u16,
    /// 0 unknown, 1 there, 2 absent.
    state: AtomicU8,
    writing: AtomicBool,
}

/// The first serial port, ISA interrupt 4.
pub static COM1: Uart = Uart::new(0x3f8);
/// The second serial port, ISA interrupt 3.
pub static COM2: Uart = Uart::new(0x2f8);

impl Uart {
    const fn new(port: u16) -> Self {
        Self { port, state: AtomicU8::new(0), writing: AtomicBool::new(false) }
    }

    fn get(&self, register: u16) -> u8 {
        // SAFETY: the ports of a UART that nobody else drives.
        unsafe { inb(self.port + register) }
    }

    fn put(&self, register: u16, value: u8) {
        // SAFETY: as in `get`.
        unsafe { outb(self.port + register, value) }
    }

    /// Sets 115200 baud, 8N1 and the FIFO. False if there is no UART.
    pub fn init(&self) -> bool {
        match self.state.load(Ordering::Relaxed) {
            1 => return true,
            2 => return false,
            _ => {}
        }
        self.put(SCRATCH, 0x5a);
        let there = self.get(SCRATCH) == 0x5a && self.get(LINE_STATUS) != 0xff;
        if there {
            self.put(INTERRUPT_ENABLE, 0);
            self.put(LINE_CONTROL, 0x80);
            self.put(DATA, 1);
            self.put(INTERRUPT_ENABLE, 0);
            self.put(LINE_CONTROL, 0x03);
            self.put(FIFO_CONTROL, 0x07);
            self.put(MODEM_CONTROL, 0x0b);
        }
        self.state.store(if there { 1 } else { 2 }, Ordering::Relaxed);
        there
    }

    fn wait(&self, bit: u8) -> bool {
        (0..PATIENCE).any(|_| {
            let ready = self.get(LINE_STATUS) & bit != 0;
            if !ready {
                core::hint::spin_loop();
            }
            ready
        })
    }

    /// Writes all bytes; one piece where no other CPU is stuck in the middle of one (a panic must get through).
    pub fn send(&self, bytes: &[u8]) {
        if !self.init() {
            return;
        }
        let interrupts = crate::arch::interrupts_enabled();
        crate::arch::cli();
        let mut patience = PATIENCE;
        let mut locked = false;
        while patience > 0 && !locked {
            locked = !self.writing.swap(true, Ordering::Acquire);
            patience -= 1;
        }
        for chunk in bytes.chunks(FIFO) {
            // An empty holding register means an empty FIFO: a whole chunk fits.
            if !self.wait(STATUS_ROOM) {
                break;
            }
            for &byte in chunk {
                self.put(DATA, byte);
            }
        }
        if locked {
            self.writing.store(false, Ordering::Release);
        }
        if interrupts {
            // SAFETY: they were enabled on entry.
            unsafe { crate::arch::sti() };
        }
    }

    /// Takes what has arrived.
    pub fn receive(&self, to: &mut [u8]) -> usize {
        if !self.init() {
            return 0;
        }
        let mut count = 0;
        while count < to.len() && self.get(LINE_STATUS) & STATUS_DATA != 0 {
            to[count] = self.get(DATA);
            count += 1;
        }
        count
    }

    /// Waits until the last bit has left.
    pub fn drain(&self) {
        if self.init() {
            self.wait(STATUS_IDLE);
        }
    }

    /// Turns the receive interrupt on.
    pub fn enable_receive_interrupt(&self) {
        self.put(INTERRUPT_ENABLE, 1);
    }
}

/// COM1 before the platform is known: no input interrupt yet.
pub struct EarlySerial;

impl Console for EarlySerial {
    fn write(&self, bytes: &[u8]) {
        COM1.send(bytes);
    }
    fn read(&self, to: &mut [u8]) -> usize {
        COM1.receive(to)
    }
    fn on_input(&self, _handler: Handler) -> hal_core::Result<()> {
        Err(Error::Unsupported)
    }
}

/// COM1 with input by interrupt, and COM2 for standard error where the command line says `stderr=com2`.
pub struct SerialConsole;

static SECOND: AtomicBool = AtomicBool::new(false);

/// Sends standard error to COM2, if there is one.
pub fn use_second_port() {
    SECOND.store(COM2.init(), Ordering::Relaxed);
}

impl Console for SerialConsole {
    fn write(&self, bytes: &[u8]) {
        COM1.send(bytes);
    }
    fn read(&self, to: &mut [u8]) -> usize {
        COM1.receive(to)
    }
    fn on_input(&self, handler: Handler) -> hal_core::Result<()> {
        if !COM1.init() {
            return Err(Error::Unsupported);
        }
        let (gsi, level, active_low) = crate::pc::isa_line(4);
        hal_core::platform().interrupts().attach_line(gsi, level, active_low, handler)?;
        COM1.enable_receive_interrupt();
        Ok(())
    }
    fn write_error(&self, bytes: &[u8]) {
        if SECOND.load(Ordering::Relaxed) {
            COM2.send(bytes);
        } else {
            COM1.send(bytes);
        }
    }
}
