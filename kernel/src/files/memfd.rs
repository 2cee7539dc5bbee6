//! Files without a name: memfd, shared memory of `/dev/zero`.

use alloc::sync::Arc;

use base::{Once, Result};
use fs::regular::RegularFile;
use fs::tmpfs::{TmpFs, TmpInode};
use fs::vfs::{Dentry, Mount};
use fs::{FileType, OpenFlags, Path};

struct Unnamed {
    fs: Arc<TmpFs>,
    mount: Arc<Mount>,
}

fn unnamed() -> &'static Unnamed {
    static UNNAMED: Once<Unnamed> = Once::new();
    UNNAMED.call_once(|| {
        let fs = TmpFs::new(super::mount::memory_share(), 0x0102_1994);
        let root = Dentry::root(fs.fresh(FileType::Directory, 0o700, 0, 0, 0));
        Unnamed { fs, mount: Mount::detached(root, "tmpfs") }
    })
}

/// An inode without a name.
pub fn inode(mode: u32) -> Arc<TmpInode> {
    let cred = super::credentials();
    unnamed().fs.fresh(FileType::Regular, mode, cred.uid, cred.gid, 0)
}

/// A memfd called `memfd:NAME`.
pub fn create(name: &[u8], seals: bool) -> Result<Arc<RegularFile>> {
    let inode = inode(0o777);
    if seals {
        inode.allow_seals();
    }
    let mut shown = alloc::vec::Vec::from(&b"memfd:"[..]);
    shown.extend_from_slice(name);
    let path = Path::new(unnamed().mount.clone(), Dentry::unnamed(inode, None, &shown));
    Ok(Arc::new(RegularFile::new(path, OpenFlags::RDWR | OpenFlags::LARGEFILE)))
}
