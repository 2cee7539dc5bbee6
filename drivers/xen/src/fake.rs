//! Xen for the host: a XenStore in a map, grants that are addresses, channels that only count. The test plays the backend.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use std::sync::Mutex;

use hal_core::device::Device;
use hal_core::interrupt::Handler;
use hal_core::{Error, PhysAddr, Result};
use hal_xen::services::Services;

/// What a backend does when the front end waits for it.
type Backend = Arc<dyn Fn(&FakeXen) + Send + Sync>;

#[derive(Clone, Copy)]
struct Grant {
    domain: u16,
    at: u64,
    mapped: bool,
}

#[derive(Default)]
struct State {
    store: BTreeMap<String, String>,
    watches: Vec<(String, Handler)>,
    fired: Vec<usize>,
    news: u64,
    grants: BTreeMap<u32, Grant>,
    ended: u32,
    last_grant: u32,
    most_grants: u32,
    channels: BTreeMap<u32, &'static Handler>,
    last_port: u32,
    notified: u32,
}

/// The fake.
pub struct FakeXen {
    state: Mutex<State>,
    backend: Mutex<Option<Backend>>,
}

impl FakeXen {
    /// With nothing in it but one device and its backend's node.
    pub fn new(kind: &str, values: &[(&str, &str)], offers: &[(&str, &str)]) -> Arc<Self> {
        let fake = Arc::new(Self { state: Mutex::default(), backend: Mutex::new(None) });
        fake.with(|s| s.most_grants = 1 << 15);
        let (own, other) = (format!("device/{kind}/0"), format!("/backend/{kind}"));
        fake.set(&format!("{own}/backend"), &other);
        fake.set(&format!("{own}/backend-id"), "7");
        fake.set(&format!("{own}/state"), "1");
        fake.set(&format!("{other}/online"), "1");
        fake.set(&format!("{other}/state"), "2");
        values.iter().for_each(|(name, value)| fake.set(&format!("{own}/{name}"), value));
        offers.iter().for_each(|(name, value)| fake.set(&format!("{other}/{name}"), value));
        fake
    }

    fn with<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        body(&mut self.state.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Sets a node, as the tool stack or the backend would.
    pub fn set(&self, path: &str, value: &str) {
        self.with(|s| {
            s.store.insert(path.to_string(), value.to_string());
            let fired: Vec<usize> = (0..s.watches.len()).filter(|&i| path.starts_with(&s.watches[i].0)).collect();
            s.news += fired.len() as u64;
            s.fired.extend(fired);
        });
    }

    /// Removes a node and what is below.
    pub fn unset(&self, path: &str) {
        self.with(|s| {
            s.store.retain(|node, _| !node.starts_with(path));
            let fired: Vec<usize> = (0..s.watches.len()).filter(|&i| s.watches[i].0.starts_with(path)).collect();
            s.news += fired.len() as u64;
            s.fired.extend(fired);
        });
    }

    /// A node's value.
    pub fn get(&self, path: &str) -> Option<String> {
        self.with(|s| s.store.get(path).cloned())
    }

    /// A node's value as a number; 0 if it is none.
    pub fn number(&self, path: &str) -> u32 {
        self.get(path).and_then(|v| v.parse().ok()).unwrap_or(0)
    }

    /// Runs `backend` whenever the front end waits.
    pub fn play(&self, backend: Backend) {
        *self.backend.lock().unwrap_or_else(|e| e.into_inner()) = Some(backend);
    }

    /// Runs the handlers of watches that fired.
    pub fn pump(&self) {
        for _ in 0..20 {
            let fired = self.with(|s| core::mem::take(&mut s.fired));
            if fired.is_empty() {
                return;
            }
            for index in fired {
                let handler = self.with(|s| s.watches[index].1.clone());
                handler();
            }
        }
    }

    /// The granted frame's memory. Panics if it is not granted to the backend's domain.
    pub fn page(&self, reference: u32) -> *mut u8 {
        self.try_page(reference).expect("a reference that the front end granted")
    }

    /// The granted frame's memory.
    pub fn try_page(&self, reference: u32) -> Option<*mut u8> {
        self.with(|s| s.grants.get(&reference).map(|g| g.at as *mut u8))
    }

    /// Maps or unmaps all that is granted.
    pub fn map_all(&self, mapped: bool) {
        self.with(|s| s.grants.values_mut().for_each(|g| g.mapped = mapped));
    }

    /// Lets no more than `most` grants exist.
    pub fn limit_grants(&self, most: u32) {
        self.with(|s| s.most_grants = most);
    }

    /// Grants that exist, and those ever ended.
    pub fn grants(&self) -> (u32, u32) {
        self.with(|s| (s.grants.len() as u32, s.ended))
    }

    /// The domains that something is granted to.
    pub fn domains(&self) -> Vec<u16> {
        let mut domains: Vec<u16> = self.with(|s| s.grants.values().map(|g| g.domain).collect());
        domains.dedup();
        domains
    }

    /// Open channels, and notifications so far.
    pub fn channels(&self) -> (usize, u32) {
        self.with(|s| (s.channels.len(), s.notified))
    }

    /// Raises a channel's event.
    pub fn raise(&self, port: u32) {
        if let Some(handler) = self.with(|s| s.channels.get(&port).copied()) {
            handler();
        }
    }

    /// Starts the driver of the device.
    pub fn start(self: &Arc<Self>, kind: &str, cpus: usize) -> Result<Device> {
        crate::start(self.clone(), kind, &format!("device/{kind}/0"), cpus).expect("a kind that is driven")
    }
}

impl Services for FakeXen {
    fn read(&self, paths: &[&str]) -> Result<Vec<Option<String>>> {
        Ok(paths.iter().map(|path| self.get(path)).collect())
    }
    fn write(&self, values: &[(&str, &str)]) -> Result<()> {
        values.iter().for_each(|(path, value)| self.set(path, value));
        Ok(())
    }
    fn remove(&self, path: &str) -> Result<()> {
        self.unset(path);
        Ok(())
    }
    fn list(&self, _path: &str) -> Result<Vec<String>> {
        Err(Error::Unsupported)
    }
    fn watch(&self, path: &str, handler: Handler) -> Result<()> {
        self.with(|s| s.watches.push((path.to_string(), handler)));
        Ok(())
    }
    fn news(&self) -> u64 {
        self.with(|s| s.news)
    }
    fn wait(&self, _seen: u64, _deadline_ns: u64) {
        let backend = self.backend.lock().unwrap_or_else(|e| e.into_inner()).clone();
        if let Some(backend) = backend {
            backend(self);
        }
    }
    fn grant(&self, domain: u16, at: PhysAddr, _read_only: bool) -> Result<u32> {
        self.with(|s| {
            if s.grants.len() as u32 >= s.most_grants {
                return Err(Error::Exhausted);
            }
            assert!(!s.grants.values().any(|g| g.at == at.0 && g.mapped), "a mapped frame is granted again");
            // Never the same number again: a test sees what is reused.
            s.last_grant += 1;
            s.grants.insert(s.last_grant, Grant { domain, at: at.0, mapped: false });
            Ok(s.last_grant)
        })
    }
    fn end_grant(&self, reference: u32) -> bool {
        self.with(|s| {
            let grant = s.grants.get(&reference).expect("only what is granted is ended");
            if grant.mapped {
                return false;
            }
            s.grants.remove(&reference);
            s.ended += 1;
            true
        })
    }
    fn channel(&self, _domain: u16, _cpu: usize, handler: &'static Handler) -> Result<u32> {
        self.with(|s| {
            s.last_port += 1;
            s.channels.insert(s.last_port, handler);
            Ok(s.last_port)
        })
    }
    fn close(&self, port: u32) {
        assert!(self.with(|s| s.channels.remove(&port)).is_some(), "an open channel is closed");
    }
    fn notify(&self, port: u32) {
        self.with(|s| {
            assert!(s.channels.contains_key(&port), "an open channel is notified");
            s.notified += 1;
        });
    }
}

/// The backend's end of a ring. It lies in memory of the front end that tests keep.
pub struct BackRing {
    base: *mut u8,
    stride: usize,
    size: u32,
    taken: u32,
    answered: u32,
}

// SAFETY: the pointer leads to memory that lives as long as the test, and is used by one thread at a time.
unsafe impl Send for BackRing {}

impl BackRing {
    /// Over the pages that begin with `base`.
    pub fn new(base: *mut u8, pages: usize, stride: usize) -> Self {
        let size = 1 << ((pages * 4096 - 64) / stride).ilog2();
        Self { base, stride, size, taken: 0, answered: 0 }
    }

    fn word(&self, offset: usize) -> *mut u32 {
        // SAFETY: inside the first page.
        unsafe { self.base.add(offset).cast() }
    }

    fn slot(&self, index: u32) -> *mut u8 {
        // SAFETY: masked, so inside the ring.
        unsafe { self.base.add(64 + (index & (self.size - 1)) as usize * self.stride) }
    }

    /// The bytes of the next request.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        // SAFETY: inside the ring, and the front end does not write meanwhile.
        unsafe {
            if self.word(0).read_volatile() == self.taken {
                return None;
            }
            let bytes = core::slice::from_raw_parts(self.slot(self.taken), self.stride).to_vec();
            self.taken = self.taken.wrapping_add(1);
            self.word(4).write_volatile(self.taken.wrapping_add(1));
            Some(bytes)
        }
    }

    /// Writes a response, and shows it.
    pub fn answer(&mut self, bytes: &[u8]) {
        let n = bytes.len().min(self.stride);
        // SAFETY: inside the slot.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.slot(self.answered), n) };
        self.answered = self.answered.wrapping_add(1);
        self.show(self.answered);
    }

    /// Shows any index at all.
    pub fn show(&self, produced: u32) {
        // SAFETY: inside the ring.
        unsafe { self.word(8).write_volatile(produced) };
    }

    /// Requests taken and not answered.
    pub fn owed(&self) -> u32 {
        self.taken.wrapping_sub(self.answered)
    }

    /// What the next answer's index is.
    pub fn index(&self) -> u32 {
        self.answered
    }
}
