//! The console (virtio 1.2, section 5.3), its first port.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use hal_core::Result;
use hal_core::device::ConsoleDevice;
use hal_core::interrupt::Handler;

use crate::ring::{Piece, Ring};
use crate::transport::{Shared, Source};
use driver_kit::DmaArea;
use driver_kit::IrqLock;

/// The configuration has columns and rows.
const SIZE: u64 = 1 << 0;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Bytes per buffer. The buffers are the descriptors' own cells.
const CELL: usize = 1024;
const RING_SIZE: u16 = 16;

struct Queue {
    ring: Ring<u16>,
    cells: DmaArea,
}

struct Input {
    queue: Queue,
    /// A buffer of which a part was read: its cell, position, length.
    open: Option<(u16, usize, usize)>,
}

/// A console. Its locks keep interrupts out, since a panic writes to it too.
pub(crate) struct Console {
    transport: Shared,
    input: IrqLock<Input>,
    output: IrqLock<Queue>,
    sized: bool,
    handler: spin::Once<Handler>,
    failed: AtomicBool,
}

impl Console {
    /// Brings the device up.
    pub fn start(transport: Shared) -> Result<Arc<Self>> {
        let t = &*transport;
        let agreed = t.negotiate(|_| SIZE)?;
        let queue = |index| -> Result<Queue> {
            let size = t.choose_size(index, RING_SIZE)?;
            Ok(Queue { ring: Ring::new(size, t.ring_options(agreed))?, cells: DmaArea::new(CELL * usize::from(size))? })
        };
        let (mut input, mut output) = (queue(RECEIVE)?, queue(TRANSMIT)?);
        output.ring.disable_interrupts();
        while input.give() {}
        input.ring.publish();
        let addresses = [input.ring.addresses(), output.ring.addresses()];
        let console = Arc::new(Self {
            transport: transport.clone(),
            input: IrqLock::new(Input { queue: input, open: None }),
            output: IrqLock::new(output),
            sized: agreed & SIZE != 0,
            handler: spin::Once::new(),
            failed: AtomicBool::new(false),
        });
        let me = console.clone();
        t.connect(alloc::vec![Source {
            queues: alloc::vec![RECEIVE],
            cpu: 0,
            handler: Arc::new(move || {
                if let Some(handler) = me.handler.get() {
                    handler();
                }
            }),
        }])?;
        t.start_queue(RECEIVE, &addresses[0])?;
        t.start_queue(TRANSMIT, &addresses[1])?;
        t.start();
        t.notify(RECEIVE);
        Ok(console)
    }

    #[cold]
    fn fail(&self) {
        // Not logged: the log may go through this very console.
        if !self.failed.swap(true, Ordering::AcqRel) {
            self.transport.give_up();
        }
    }
}

impl Queue {
    /// Gives the device a buffer to fill; false if it has them all.
    fn give(&mut self) -> bool {
        if !self.ring.has_room(1) {
            return false;
        }
        let cell = self.ring.next_head();
        let piece = Piece { address: self.cells.phys(CELL * usize::from(cell)), len: CELL as u32, writable: true };
        // SAFETY: the cell lives for ever and belongs to this request until it is popped and read.
        unsafe { self.ring.add(&[piece], cell) }.is_ok()
    }
}

impl ConsoleDevice for Console {
    fn write(&self, bytes: &[u8]) -> usize {
        let mut queue = self.output.lock();
        if self.failed.load(Ordering::Acquire) {
            return 0;
        }
        while queue.ring.pop().is_some() {}
        let mut written = 0;
        for chunk in bytes.chunks(CELL) {
            if !queue.ring.has_room(1) {
                break;
            }
            let cell = queue.ring.next_head();
            let offset = CELL * usize::from(cell);
            queue.cells.write(offset, chunk);
            let piece = Piece { address: queue.cells.phys(offset), len: chunk.len() as u32, writable: false };
            // SAFETY: as in `give`.
            if unsafe { queue.ring.add(&[piece], cell) }.is_err() {
                break;
            }
            written += chunk.len();
        }
        if queue.ring.publish() {
            self.transport.notify(TRANSMIT);
        }
        let broken = queue.ring.broken().is_some();
        drop(queue);
        if broken {
            self.fail();
        }
        written
    }

    fn read(&self, to: &mut [u8]) -> usize {
        let mut guard = self.input.lock();
        if self.failed.load(Ordering::Acquire) {
            return 0;
        }
        let input = &mut *guard;
        let mut read = 0;
        loop {
            let Some((cell, at, len)) = input.open else {
                match input.queue.ring.pop() {
                    Some((cell, len)) => input.open = Some((cell, 0, len as usize)),
                    None if input.queue.ring.enable_interrupts() => {}
                    None => break,
                }
                continue;
            };
            let n = (len - at).min(to.len() - read);
            input.queue.cells.read(CELL * usize::from(cell) + at, &mut to[read..read + n]);
            read += n;
            if at + n < len {
                input.open = Some((cell, at + n, len));
                break;
            }
            // The free list is a stack: the descriptor given next is the one popped last, so it is this cell.
            input.open = None;
            input.queue.give();
        }
        if input.queue.ring.publish() {
            self.transport.notify(RECEIVE);
        }
        let broken = input.queue.ring.broken().is_some();
        drop(guard);
        if broken {
            self.fail();
        }
        read
    }

    fn on_input(&self, handler: Handler) {
        self.handler.call_once(|| handler);
    }

    fn size(&self) -> Option<(u16, u16)> {
        let t = &*self.transport;
        let size = self.sized.then(|| t.config(|| (t.config_read(0, 2) as u16, t.config_read(2, 2) as u16)))?;
        size.ok().filter(|&(columns, rows)| columns > 0 && rows > 0)
    }
}
