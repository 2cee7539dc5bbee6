//! The handshake of front end and backend through the XenStore (io/xenbus.h): states, and waiting for them.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use hal_core::{Error, Result, clock};
use hal_xen::services::Services;

/// `enum xenbus_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    /// There is no such node.
    Unknown = 0,
    /// Begins.
    Initialising = 1,
    /// Has told what it can do.
    InitWait = 2,
    /// Has told its rings.
    Initialised = 3,
    /// Works.
    Connected = 4,
    /// Is about to end.
    Closing = 5,
    /// Has ended.
    Closed = 6,
}

impl State {
    fn parse(text: Option<&str>) -> Self {
        match text.and_then(|t| t.parse::<u32>().ok()) {
            Some(1) => Self::Initialising,
            Some(2) => Self::InitWait,
            Some(3) => Self::Initialised,
            // Reconfiguring and reconfigured: it works.
            Some(4 | 7 | 8) => Self::Connected,
            Some(5) => Self::Closing,
            Some(6) => Self::Closed,
            _ => Self::Unknown,
        }
    }
}

/// How long a backend may take to be ready at boot: its hotplug scripts run meanwhile.
#[cfg(not(any(test, feature = "fake")))]
const PATIENCE_NS: u64 = 60_000_000_000;
/// A fake backend is ready at once or never. (The host's clock counts ticks.)
#[cfg(any(test, feature = "fake"))]
const PATIENCE_NS: u64 = 3_000_000_000;

/// A device's places in the XenStore.
pub(crate) struct Node {
    pub services: Arc<dyn Services>,
    /// Ours: "device/vbd/51712".
    pub path: String,
    /// The backend's: "/local/domain/0/backend/vbd/1/51712".
    pub backend: String,
    /// Its domain.
    pub domain: u16,
}

impl Node {
    /// Finds the other end.
    pub fn open(services: Arc<dyn Services>, path: &str) -> Result<Self> {
        let mut node = Self { services, path: String::from(path), backend: String::new(), domain: 0 };
        node.find_backend()?;
        Ok(node)
    }

    /// Reads where the backend is: the tool stack may have made another one.
    pub fn find_backend(&mut self) -> Result<()> {
        let values = self.services.read(&[&self.own("backend"), &self.own("backend-id")])?;
        let [Some(backend), Some(domain)] = &values[..] else { return Err(Error::Gone) };
        self.domain = domain.parse().map_err(|_| Error::Invalid)?;
        self.backend.clone_from(backend);
        Ok(())
    }

    /// A node of ours.
    pub fn own(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// A node of the backend's.
    pub fn backend_path(&self, name: &str) -> String {
        format!("{}/{name}", self.backend)
    }

    /// What the backend says under these names.
    pub fn backend_values(&self, names: &[&str]) -> Result<Vec<Option<String>>> {
        let paths: Vec<String> = names.iter().map(|name| self.backend_path(name)).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        self.services.read(&paths)
    }

    /// The backend's state.
    pub fn backend_state(&self) -> State {
        let state = self.backend_values(&["state"]).ok().and_then(|mut values| values.pop()).flatten();
        State::parse(state.as_deref())
    }

    /// True if nobody reset our state, nor named another backend: the rings that we told are still there for a backend.
    pub fn stands(&self) -> bool {
        let values = self.services.read(&[&self.own("state"), &self.own("backend")]).unwrap_or_default();
        let [state, backend] = &values[..] else { return false };
        State::parse(state.as_deref()) == State::Connected && backend.as_ref() == Some(&self.backend)
    }

    /// Sets nodes of ours.
    pub fn publish(&self, values: &[(String, String)]) -> Result<()> {
        let paths: Vec<String> = values.iter().map(|(name, _)| self.own(name)).collect();
        let pairs: Vec<(&str, &str)> =
            paths.iter().zip(values).map(|(path, (_, value))| (path.as_str(), value.as_str())).collect();
        self.services.write(&pairs)
    }

    /// Sets our state.
    pub fn set_state(&self, state: State) -> Result<()> {
        self.publish(&[(String::from("state"), format!("{}", state as u32))])
    }
}

/// A node's value as a number.
pub(crate) fn number(value: Option<&String>) -> Option<u64> {
    value.and_then(|text| text.trim().parse().ok())
}

/// True if a feature's node says so.
pub(crate) fn is_on(value: Option<&String>) -> bool {
    number(value).is_some_and(|n| n != 0)
}

/// Repeats `step` whenever a watched node changed, until it gives something.
pub(crate) fn wait_until<T>(services: &dyn Services, mut step: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = clock::now_ns().saturating_add(PATIENCE_NS);
    loop {
        let seen = services.news();
        if let Some(value) = step()? {
            return Ok(value);
        }
        if clock::now_ns() >= deadline {
            return Err(Error::Device("the backend is not ready after a minute"));
        }
        services.wait(seen, deadline);
    }
}

/// The nodes of one queue: below `queue-N` if there are several.
pub(crate) fn queue_name(queues: usize, queue: usize, name: &str) -> String {
    if queues > 1 { format!("queue-{queue}/{name}") } else { String::from(name) }
}
