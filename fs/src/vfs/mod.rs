//! Paths: the dentry cache, mounts, resolution, and the operations on names.

mod create;
mod dentry;
#[cfg(test)]
pub use dentry::clock_len;
mod mount;
mod open;
pub mod remove;
mod walk;

pub use dentry::{Dentry, cached, set_limit, shrink};
pub use mount::{Mount, MountInfo, Path, mounts, root_mount};
pub use open::How;
pub use walk::{Found, Last, Resolve, Walk};
