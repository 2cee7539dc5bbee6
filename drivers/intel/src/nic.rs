//! The interface: reset, start, interrupts, link, and the kernel's view of the two rings.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use driver_kit::{Io, Lock, wait_for};
use hal_core::device::{NetBuf, NetCaps, NetDevice};
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};

use crate::model::Model;
use crate::registers::*;
use crate::rx::Rx;
use crate::tx::Tx;

/// A network interface.
pub(crate) struct Nic {
    io: Arc<dyn Io>,
    caps: NetCaps,
    rx: Lock<Rx>,
    tx: Lock<Tx>,
    /// Causes of the receiver and of the sender: with messages they are their queues'.
    causes: spin::Once<(u32, u32)>,
    /// The receiver's causes are disabled, as far as is known: saves register accesses, nothing hangs on it.
    masked: AtomicBool,
    link: AtomicBool,
    handler: spin::Once<Arc<dyn Fn(u16) + Send + Sync>>,
    failed: AtomicBool,
}

/// What to connect: the line's handler, or those of the two vectors.
pub(crate) struct Handlers {
    /// Everything.
    pub line: Handler,
    /// Vector 0: the queues.
    pub queues: Handler,
    /// Vector 1: the link.
    pub other: Handler,
}

impl Nic {
    /// Brings the interface up. `connect` connects the interrupts and tells if that is by messages.
    pub fn start(io: Arc<dyn Io>, model: &Model, connect: impl FnOnce(Handlers) -> Result<bool>) -> Result<Arc<Self>> {
        let mac = reset(&*io)?;
        let caps = NetCaps {
            mac,
            mtu: 1500,
            queues: 1,
            tx_checksum: true,
            tso4: model.segmentation,
            // The older chips' emulations differ in what they do with it, and little is gained.
            tso6: false,
            lro: false,
        };
        let nic = Arc::new(Self {
            rx: Lock::new(Rx::new()?),
            tx: Lock::new(Tx::new(true, model.segmentation)?),
            io,
            caps,
            causes: spin::Once::new(),
            masked: AtomicBool::new(false),
            link: AtomicBool::new(false),
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        });
        let messages = connect(nic.handlers())?;
        nic.go(messages);
        Ok(nic)
    }

    fn handlers(self: &Arc<Self>) -> Handlers {
        // The interface lives as long as the machine.
        let (line, queues, other) = (self.clone(), self.clone(), self.clone());
        Handlers {
            line: Arc::new(move || line.line_interrupt()),
            queues: Arc::new(move || queues.queue_interrupt()),
            other: Arc::new(move || {
                other.look_at_link();
                other.io.write(ICR, CAUSE_LSC | CAUSE_OTHER);
                other.io.write(IMS, CAUSE_LSC | CAUSE_OTHER);
            }),
        }
    }

    /// Starts both rings, with interrupts.
    fn go(&self, messages: bool) {
        let io = &*self.io;
        io.write(CTRL, io.read(CTRL) & !CTRL_FORCED | CTRL_SLU | CTRL_ASDE);
        // Interrupts are held back by disabling them while there is work, which adapts; a fixed rate only adds latency.
        io.write(ITR, 0);
        io.write(RDTR, 0);
        io.write(RADV, 0);
        io.write(RXCSUM, RXCSUM_ON);
        self.rx.lock().start(io);
        io.write(RCTL, RCTL_EN | RCTL_MPE | RCTL_BAM | RCTL_SECRC);
        // A tail may have been ignored while the receiver was off.
        self.tx.lock().start(io);
        io.write(TXDCTL, io.read(TXDCTL) | TXDCTL_COUNT);
        io.write(TIPG, TIPG_COPPER);
        io.write(TCTL, TCTL_ON);
        self.look_at_link();
        let (rx, tx, other) = if messages {
            io.write(CTRL_EXT, io.read(CTRL_EXT) | CTRL_EXT_PBA_CLR);
            io.write(IVAR, IVAR_TWO);
            io.write(EIAC, CAUSE_RXQ0 | CAUSE_TXQ0 | CAUSE_OTHER);
            (CAUSE_RXQ0, CAUSE_TXQ0, CAUSE_LSC | CAUSE_OTHER)
        } else {
            (CAUSE_RX, CAUSE_TXDW, CAUSE_LSC)
        };
        self.causes.call_once(|| (rx, tx));
        io.write(IMS, rx | other);
    }

    fn look_at_link(&self) {
        let up = self.io.read(STATUS) & STATUS_LU != 0;
        if self.link.swap(up, Ordering::Relaxed) != up {
            log::info!("network: the link is {}", if up { "up" } else { "down" });
        }
    }

    /// The line, which others may share.
    fn line_interrupt(&self) {
        let Some(&(rx, tx)) = self.causes.get() else {
            return;
        };
        // Reading acknowledges.
        let causes = self.io.read(ICR);
        if causes == u32::MAX {
            return;
        }
        if causes & CAUSE_LSC != 0 {
            self.look_at_link();
        }
        if causes & (rx | tx) != 0 {
            self.queue_interrupt();
        }
    }

    /// A message, or the line, for one of the queues: no more of them until the work is done.
    fn queue_interrupt(&self) {
        let Some(&(rx, tx)) = self.causes.get() else {
            return;
        };
        self.io.write(IMC, rx | tx);
        self.masked.store(true, Ordering::Relaxed);
        if let Some(handler) = self.handler.get() {
            handler(0);
        }
    }

    /// Ends the use of the device. Packets on their way are lost, as on any wire.
    #[cold]
    fn fail(&self, why: &'static str) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            log::error!("network: {why}; the device is not used any more");
            self.io.write(IMC, u32::MAX);
            self.io.write(RCTL, 0);
            self.io.write(TCTL, 0);
            self.io.write(CTRL, CTRL_RST);
        }
    }
}

/// Resets the device, all interrupts off; returns its address.
fn reset(io: &dyn Io) -> Result<[u8; 6]> {
    io.write(IMC, u32::MAX);
    io.write(RCTL, 0);
    io.write(TCTL, 1 << 3);
    io.write(CTRL, io.read(CTRL) | CTRL_RST);
    if !wait_for(1_000_000_000, || io.read(CTRL) & CTRL_RST == 0) {
        return Err(Error::Device("the network interface does not reset"));
    }
    // The address is loaded from the EEPROM meanwhile.
    wait_for(20_000_000, || io.read(RAH) & RAH_AV != 0);
    io.write(IMC, u32::MAX);
    io.read(ICR);
    let (low, high) = (io.read(RAL), io.read(RAH));
    let [a, b, c, d] = low.to_le_bytes();
    let [e, f, ..] = high.to_le_bytes();
    let mac = [a, b, c, d, e, f];
    if good(&mac) {
        return Ok(mac);
    }
    let mac = read_eeprom(io).filter(good).ok_or(Error::Device("the network interface has no address"))?;
    io.write(RAL, u32::from_le_bytes([mac[0], mac[1], mac[2], mac[3]]));
    io.write(RAH, u32::from(mac[4]) | u32::from(mac[5]) << 8 | RAH_AV);
    Ok(mac)
}

/// An address of one station.
fn good(mac: &[u8; 6]) -> bool {
    mac[0] & 1 == 0 && mac.iter().any(|&b| b != 0)
}

/// The address in the first three words of the EEPROM (8254x manual, section 13.4.4).
fn read_eeprom(io: &dyn Io) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    for (word, bytes) in mac.chunks_mut(2).enumerate() {
        io.write(EERD, 1 | (word as u32) << 8);
        let mut value = 0;
        let done = wait_for(10_000_000, || {
            value = io.read(EERD);
            value & 1 << 4 != 0 && value != u32::MAX
        });
        if !done {
            return None;
        }
        bytes.copy_from_slice(&((value >> 16) as u16).to_le_bytes());
    }
    Some(mac)
}

impl NetDevice for Nic {
    fn caps(&self) -> NetCaps {
        self.caps
    }

    fn receive(&self, _queue: u16, budget: usize, sink: &mut dyn FnMut(NetBuf)) -> usize {
        let mut rx = self.rx.lock();
        let frames = rx.receive(&*self.io, budget, sink);
        let broken = rx.broken();
        drop(rx);
        if let Some(why) = broken {
            self.fail(why);
        }
        frames
    }

    fn send(&self, _queue: u16, packets: &mut VecDeque<NetBuf>) {
        let mut tx = self.tx.lock();
        if self.failed.load(Ordering::Acquire) {
            return packets.clear();
        }
        tx.send(&*self.io, packets, || {
            if let Some(&(_, cause)) = self.causes.get() {
                // What was sent long ago is no cause.
                self.io.write(ICR, cause);
                self.io.write(IMS, cause);
            }
        });
    }

    fn reap(&self, _queue: u16) {
        self.tx.lock().reap();
    }

    fn set_receive_interrupt(&self, _queue: u16, on: bool) -> bool {
        let Some(&(cause, _)) = self.causes.get() else {
            return false;
        };
        if !on {
            if !self.masked.swap(true, Ordering::Relaxed) {
                self.io.write(IMC, cause);
            }
            return false;
        }
        if self.failed.load(Ordering::Relaxed) {
            return false;
        }
        // What was taken by polling is no cause any more: without this every round would end with an interrupt for nothing.
        self.io.write(ICR, cause);
        self.masked.store(false, Ordering::Relaxed);
        self.io.write(IMS, cause);
        self.rx.lock().waiting()
    }

    fn on_interrupt(&self, handler: Arc<dyn Fn(u16) + Send + Sync>) {
        self.handler.call_once(|| handler);
    }

    fn link_up(&self) -> bool {
        self.link.load(Ordering::Relaxed) && !self.failed.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
#[path = "nic_tests.rs"]
mod tests;
