//! What drivers of Xen's split devices need from Xen: the XenStore, grants, event channels. A trait, so that the drivers run
//! against a fake under `cargo test`.

use alloc::string::String;
use alloc::vec::Vec;

use hal_core::interrupt::Handler;
use hal_core::{PhysAddr, Result};

/// Xen, to a driver.
pub trait Services: Send + Sync {
    /// The values of nodes of the XenStore; `None` for what is not there. Paths are below the domain's own unless they begin
    /// with `/`. Waits for the daemon.
    fn read(&self, paths: &[&str]) -> Result<Vec<Option<String>>>;
    /// Sets nodes of the XenStore.
    fn write(&self, values: &[(&str, &str)]) -> Result<()>;
    /// Removes a node and what is below it.
    fn remove(&self, path: &str) -> Result<()>;
    /// Names below a node.
    fn list(&self, path: &str) -> Result<Vec<String>>;
    /// Calls `handler`, as deferred work (it may use the XenStore and take locks, but not sleep), when the node or something
    /// below it changes.
    fn watch(&self, path: &str, handler: Handler) -> Result<()>;
    /// How many changes of watched nodes have come so far.
    fn news(&self) -> u64;
    /// Waits until there are more than `seen`, or monotonic time `deadline_ns` is past.
    fn wait(&self, seen: u64, deadline_ns: u64);
    /// Lets `domain` access a frame; the reference to tell it.
    fn grant(&self, domain: u16, at: PhysAddr, read_only: bool) -> Result<u32>;
    /// Takes the access back. False if `domain` still has the frame mapped: then nothing changed.
    fn end_grant(&self, reference: u32) -> bool;
    /// A channel that `domain` may bind to; `handler` runs on `cpu` (or the boot CPU) in the interrupt.
    fn channel(&self, domain: u16, cpu: usize, handler: &'static Handler) -> Result<u32>;
    /// Closes a channel.
    fn close(&self, port: u32);
    /// Sends an event.
    fn notify(&self, port: u32);
}

/// The real Xen.
#[cfg(target_os = "none")]
pub struct Xen;

#[cfg(target_os = "none")]
impl Services for Xen {
    fn read(&self, paths: &[&str]) -> Result<Vec<Option<String>>> {
        crate::store::read(paths)
    }
    fn write(&self, values: &[(&str, &str)]) -> Result<()> {
        crate::store::write(values)
    }
    fn remove(&self, path: &str) -> Result<()> {
        crate::store::remove(path)
    }
    fn list(&self, path: &str) -> Result<Vec<String>> {
        crate::store::list(path)
    }
    fn watch(&self, path: &str, handler: Handler) -> Result<()> {
        crate::store::watch(path, handler)
    }
    fn news(&self) -> u64 {
        crate::store::news()
    }
    fn wait(&self, seen: u64, deadline_ns: u64) {
        crate::store::wait(seen, deadline_ns);
    }
    fn grant(&self, domain: u16, at: PhysAddr, read_only: bool) -> Result<u32> {
        crate::grant::grant(domain, at, read_only)
    }
    fn end_grant(&self, reference: u32) -> bool {
        crate::grant::end(reference)
    }
    fn channel(&self, domain: u16, cpu: usize, handler: &'static Handler) -> Result<u32> {
        crate::event::allocate(domain, cpu, handler)
    }
    fn close(&self, port: u32) {
        crate::event::close(port);
    }
    fn notify(&self, port: u32) {
        crate::hypercall::notify(port);
    }
}
