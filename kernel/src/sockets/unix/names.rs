//! Names of AF_UNIX sockets: abstract ones in a table, paths as socket nodes in the file system.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use base::{Errno, Result, SpinLock};
use fs::inode::New;
use fs::types::MAY_WRITE;
use fs::vfs::Resolve;
use fs::{FileType, Walk};

use super::Unix;
use crate::files;
use crate::process::random;

static ABSTRACT: SpinLock<BTreeMap<Vec<u8>, Weak<Unix>>> = SpinLock::new(BTreeMap::new());

/// What a bound path's inode holds.
struct Bound(Weak<Unix>);

/// Enters a name for a socket and returns the name as it is shown. An empty one is chosen. `EADDRINUSE`.
pub(super) fn register(socket: &Arc<Unix>, name: &[u8]) -> Result<Vec<u8>> {
    match name.first() {
        None => {
            // Five hexadecimal digits, as on Linux.
            for _ in 0..0x10000 {
                let name = format!("\0{:05x}", random::below(0x100000)).into_bytes();
                if claim(socket, &name) {
                    return Ok(name);
                }
            }
            Err(Errno::ENOSPC)
        }
        Some(0) => {
            if claim(socket, name) {
                Ok(name.to_vec())
            } else {
                Err(Errno::EADDRINUSE)
            }
        }
        Some(_) => {
            let (root, cwd) = files::with_context(|context| Ok(context.both()))?;
            let umask = files::with_context(|context| Ok(context.umask()))?;
            let credentials = files::credentials();
            let walk = Walk { root: &root, start: &cwd, cred: &credentials };
            let path = walk.create(name, New::Node(FileType::Socket, 0), 0o777 & !umask).map_err(|e| match e {
                Errno::EEXIST => Errno::EADDRINUSE,
                e => e,
            })?;
            let attachment = path.inode()?.attachment().ok_or(Errno::EOPNOTSUPP)?;
            *attachment.lock() = Some(Arc::new(Bound(Arc::downgrade(socket))));
            Ok(name.to_vec())
        }
    }
}

fn claim(socket: &Arc<Unix>, name: &[u8]) -> bool {
    let mut table = ABSTRACT.lock();
    if table.get(name).is_some_and(|s| s.strong_count() > 0) {
        return false;
    }
    table.insert(name.to_vec(), Arc::downgrade(socket));
    true
}

/// Takes an abstract name back. A path stays until it is unlinked.
pub(super) fn unregister(socket: &Arc<Unix>, name: &[u8]) {
    if name.first() != Some(&0) {
        return;
    }
    let mut table = ABSTRACT.lock();
    // A socket that was accepted shows its listener's name, but does not own it.
    if table.get(name).is_some_and(|s| s.as_ptr() == Arc::as_ptr(socket)) {
        table.remove(name);
    }
}

/// The socket of a name. `ECONNREFUSED` if nobody has it any more.
pub(super) fn find(name: &[u8]) -> Result<Arc<Unix>> {
    match name.first() {
        None => Err(Errno::EINVAL),
        Some(0) => ABSTRACT.lock().get(name).and_then(Weak::upgrade).ok_or(Errno::ECONNREFUSED),
        Some(_) => {
            let (root, cwd) = files::with_context(|context| Ok(context.both()))?;
            let credentials = files::credentials();
            let walk = Walk { root: &root, start: &cwd, cred: &credentials };
            let path = walk.lookup(name, Resolve::FOLLOW)?;
            walk.permission(&path, MAY_WRITE)?;
            let inode = path.inode()?;
            if inode.kind() != FileType::Socket {
                return Err(Errno::ECONNREFUSED);
            }
            let attached = inode.attachment().and_then(|a| a.lock().clone()).ok_or(Errno::ECONNREFUSED)?;
            attached.downcast_ref::<Bound>().and_then(|b| b.0.upgrade()).ok_or(Errno::ECONNREFUSED)
        }
    }
}
