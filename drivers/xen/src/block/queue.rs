//! One queue of a disk: its ring, what is in flight, what waits for room or for a backend.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use driver_kit::DmaArea;
use hal_core::device::{Completion, Dma};
use hal_core::{Error, PAGE_SIZE, Result};
use hal_xen::services::Services;

use super::abi::{self, DIRECT_SEGMENTS, SECTOR, Segment};
use crate::pages::{Page, Pool, end_ring, grant_ring};
use crate::ring::FrontRing;

/// Pages that a queue keeps granted at most: as many as Linux's backend keeps mapped.
const MOST_PAGES: usize = 1024;

/// What is asked for, already checked.
pub(super) struct Request {
    pub operation: u8,
    pub sector: u64,
    /// Bytes to move or to discard.
    pub len: u64,
    pub buffers: Box<[Dma]>,
    pub done: Completion,
}

impl Request {
    fn moves_data(&self) -> bool {
        matches!(self.operation, abi::READ | abi::WRITE)
    }

    fn pages(&self) -> usize {
        if self.moves_data() { (self.len as usize).div_ceil(PAGE_SIZE) } else { 0 }
    }

    /// Copies between the buffers and `pages`, which hold the bytes one after the other.
    fn copy(&self, pages: &[Page]) {
        let mut at = 0;
        for buffer in &self.buffers {
            let mut done = 0;
            while done < buffer.len {
                let offset = at % PAGE_SIZE;
                let count = (PAGE_SIZE - offset).min(buffer.len - done);
                let (page, memory) = (&pages[at / PAGE_SIZE], (buffer.address + done) as *mut u8);
                // SAFETY: `BlockDevice::submit`'s caller keeps the buffers valid until `done` is called.
                unsafe {
                    if self.operation == abi::WRITE {
                        page.fill(offset, memory, count);
                    } else {
                        page.copy_to(offset, memory, count);
                    }
                }
                (at, done) = (at + count, done + count);
            }
        }
    }
}

/// A request that the backend has.
pub(super) struct InFlight {
    pub request: Request,
    pages: Vec<Page>,
    /// The page with the list of segments.
    list: Option<Page>,
}

impl InFlight {
    /// After a read: hands the data over.
    pub fn copy_out(&self) {
        if self.request.operation == abi::READ {
            self.request.copy(&self.pages);
        }
    }
}

/// What a queue has with a backend.
struct Link {
    ring: FrontRing,
    references: Vec<u32>,
    port: u32,
    /// The backend works.
    up: bool,
}

/// A queue.
pub(super) struct Queue {
    services: Arc<dyn Services>,
    link: Option<Link>,
    /// By request id.
    slots: Vec<Option<InFlight>>,
    free: Vec<u16>,
    pool: Pool,
    waiting: VecDeque<Request>,
    /// Memory of a ring that is over, by pages.
    spare: Option<(DmaArea, usize)>,
}

impl Queue {
    /// A queue without a backend.
    pub fn new(services: Arc<dyn Services>, domain: u16) -> Self {
        let pool = Pool::new(services.clone(), domain, MOST_PAGES);
        Self { services, link: None, slots: Vec::new(), free: Vec::new(), pool, waiting: VecDeque::new(), spare: None }
    }

    /// Makes a ring for the backend in `domain`, which will signal on `port`. Its references.
    pub fn connect(&mut self, domain: u16, pages: usize, port: u32) -> Result<&[u32]> {
        self.pool.move_to(domain);
        let stride = size_of::<abi::Request>();
        let ring = match self.spare.take() {
            Some((area, same)) if same == pages => FrontRing::over(area, pages, stride),
            _ => FrontRing::new(pages, stride)?,
        };
        let references = grant_ring(&*self.services, domain, &ring).inspect_err(|_| self.services.close(port))?;
        let size = ring.size() as u16;
        self.slots.clear();
        self.slots.resize_with(usize::from(size), || None);
        self.free = (0..size).rev().collect();
        Ok(&self.link.insert(Link { ring, references, port, up: false }).references)
    }

    /// The backend works: what waits can go.
    pub fn open(&mut self) {
        if let Some(link) = &mut self.link {
            link.up = true;
        }
    }

    /// Ends the connection. What was in flight waits again, before the rest. Pages that the backend still has mapped stay its own;
    /// they hold nothing else.
    pub fn disconnect(&mut self) {
        let Some(link) = self.link.take() else { return };
        self.services.close(link.port);
        if end_ring(&*self.services, &link.references) {
            let pages = link.references.len();
            self.spare = Some((link.ring.into_area(), pages));
        } else {
            self.pool.lose_ring(link.references.len());
        }
        // Among requests in flight there is no order.
        for entry in core::mem::take(&mut self.slots).into_iter().flatten() {
            for page in entry.pages.into_iter().chain(entry.list) {
                self.pool.take_back(page);
            }
            self.waiting.push_front(entry.request);
        }
    }

    /// Gives away what waits.
    pub fn take_waiting(&mut self) -> VecDeque<Request> {
        core::mem::take(&mut self.waiting)
    }

    /// Takes over what waited elsewhere.
    pub fn wait(&mut self, requests: Vec<Request>) {
        self.waiting.extend(requests);
    }

    /// Ends the queue for good: everything in flight and waiting, to be failed. The backend keeps the pages that it had.
    pub fn give_up(&mut self) -> Vec<Request> {
        if let Some(link) = self.link.take() {
            self.services.close(link.port);
            end_ring(&*self.services, &link.references);
        }
        let mut lost = Vec::new();
        for entry in core::mem::take(&mut self.slots).into_iter().flatten() {
            for page in entry.pages.into_iter().chain(entry.list) {
                self.pool.lose(page);
            }
            lost.push(entry.request);
        }
        lost.extend(self.waiting.drain(..));
        lost
    }

    /// Takes a request. What it gives back cannot be done.
    pub fn add(&mut self, request: Request) -> Option<Request> {
        self.waiting.push_back(request);
        self.start_waiting()
    }

    /// Moves what waits to the ring, as far as there is room. A request for which there will never be memory comes back.
    pub fn start_waiting(&mut self) -> Option<Request> {
        while let Some(request) = self.waiting.front() {
            let link = self.link.as_mut().filter(|link| link.up && link.ring.broken().is_none())?;
            let (pages, operation) = (request.pages(), request.operation);
            let listed = pages > DIRECT_SEGMENTS;
            if link.ring.free() == 0 || self.free.is_empty() {
                return None;
            }
            if !self.pool.reserve(pages + usize::from(listed)) {
                // With nothing in flight no page will come back.
                let hopeless = link.ring.in_flight() == 0;
                return if hopeless { self.waiting.pop_front() } else { None };
            }
            let (Some(request), Some(id)) = (self.waiting.pop_front(), self.free.pop()) else { return None };
            let entry = InFlight {
                pages: (0..pages).map_while(|_| self.pool.take().ok()).collect(),
                list: if listed { self.pool.take().ok() } else { None },
                request,
            };
            if operation == abi::WRITE {
                entry.request.copy(&entry.pages);
            }
            put(&mut link.ring, u64::from(id), &entry);
            self.slots[usize::from(id)] = Some(entry);
        }
        None
    }

    /// Shows the backend what was added.
    pub fn publish(&mut self) {
        if let Some(link) = &mut self.link
            && link.ring.publish()
        {
            self.services.notify(link.port);
        }
    }

    /// The next answer.
    pub fn take(&mut self) -> Option<(InFlight, i16)> {
        let link = self.link.as_mut()?;
        let response: abi::Response = link.ring.take()?;
        let slot = usize::try_from(response.id).ok().and_then(|id| self.slots.get_mut(id));
        match slot.and_then(Option::take) {
            Some(entry) => {
                self.free.push(response.id as u16);
                Some((entry, response.status))
            }
            None => {
                link.ring.fail("the backend answers a request that it does not have");
                None
            }
        }
    }

    /// Puts a finished request's pages back.
    pub fn recycle(&mut self, pages: (Vec<Page>, Option<Page>)) {
        pages.0.into_iter().chain(pages.1).for_each(|page| self.pool.put(page));
    }

    /// Why the backend is not to be believed any more.
    pub fn broken(&self) -> Option<&'static str> {
        self.link.as_ref().and_then(|link| link.ring.broken())
    }

    /// Asks for an event at the next answer; true if one waits already.
    pub fn ask_event(&mut self) -> bool {
        self.link.as_mut().is_some_and(|link| link.ring.ask_event(0))
    }
}

impl InFlight {
    /// Its pages, and what was asked.
    pub fn split(self) -> (Request, (Vec<Page>, Option<Page>)) {
        (self.request, (self.pages, self.list))
    }
}

/// Writes a request to the ring.
fn put(ring: &mut FrontRing, id: u64, entry: &InFlight) {
    let Request { operation, sector, len, .. } = entry.request;
    if operation == abi::DISCARD {
        let sectors = len / SECTOR;
        ring.put(abi::Discard { operation, flag: 0, handle: 0, pad: 0, id, sector, sectors });
        return;
    }
    let segment = |index: usize| {
        let bytes = (len as usize - index * PAGE_SIZE).min(PAGE_SIZE) as u64;
        Segment { reference: entry.pages[index].reference, first: 0, last: (bytes.div_ceil(SECTOR) - 1) as u8, pad: 0 }
    };
    let count = entry.pages.len();
    if let Some(list) = &entry.list {
        for index in 0..count {
            list.put(index * size_of::<Segment>(), segment(index));
        }
        let mut pages = [0; 8];
        pages[0] = list.reference;
        ring.put(abi::Indirect {
            operation: abi::INDIRECT,
            inner: operation,
            segments: count as u16,
            pad: 0,
            id,
            sector,
            handle: 0,
            pad2: 0,
            pages,
        });
        return;
    }
    let mut list = [Segment::default(); DIRECT_SEGMENTS];
    for (index, place) in list[..count].iter_mut().enumerate() {
        *place = segment(index);
    }
    ring.put(abi::Request { operation, segments: count as u8, handle: 0, pad: 0, id, sector, list });
}

/// What a request that cannot be done is told.
pub(super) fn refuse(request: Request) {
    (request.done)(Err(Error::Exhausted));
}
