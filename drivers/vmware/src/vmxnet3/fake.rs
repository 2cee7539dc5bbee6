//! An interface made of memory, for tests and fuzzing: plays the device's side of the rings by the book, or lies. It works on
//! host addresses, which are what rings hold while the direct map's base is 0.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use driver_kit::Io;
use driver_kit::random::Choices;
use hal_core::Result;
use hal_core::device::NetDevice;

use super::abi::*;
use crate::interrupts::Causes;

/// A sent packet: its bytes, and the option words (third and fourth) of its first descriptor.
pub struct Sent {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Third word.
    pub size: u32,
    /// Fourth word.
    pub options: u32,
}

/// The interface.
#[derive(Clone)]
pub struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Where the shared memory is; 0: nowhere.
    shared: u64,
    active: Option<Active>,
    command: u32,
    /// It has vectors, and masks them by itself.
    vectors: bool,
    masked: Vec<bool>,
    causes: Option<Causes>,
    line: u32,
    link_down: bool,
    refuses: bool,
    holds: bool,
    threshold: u32,
    starts: usize,
    sent: Vec<Sent>,
    lies: Option<Choices>,
    lied: bool,
}

struct Active {
    queues: u64,
    pairs: usize,
    tx: Vec<[Ring; 2]>,
    rx: Vec<[Ring; 3]>,
}

/// A ring as the device goes through it.
#[derive(Clone, Copy)]
struct Ring {
    base: u64,
    size: u32,
    next: u32,
    generation: bool,
}

impl Ring {
    fn word(&self, index: u64) -> *mut u32 {
        (self.base + 16 * u64::from(self.next) + 4 * index) as *mut u32
    }
    fn get(&self, index: u64) -> u32 {
        // SAFETY: inside a ring of the driver, which lives until the test buries it.
        unsafe { self.word(index).read_volatile() }
    }
    fn address(&self) -> *mut u8 {
        (u64::from(self.get(1)) << 32 | u64::from(self.get(0))) as *mut u8
    }
    fn advance(&mut self) {
        self.next += 1;
        if self.next == self.size {
            (self.next, self.generation) = (0, !self.generation);
        }
    }
    /// Writes a completion, the word with the generation last.
    fn complete(&mut self, mut words: [u32; 4]) {
        words[3] = words[3] & !COMPLETION_GENERATION | if self.generation { COMPLETION_GENERATION } else { 0 };
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: as in `get`.
            unsafe { self.word(i as u64).write_volatile(word) };
        }
        self.advance();
    }
}

fn read<T: Copy>(at: u64) -> T {
    // SAFETY: shared memory of the driver.
    unsafe { (at as *const T).read_volatile() }
}

fn write<T>(at: u64, value: T) {
    // SAFETY: as above.
    unsafe { (at as *mut T).write_volatile(value) }
}

struct Bells(Fake);
struct Control(Fake);

impl Fake {
    /// An interface with or without vectors.
    pub fn new(vectors: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            vectors,
            masked: alloc::vec![true; MAX_INTERRUPTS],
            threshold: 1,
            ..State::default()
        })))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Lets the driver bring it up.
    pub fn start(&self, cpus: usize) -> Result<Arc<dyn NetDevice>> {
        let (bells, control) = (Box::new(Bells(self.clone())), Box::new(Control(self.clone())));
        super::start(bells, control, cpus, &mut |causes| {
            Ok(self.with(|s| {
                s.causes = Some(causes);
                s.vectors
            }))
        })
    }

    /// It refuses to be activated, or no longer does.
    pub fn refuse(&self, refuses: bool) {
        self.with(|s| s.refuses = refuses);
    }

    /// It sends nothing, or does again.
    pub fn hold(&self, holds: bool) {
        self.with(|s| {
            s.holds = holds;
            s.work();
        });
    }

    /// From how many packets on it wants to be told.
    pub fn set_threshold(&self, packets: u32) {
        self.with(|s| s.threshold = packets);
    }

    /// From now on it lies, in these ways.
    pub fn lie(&self, choices: &Choices) {
        self.with(|s| s.lies = Some(choices.clone()));
    }

    /// How often it was activated.
    pub fn starts(&self) -> usize {
        self.with(|s| s.starts)
    }

    /// True while it is active.
    pub fn is_active(&self) -> bool {
        self.with(|s| s.active.is_some())
    }

    /// Takes what was sent.
    pub fn sent(&self) -> Vec<Sent> {
        self.with(|s| core::mem::take(&mut s.sent))
    }

    /// If an interrupt is masked.
    pub fn is_masked(&self, interrupt: usize) -> bool {
        self.with(|s| s.masked[interrupt])
    }

    /// Raises an interrupt if it is not masked.
    pub fn raise(&self, interrupt: usize) {
        let handler = self.with(|s| {
            if core::mem::replace(&mut s.masked[interrupt], true) {
                return None;
            }
            let causes = s.causes.as_ref()?;
            if s.vectors {
                return Some(causes.vectors[interrupt].handler.clone());
            }
            s.line = 1;
            Some(causes.line.clone())
        });
        if let Some(handler) = handler {
            handler();
        }
    }

    /// Something happens: the bits are set, and the interrupt for events comes.
    pub fn event(&self, bits: u32) {
        let interrupt = self.with(|s| {
            if s.shared == 0 {
                return 0;
            }
            let at = s.shared + EVENTS as u64;
            write(at, read::<u32>(at) | bits);
            usize::from(read::<u8>(s.shared + EVENT_INTERRUPT as u64)) % MAX_INTERRUPTS
        });
        self.raise(interrupt);
    }

    /// The link goes down or comes up.
    pub fn set_link(&self, up: bool) {
        self.with(|s| s.link_down = !up);
        self.event(EVENT_LINK);
    }

    /// A queue stops.
    pub fn stop(&self, bits: u32) {
        self.with(|s| {
            if let Some(active) = &s.active {
                write(active.queues + STOPPED as u64, 1u8);
                write(active.queues + STOP_REASON as u64, 0x8000_0000u32);
            }
        });
        self.event(bits);
    }

    /// A frame comes in on a queue, with these bits in the fourth word of its last completion. False if there were no buffers.
    pub fn receive(&self, queue: usize, frame: &[u8], bits: u32) -> bool {
        self.with(|s| s.deliver(queue, frame, bits))
    }

    /// Unplugs it: the driver's memory goes with the driver.
    pub fn unplug(&self) {
        let causes = self.with(|s| {
            s.active = None;
            s.causes.take()
        });
        drop(causes);
    }
}

impl State {
    fn activate(&mut self) -> u32 {
        if self.refuses || self.shared == 0 || read::<u32>(self.shared) != MAGIC.1 {
            return 1;
        }
        let at = |offset: usize| self.shared + offset as u64;
        let pairs = usize::from(read::<u8>(at(TX_QUEUES)));
        assert_eq!(pairs, usize::from(read::<u8>(at(RX_QUEUES))));
        assert!((60..=9000).contains(&read::<u32>(at(MTU))));
        let queues: u64 = read(at(QUEUES_AT));
        assert!(queues.is_multiple_of(128) && read::<u32>(at(QUEUES_LEN)) as usize == 2 * pairs * QUEUE_LEN);
        let interrupts = read::<u8>(at(INTERRUPTS));
        let ring = |queue: usize, base: usize, size: usize| {
            let q = queues + (queue * QUEUE_LEN) as u64;
            let (base, size): (u64, u32) = (read(q + base as u64), read(q + size as u64));
            assert!(base.is_multiple_of(512) && size.is_multiple_of(32) && size > 0 && size <= 4096);
            assert!(read::<u8>(q + QUEUE_INTERRUPT as u64) < interrupts);
            Ring { base, size, next: 0, generation: true }
        };
        for pair in 0..pairs {
            write(queues + (pair * QUEUE_LEN + TX_THRESHOLD) as u64, self.threshold);
        }
        self.active = Some(Active {
            queues,
            pairs,
            tx: (0..pairs).map(|q| [ring(q, RING_AT, RING_SIZE), ring(q, COMPLETIONS_AT, COMPLETIONS_SIZE)]).collect(),
            rx: (pairs..2 * pairs)
                .map(|q| {
                    let second = ring(q, RING_AT + 8, RING_SIZE + 4);
                    [ring(q, RING_AT, RING_SIZE), second, ring(q, COMPLETIONS_AT, COMPLETIONS_SIZE)]
                })
                .collect(),
        });
        self.starts += 1;
        0
    }

    /// Sends all that is in the rings.
    fn work(&mut self) {
        let Some(active) = &mut self.active else { return };
        for [ring, completions] in &mut active.tx {
            let mut packet: Option<Sent> = None;
            while !self.holds && !self.lied && (ring.get(2) & TX_GENERATION != 0) == ring.generation {
                let (size, options) = (ring.get(2), ring.get(3));
                let packet_now = packet.get_or_insert_with(|| Sent { bytes: Vec::new(), size, options });
                let len = if size & 0x3fff == 0 { TX_PIECE } else { (size & 0x3fff) as usize };
                // SAFETY: a piece of a packet that the driver keeps until it is completed.
                packet_now.bytes.extend_from_slice(unsafe { core::slice::from_raw_parts(ring.address(), len) });
                let mut index = ring.next;
                ring.advance();
                if options & TX_END == 0 {
                    continue;
                }
                self.sent.extend(packet.take());
                if let Some(lies) = &self.lies
                    && lies.one_in(30)
                {
                    (index, self.lied) = (lies.word(), true);
                }
                completions.complete([index & INDEX, 0, 0, 0]);
            }
            assert!(packet.is_none() || self.lied, "a packet without an end");
        }
    }

    fn deliver(&mut self, queue: usize, frame: &[u8], bits: u32) -> bool {
        let lies = self.lies.clone();
        let Some(active) = &mut self.active else { return false };
        if self.lied {
            return false;
        }
        let pairs = active.pairs;
        let [heads, bodies, completions] = &mut active.rx[queue % pairs];
        let mut rest = frame;
        let mut first = true;
        loop {
            let (ring, number) = if first { (&mut *heads, 0) } else { (&mut *bodies, pairs) };
            if (ring.get(2) & RX_GENERATION != 0) != ring.generation {
                if !first {
                    completions.complete([RX_END | (queue % pairs) as u32 | RX_NO_CHECKSUM, 0, RX_ERROR, 0]);
                    self.lied = true;
                }
                return false;
            }
            assert_eq!(ring.get(2) & RX_BODY != 0, !first, "a buffer of the wrong kind");
            let n = rest.len().min((ring.get(2) & RX_LEN) as usize);
            // SAFETY: a buffer that the driver gave.
            unsafe { core::ptr::copy_nonoverlapping(rest.as_ptr(), ring.address(), n) };
            rest = &rest[n..];
            let id = (queue % pairs + number) as u32;
            let mut words = [ring.next | id << RX_QUEUE_SHIFT, 0, n as u32, 0];
            ring.advance();
            if first {
                words[0] |= RX_START;
            }
            if rest.is_empty() {
                words[0] |= RX_END | if bits == 0 { RX_NO_CHECKSUM } else { 0 };
                words[3] = bits;
            }
            if let Some(lies) = &lies
                && lies.one_in(30)
            {
                words[lies.below(4) as usize] = lies.word();
                self.lied = true;
            }
            completions.complete(words);
            if rest.is_empty() || self.lied {
                return true;
            }
            first = false;
        }
    }
}

impl Io for Bells {
    fn read(&self, offset: usize) -> u32 {
        panic!("a read of register {offset:#x}")
    }

    fn write(&self, offset: usize, value: u32) {
        self.0.with(|s| match offset {
            0..0xc8 => s.masked[offset / 8] = value & 1 != 0,
            TX_PRODUCER..0x640 => s.work(),
            RX_PRODUCER..0xc00 => {}
            _ => panic!("a write to register {offset:#x}"),
        });
    }
}

impl Io for Control {
    fn read(&self, offset: usize) -> u32 {
        self.0.with(|s| match offset {
            REVISIONS | UPT_REVISIONS => 0b111,
            MAC_LOW => 0x0403_0201,
            MAC_HIGH => 0x0605,
            INTERRUPT_CAUSE => core::mem::take(&mut s.line),
            COMMAND => match s.command {
                ACTIVATE => s.activate(),
                GET_LINK => 10_000 << 16 | u32::from(!s.link_down),
                UPDATE_RX_MODE => panic!("that command has no answer"),
                _ => 0,
            },
            _ => panic!("a read of register {offset:#x}"),
        })
    }

    fn write(&self, offset: usize, value: u32) {
        self.0.with(|s| match offset {
            REVISIONS | UPT_REVISIONS => assert_eq!(value, 1),
            SHARED_LOW => s.shared = u64::from(value),
            SHARED_HIGH => s.shared |= u64::from(value) << 32,
            EVENT_CAUSE => {
                let at = s.shared + EVENTS as u64;
                write(at, read::<u32>(at) & !value);
            }
            COMMAND => {
                s.command = value;
                if matches!(value, QUIESCE | RESET) {
                    s.active = None;
                }
            }
            _ => panic!("a write to register {offset:#x}"),
        });
    }
}

/// A fuzz target's body: an interface that lies, in turn with what a kernel asks of the driver. Whatever it does, nothing panics
/// and no frame is longer than can be. True if frames came through.
pub fn fuzz(choices: &Choices) -> bool {
    use hal_core::device::NetBuf;
    driver_kit::host::set_hurry(true);
    let fake = Fake::new(!choices.one_in(3));
    let Ok(nic) = fake.start(1 + choices.below(4) as usize) else {
        fake.unplug();
        driver_kit::host::bury();
        return false;
    };
    fake.lie(choices);
    let queues = u64::from(nic.caps().queues);
    let mut outgoing = alloc::collections::VecDeque::new();
    let mut frames = 0;
    for _ in 0..80 {
        if !choices.are_left() {
            break;
        }
        let queue = choices.below(queues + 1) as u16;
        match choices.below(9) {
            0 | 1 => {
                let len = choices.below(if choices.one_in(8) { 60_000 } else { 1600 }) as usize;
                let mut packet = NetBuf::new(len);
                packet.set_len(len);
                packet.more = (0..choices.below(20)).map(|_| NetBuf::from_box([1; 10].into(), 0, 10)).collect();
                if choices.one_in(2) {
                    packet.offload.checksum = Some((choices.below(100) as u16, choices.below(40) as u16));
                    let size = choices.below(9000) as u16;
                    let header_len = choices.below(1200) as u16;
                    let segment = hal_core::device::Segment { ipv6: choices.one_in(2), size, header_len };
                    packet.offload.segment = Some(segment).filter(|_| choices.one_in(2));
                }
                outgoing.push_back(packet);
                nic.send(queue, &mut outgoing);
            }
            2..=4 => {
                let len = 1 + choices.below(if choices.one_in(8) { 65_000 } else { 1600 }) as usize;
                fake.receive(choices.below(queues) as usize, &alloc::vec![7; len], choices.word());
            }
            5 => {
                frames += nic.receive(queue, choices.below(80) as usize, &mut |frame| {
                    let total = frame.len() + frame.more.iter().map(NetBuf::len).sum::<usize>();
                    assert!(total <= 24 * 4096, "{total}");
                });
            }
            6 => _ = nic.set_receive_interrupt(queue, choices.one_in(2)),
            7 => nic.reap(queue),
            _ => match choices.below(4) {
                0 => fake.raise(choices.below(3 * queues) as usize % (2 * queues as usize + 1)),
                1 => fake.stop(choices.word()),
                2 => fake.set_link(choices.one_in(2)),
                _ => fake.hold(choices.one_in(2)),
            },
        }
    }
    fake.unplug();
    drop(nic);
    driver_kit::host::bury();
    frames > 0
}
