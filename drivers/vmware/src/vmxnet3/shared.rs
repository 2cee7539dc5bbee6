//! What driver and device share besides the rings: the configuration, and a description of each queue.

use core::sync::atomic::{AtomicU32, Ordering};

use driver_kit::DmaArea;
use hal_core::{PhysAddr, Result};

use super::abi::*;
use super::rx::{self, Rx};
use super::tx::{self, Tx};

/// The shared memory.
pub(crate) struct SharedMemory {
    area: DmaArea,
    queues: DmaArea,
    pairs: u16,
    _rss: DmaArea,
}

/// What the driver chooses.
pub(crate) struct Config {
    /// Queue pairs.
    pub pairs: u16,
    /// The device masks an interrupt when it raises it.
    pub auto_mask: bool,
    /// Interrupts in use.
    pub interrupts: u8,
    /// The one for events.
    pub event_interrupt: u8,
    /// Bytes of an IP packet.
    pub mtu: u16,
    /// Joined segments are welcome.
    pub lro: bool,
}

impl SharedMemory {
    /// The shared memory for these choices; queues are described afterwards.
    pub fn new(config: &Config) -> Result<Self> {
        let pairs = usize::from(config.pairs);
        let area = DmaArea::new(SHARED_LEN)?;
        let queues = DmaArea::new(2 * pairs * QUEUE_LEN)?;
        let rss = DmaArea::new(RSS_LEN)?;
        area.put(MAGIC.0, MAGIC.1);
        area.put(DRIVER_VERSION, 1u32);
        area.put(GUEST_SYSTEM, GUEST_OTHER_64);
        area.put(DRIVER_REVISIONS, 1u32);
        area.put(DRIVER_UPT, 1u32);
        let mut features = FEATURE_RX_CHECKSUM;
        if config.lro {
            features |= FEATURE_LRO;
        }
        if config.pairs > 1 {
            features |= FEATURE_RSS;
            describe_hash(&rss, config.pairs);
            area.put(RSS, 1u32);
            area.put(RSS + 4, RSS_LEN as u32);
            area.put(RSS + 8, rss.phys(0).0);
        }
        area.put(FEATURES, features);
        area.put(QUEUES_AT, queues.phys(0).0);
        area.put(QUEUES_LEN, (2 * pairs * QUEUE_LEN) as u32);
        area.put(MTU, u32::from(config.mtu));
        area.put(MAX_RX_PIECES, rx::MAX_PIECES);
        area.put(TX_QUEUES, config.pairs as u8);
        area.put(RX_QUEUES, config.pairs as u8);
        area.put(AUTO_MASK, u8::from(config.auto_mask));
        area.put(INTERRUPTS, config.interrupts);
        area.put(EVENT_INTERRUPT, config.event_interrupt);
        for index in 0..MAX_INTERRUPTS {
            area.put(MODERATION + index, MODERATION_ADAPTIVE);
        }
        area.put(INTERRUPT_CONTROL, INTERRUPTS_OFF);
        area.put(RX_MODE, RX_MODE_USUAL);
        Ok(Self { area, queues, pairs: config.pairs, _rss: rss })
    }

    /// For the device.
    pub fn phys(&self) -> PhysAddr {
        self.area.phys(0)
    }

    fn tx_at(&self, pair: u16) -> usize {
        usize::from(pair) * QUEUE_LEN
    }

    fn rx_at(&self, pair: u16) -> usize {
        usize::from(self.pairs + pair) * QUEUE_LEN
    }

    /// Describes the queues of a pair, with their interrupts.
    pub fn describe(&self, pair: u16, rx: &Rx, rx_interrupt: u8, tx: &Tx, tx_interrupt: u8) {
        let q = &self.queues;
        let at = self.tx_at(pair);
        q.put(at + RING_AT, tx.phys().0);
        q.put(at + RING_SIZE, u32::from(tx::RING));
        q.put(at + COMPLETIONS_AT, tx.completions.phys().0);
        q.put(at + COMPLETIONS_SIZE, u32::from(tx.completions.size()));
        q.put(at + QUEUE_INTERRUPT, tx_interrupt);
        let at = self.rx_at(pair);
        for (ring, phys) in rx.phys().into_iter().enumerate() {
            q.put(at + RING_AT + 8 * ring, phys.0);
            q.put(at + RING_SIZE + 4 * ring, u32::from(rx::RING));
        }
        q.put(at + COMPLETIONS_AT, rx.completions.phys().0);
        q.put(at + COMPLETIONS_SIZE, u32::from(rx.completions.size()));
        q.put(at + QUEUE_INTERRUPT, rx_interrupt);
    }

    /// Lets the device interrupt, as far as each interrupt is not masked.
    pub fn enable_interrupts(&self) {
        self.word(&self.area, INTERRUPT_CONTROL).store(0, Ordering::Release);
    }

    fn word<'a>(&'a self, area: &'a DmaArea, offset: usize) -> &'a AtomicU32 {
        // SAFETY: `at` checks the place; callers pass multiples of 4 in a page-aligned area; accessed atomically.
        unsafe { &*area.at::<AtomicU32>(offset) }
    }

    /// Of a send queue: packets that the device was not told of, and from how many on it wants to be.
    pub fn tx_control(&self, pair: u16) -> (&AtomicU32, &AtomicU32) {
        let at = self.tx_at(pair);
        (self.word(&self.queues, at + TX_DEFERRED), self.word(&self.queues, at + TX_THRESHOLD))
    }

    /// The device wants to be told of a receive queue's new buffers.
    pub fn rx_wants_telling(&self, pair: u16) -> bool {
        self.queues.byte(self.rx_at(pair) + RX_TELL) != 0
    }

    /// What has happened.
    pub fn events(&self) -> u32 {
        self.word(&self.area, EVENTS).load(Ordering::Acquire)
    }

    /// The reason why a queue has stopped, if one has: after [`GET_QUEUE_STATUS`].
    pub fn stopped(&self) -> Option<u32> {
        (0..2 * usize::from(self.pairs))
            .map(|queue| queue * QUEUE_LEN)
            .find(|at| self.queues.byte(at + STOPPED) != 0)
            .map(|at| self.word(&self.queues, at + STOP_REASON).load(Ordering::Relaxed))
    }

    /// Forgets what the device has written: it is not active.
    pub fn reset(&self) {
        for queue in 0..2 * usize::from(self.pairs) {
            self.queues.put(queue * QUEUE_LEN, 0u64);
            self.queues.put(queue * QUEUE_LEN + STOPPED, 0u64);
        }
        self.area.put(EVENTS, 0u32);
        self.area.put(INTERRUPT_CONTROL, INTERRUPTS_OFF);
    }
}

/// Connections are spread over the queues by a hash with a key that nobody knows.
fn describe_hash(rss: &DmaArea, pairs: u16) {
    rss.put(0, RSS_KINDS);
    rss.put(2, RSS_TOEPLITZ);
    rss.put(4, RSS_KEY as u16);
    rss.put(6, RSS_TABLE as u16);
    let mut state = hal_core::clock::tsc() | 1;
    for byte in 0..RSS_KEY {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        rss.put(8 + byte, (state >> 32) as u8);
    }
    for entry in 0..RSS_TABLE {
        rss.put(8 + RSS_KEY + entry, (entry % usize::from(pairs)) as u8);
    }
}
