//! Directories of tmpfs: names, and what the lower directory adds.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, Result};
use hashbrown::HashMap;

use super::inode::TmpInode;
use crate::types::{DirEntry, FileType};

enum What {
    /// An inode that this directory holds.
    Own(Arc<TmpInode>),
    /// The lower directory's entry of this name, as listed.
    Lower(u64, FileType),
    /// Removed here, though the lower directory has it.
    Gone,
}

struct Entry {
    cookie: u64,
    what: What,
}

/// The names of a directory.
#[derive(Default)]
pub(super) struct Entries {
    map: HashMap<Arc<[u8]>, Entry>,
    /// Position in listings -> name; positions are never used again.
    order: BTreeMap<u64, Arc<[u8]>>,
    next: u64,
    /// All of the lower directory's names are in `map`.
    merged: bool,
}

impl Entries {
    /// Takes out the inodes that it holds, for the end of the directory.
    pub fn drain(&mut self) -> impl Iterator<Item = Arc<TmpInode>> {
        self.order.clear();
        core::mem::take(&mut self.map).into_values().filter_map(|entry| match entry.what {
            What::Own(inode) => Some(inode),
            _ => None,
        })
    }

    /// Names that can be seen, not counting those that only the lower directory knows.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    fn insert(&mut self, name: &[u8], what: What) -> Option<What> {
        let name: Arc<[u8]> = Arc::from(name);
        self.next += 1;
        let cookie = self.next;
        if !matches!(what, What::Gone) {
            self.order.insert(cookie, name.clone());
        }
        let old = self.map.insert(name, Entry { cookie, what })?;
        self.order.remove(&old.cookie);
        Some(old.what)
    }

    fn remove(&mut self, name: &[u8], has_lower: bool) -> Option<What> {
        if has_lower && !self.merged {
            return self.insert(name, What::Gone);
        }
        let old = self.map.remove(name)?;
        self.order.remove(&old.cookie);
        Some(old.what)
    }
}

enum Looked {
    Found(Arc<TmpInode>),
    Absent,
    AskLower,
}

impl TmpInode {
    pub(super) fn find(&self, name: &[u8]) -> Result<Arc<TmpInode>> {
        let looked = {
            let entries = self.entries()?.lock();
            match entries.map.get(name).map(|e| &e.what) {
                Some(What::Own(inode)) => Looked::Found(inode.clone()),
                Some(What::Lower(..)) => Looked::AskLower,
                Some(What::Gone) => Looked::Absent,
                None if entries.merged => Looked::Absent,
                None => Looked::AskLower,
            }
        };
        match (looked, &self.lower) {
            (Looked::Found(inode), _) => Ok(inode),
            (Looked::AskLower, Some(lower)) => Ok(self.fs.wrap(lower.lookup(name)?)),
            _ => Err(Errno::ENOENT),
        }
    }

    pub(super) fn add_entry(&self, name: &[u8], inode: Arc<TmpInode>) -> Result<()> {
        let directory = inode.entries().is_ok();
        // A removed directory takes no names.
        if self.meta.lock().nlink == 0 {
            return Err(Errno::ENOENT);
        }
        self.fs.charge_name()?;
        self.change();
        let old = self.entries()?.lock().insert(name, What::Own(inode));
        drop(old);
        if directory {
            self.add_links(1);
        }
        self.touch(true);
        Ok(())
    }

    pub(super) fn remove_entry(&self, name: &[u8], inode: &TmpInode) -> Result<()> {
        let directory = inode.entries().is_ok();
        if directory && !inode.is_empty()? {
            return Err(Errno::ENOTEMPTY);
        }
        self.change();
        let old = self.entries()?.lock().remove(name, self.lower.is_some());
        drop(old);
        if directory {
            self.add_links(-1);
        }
        inode.drop_name();
        self.touch(true);
        Ok(())
    }

    /// One name fewer: a directory has no more links then.
    fn drop_name(&self) {
        if self.lower.is_none() {
            self.fs.uncharge_name();
        }
        if self.entries().is_ok() {
            let links = self.meta.lock().nlink;
            self.add_links(-(links as i32));
        } else {
            self.add_links(-1);
        }
    }

    pub(super) fn move_entry(&self, old: &[u8], to: &TmpInode, new: &[u8], exchange: bool) -> Result<()> {
        let inode = self.find(old)?;
        let target = match to.find(new) {
            Ok(inode) => Some(inode),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        if let Some(target) = &target
            && !exchange
            && target.entries().is_ok()
            && !target.is_empty()?
        {
            return Err(Errno::ENOTEMPTY);
        }
        // A moved inode is found through its new directory alone.
        inode.change();
        self.change();
        to.change();
        let directory = inode.entries().is_ok();
        let gone = to.entries()?.lock().insert(new, What::Own(inode.clone()));
        drop(gone);
        match target {
            Some(target) if exchange => {
                target.change();
                let target_directory = target.entries().is_ok();
                let gone = self.entries()?.lock().insert(old, What::Own(target));
                drop(gone);
                self.add_links(i32::from(target_directory) - i32::from(directory));
                to.add_links(i32::from(directory) - i32::from(target_directory));
            }
            target => {
                let gone = self.entries()?.lock().remove(old, self.lower.is_some());
                drop(gone);
                let replaced_directory = target.as_ref().is_some_and(|t| t.entries().is_ok());
                if let Some(target) = target {
                    target.drop_name();
                }
                if directory {
                    self.add_links(-1);
                    to.add_links(1 - i32::from(replaced_directory));
                }
            }
        }
        inode.touch(false);
        self.touch(true);
        to.touch(true);
        Ok(())
    }

    fn is_empty(&self) -> Result<bool> {
        self.merge()?;
        Ok(self.entries()?.lock().order.is_empty())
    }

    /// Takes all of the lower directory's names over, once.
    fn merge(&self) -> Result<()> {
        let Some(lower) = &self.lower else {
            return Ok(());
        };
        if self.entries()?.lock().merged {
            return Ok(());
        }
        let mut names: Vec<(Vec<u8>, u64, FileType)> = Vec::new();
        lower.readdir(&mut |name, ino, kind| names.push((name.to_vec(), ino, kind)))?;
        let mut entries = self.entries()?.lock();
        if entries.merged {
            return Ok(());
        }
        for (name, ino, kind) in names {
            if !entries.map.contains_key(&name[..]) {
                entries.insert(&name, What::Lower(ino, kind));
            }
        }
        // From here on absence says as much as a mark.
        entries.map.retain(|_, e| !matches!(e.what, What::Gone));
        entries.merged = true;
        Ok(())
    }

    pub(super) fn list(&self, from: u64, emit: &mut dyn FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        const BATCH: usize = 64;
        self.merge()?;
        let mut from = from;
        loop {
            // Copied out in batches: `emit` may touch user memory and sleep.
            let batch: Vec<(u64, Arc<[u8]>, u64, FileType)> = {
                let entries = self.entries()?.lock();
                entries
                    .order
                    .range(from + 1..)
                    .take(BATCH)
                    .filter_map(|(&cookie, name)| {
                        let (ino, kind) = match &entries.map.get(name)?.what {
                            What::Own(inode) => (inode.ino, crate::inode::Inode::kind(&**inode)),
                            What::Lower(ino, kind) => (*ino, *kind),
                            What::Gone => return None,
                        };
                        Some((cookie, name.clone(), ino, kind))
                    })
                    .collect()
            };
            if batch.is_empty() {
                return Ok(());
            }
            for (cookie, name, ino, kind) in &batch {
                let entry = DirEntry { name, ino: *ino, kind: *kind, next: *cookie };
                if !emit(&entry) {
                    return Ok(());
                }
                from = *cookie;
            }
        }
    }
}
