//! Capabilities of a PCI function, honest and hostile, and the choice of vectors.

use alloc::vec;
use std::sync::Mutex;

use hal_core::interrupt::{Handler, MsiMessage};
use hal_core::{PhysAddr, VirtAddr};

use super::*;
use driver_kit::random::Random;

/// A function whose registers are plain memory.
struct FakeFunction {
    config: Vec<u8>,
    bar_len: u64,
    memory: Vec<u32>,
    vectors: u16,
    programmed: Mutex<Vec<u16>>,
    line: Mutex<Option<Handler>>,
}

impl PciFunction for FakeFunction {
    fn location(&self) -> (u16, u8, u8, u8) {
        (0, 0, 3, 0)
    }
    fn id(&self) -> (u16, u16) {
        (VENDOR, 0x1041)
    }
    fn subsystem(&self) -> (u16, u16) {
        (VENDOR, 1)
    }
    fn class(&self) -> (u8, u8, u8, u8) {
        (2, 0, 0, 1)
    }
    fn read(&self, offset: u16) -> u32 {
        let at = usize::from(offset);
        assert!(at.is_multiple_of(4) && at + 4 <= 256, "configuration offset {at:#x}");
        u32::from_le_bytes(self.config[at..at + 4].try_into().unwrap())
    }
    fn write(&self, _: u16, _: u32) {}
    fn bar(&self, index: u8) -> Option<Bar> {
        (index == 4).then_some(Bar::Memory(PhysAddr(0xfe00_0000), self.bar_len, true))
    }
    fn enable(&self) {}
    fn msix_vectors(&self) -> u16 {
        self.vectors
    }
    fn set_msix(&self, index: u16, _: MsiMessage) -> Result<()> {
        self.programmed.lock().unwrap().push(index);
        Ok(())
    }
    fn attach_line(&self, handler: Handler) -> Result<()> {
        *self.line.lock().unwrap() = Some(handler);
        Ok(())
    }
    fn map_bar(&self, _: u8) -> Result<(VirtAddr, u64)> {
        Ok((VirtAddr(self.memory.as_ptr() as u64), self.bar_len))
    }
    fn io_read(&self, _: u16, _: u8) -> u32 {
        u32::MAX
    }
    fn io_write(&self, _: u16, _: u8, _: u32) {}
}

const BAR_LEN: u64 = 0x4000;

/// Type, BAR, offset, length.
type Capability = (u8, u8, u32, u32);

const HONEST: [Capability; 4] =
    [(1, 4, 0, 0x1000), (3, 4, 0x1000, 0x1000), (4, 4, 0x2000, 0x1000), (2, 4, 0x3000, 0x1000)];

fn function(capabilities: &[Capability]) -> FakeFunction {
    let mut config = vec![0; 256];
    config[6] = 1 << 4;
    config[0x34] = 0x40;
    for (i, &(kind, bar, offset, len)) in capabilities.iter().enumerate() {
        let at = 0x40 + 20 * i;
        let next = if i + 1 < capabilities.len() { at + 20 } else { 0 };
        config[at..at + 5].copy_from_slice(&[9, next as u8, 20, kind, bar]);
        config[at + 8..at + 12].copy_from_slice(&offset.to_le_bytes());
        config[at + 12..at + 16].copy_from_slice(&len.to_le_bytes());
        config[at + 16..at + 20].copy_from_slice(&4u32.to_le_bytes());
    }
    FakeFunction {
        config,
        bar_len: BAR_LEN,
        memory: vec![0; BAR_LEN as usize / 4],
        vectors: 3,
        programmed: Mutex::new(vec![]),
        line: Mutex::new(None),
    }
}

fn message(_: usize, _: Handler) -> Result<MsiMessage> {
    Ok(MsiMessage { address: 0xfee0_0000, data: 0x40 })
}

fn open(function: FakeFunction) -> Option<Result<PciTransport>> {
    let function: Arc<dyn PciFunction> = Arc::new(function);
    PciTransport::open(&function, 1, message)
}

#[test]
fn registers_are_where_the_capabilities_say() {
    let f = function(&HONEST);
    // One queue in the common configuration, a byte in the device's.
    let memory = f.memory.as_ptr() as usize;
    let t = {
        let mut f = f;
        f.memory[4] = 1 << 16;
        f.memory[6] = 64;
        f.memory[0x2000 / 4] = 0x55aa;
        open(f).unwrap().unwrap()
    };
    assert_eq!(t.config_read(0, 2), 0x55aa);
    assert_eq!(t.config_read(0x1000, 4), u32::MAX, "outside");
    assert_eq!((t.queue_size(0), t.queue_size(1)), (64, 0));
    let ring = RingAddresses {
        size: 32,
        descriptors: PhysAddr(0x1_2345_6000),
        available: PhysAddr(0x1000),
        used: PhysAddr(0x2000),
    };
    t.start_queue(0, &ring).unwrap();
    // SAFETY: the transport keeps the function, and so its memory, alive.
    let word = |at: usize| unsafe { ((memory + at) as *const u32).read_volatile() };
    assert_eq!((word(32), word(36)), (0x2345_6000, 1));
    assert_eq!(word(24), 32 | u32::from(NO_VECTOR) << 16);
    assert_eq!(word(28) & 0xffff, 1, "enabled");
    // A device may have more queues once it knows the features.
    // SAFETY: as above.
    unsafe { ((memory + 16) as *mut u32).write_volatile(2 << 16) };
    assert_eq!((t.queue_size(1), t.queue_size(2)), (32, 0));
    t.start_queue(1, &ring).unwrap();
}

#[test]
fn doorbells_outside_the_bar_are_refused() {
    let mut f = function(&HONEST);
    f.memory[4] = 1 << 16;
    f.memory[7] = 0x400 << 16; // times 4: just behind the end
    let t = open(f).unwrap().unwrap();
    let ring = RingAddresses { size: 32, descriptors: PhysAddr(0), available: PhysAddr(0), used: PhysAddr(0) };
    assert!(t.start_queue(0, &ring).is_err());
}

#[test]
fn capabilities_outside_their_bar_do_not_count() {
    for bad in
        [(1, 4, 0x3fff, 0x1000), (1, 4, u32::MAX, u32::MAX), (1, 5, 0, 0x1000), (1, 200, 0, 0x1000), (1, 4, 0, 55)]
    {
        let mut list = HONEST;
        list[0] = bad;
        assert!(open(function(&list)).is_none(), "{bad:?}");
        // A good one behind a bad one is found.
        let list = [bad, HONEST[0], HONEST[1], HONEST[2], HONEST[3]];
        assert!(open(function(&list)).is_some_and(|t| t.is_ok()), "{bad:?}");
    }
    let mut endless = function(&HONEST);
    endless.config[0x40 + 20 * 3 + 1] = 0x40;
    assert!(open(endless).is_some(), "a loop in the list ends");
}

#[test]
fn random_configuration_space_does_not_panic() {
    let mut random = Random(99);
    for _ in 0..20_000 {
        let mut f = function(&HONEST);
        for _ in 0..1 + random.below(30) {
            let at = random.below(256) as usize;
            f.config[at] = random.next() as u8;
        }
        drop(open(f));
    }
}

fn source(queues: &[u16], hits: &Arc<Mutex<Vec<u16>>>) -> Source {
    let hits = hits.clone();
    let name = queues.first().copied().unwrap_or(u16::MAX);
    Source { queues: queues.to_vec(), cpu: 0, handler: Arc::new(move || hits.lock().unwrap().push(name)) }
}

#[test]
fn vectors_are_shared_when_there_are_too_few() {
    let hits = Arc::new(Mutex::new(vec![]));
    let sources = || vec![source(&[0, 1], &hits), source(&[2, 3], &hits), source(&[], &hits)];
    let f = function(&HONEST);
    let vectors = Vectors::new();
    assert!(vectors.connect(&f, &message, sources(), || 0).unwrap());
    assert_eq!([0, 1, 2, 3].map(|q| vectors.queue(q)), [0, 0, 1, 1]);
    assert_eq!((vectors.config(), vectors.queue(9)), (2, NO_VECTOR));

    let mut f = function(&HONEST);
    f.vectors = 2;
    let handlers: Arc<Mutex<Vec<Handler>>> = Arc::default();
    let kept = handlers.clone();
    let keep = move |_, handler| {
        kept.lock().unwrap().push(handler);
        message(0, Arc::new(|| ()))
    };
    let vectors = Vectors::new();
    assert!(vectors.connect(&f, &keep, sources(), || 0).unwrap());
    assert_eq!((vectors.queue(0), vectors.queue(2), vectors.config()), (0, 1, 0));
    handlers.lock().unwrap()[0]();
    assert_eq!(*hits.lock().unwrap(), [0, u16::MAX], "both that share it");
}

#[test]
fn without_messages_the_line_serves() {
    let hits = Arc::new(Mutex::new(vec![]));
    let f = function(&HONEST);
    let none = |_, _| Err(Error::Unsupported);
    let vectors = Vectors::new();
    let sources = vec![source(&[0], &hits), source(&[], &hits)];
    assert!(!vectors.connect(&f, &none, sources, || 2).unwrap());
    assert_eq!(vectors.queue(0), NO_VECTOR);
    let line = f.line.lock().unwrap().clone().unwrap();
    line();
    assert_eq!(*hits.lock().unwrap(), [u16::MAX], "the status says: configuration");
}
