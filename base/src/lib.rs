//! What the kernel, the file systems and the network stack share: error numbers, locks, readiness
//! events and page-frame handles.
//!
//! Nothing here knows a hypervisor, a device or a system call. With the feature `host` (used by
//! `cargo test`) the few link-time hooks are provided by `std`; in the kernel image the kernel
//! crate defines them (`hooks`).
#![no_std]

extern crate alloc;
#[cfg(feature = "host")]
extern crate std;

pub mod errno;
pub mod event;
pub mod frame;
pub mod hooks;
pub mod io;
pub mod rwlock;
pub mod sync;
pub mod time;

pub use errno::{Errno, Result};
pub use event::{Events, Observer, Subject};
pub use frame::{Frame, PageSource};
pub use rwlock::SleepRwLock;
pub use sync::{Mutex, Once, RwLock, SpinLock};
