//! A file's pages: a radix tree from page index to frame, with a dirty mark per page.
//!
//! The depth grows with the largest index: a file of 256 KiB takes one step per lookup, of 16 MiB two. The owner
//! locks it.

use alloc::boxed::Box;

use base::Frame;

const BITS: u32 = 6;
const FANOUT: usize = 1 << BITS;

enum Slot {
    Empty,
    Page { frame: Frame, dirty: bool },
    Node(Box<Node>),
}

struct Node {
    slots: [Slot; FANOUT],
    used: u32,
}

impl Node {
    fn new() -> Box<Self> {
        Box::new(Self { slots: [const { Slot::Empty }; FANOUT], used: 0 })
    }
}

/// Pages by index.
#[derive(Default)]
pub struct PageMap {
    root: Option<Box<Node>>,
    /// Levels of nodes; indices below `64.pow(height)` fit.
    height: u32,
    len: u64,
}

fn step(index: u64, level: u32) -> usize {
    (index >> (BITS * level)) as usize & (FANOUT - 1)
}

impl PageMap {
    /// Without pages.
    pub const fn new() -> Self {
        Self { root: None, height: 0, len: 0 }
    }

    /// How many pages are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True without pages.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn fits(&self, index: u64) -> bool {
        let bits = BITS * self.height;
        bits >= 64 || index >> bits == 0
    }

    /// The frame of a page.
    #[inline]
    pub fn get(&self, index: u64) -> Option<&Frame> {
        if !self.fits(index) {
            return None;
        }
        let mut node = self.root.as_deref()?;
        for level in (0..self.height).rev() {
            match &node.slots[step(index, level)] {
                Slot::Node(next) => node = next,
                Slot::Page { frame, .. } => return Some(frame),
                Slot::Empty => return None,
            }
        }
        None
    }

    fn slot_mut(&mut self, index: u64) -> Option<&mut Slot> {
        if !self.fits(index) {
            return None;
        }
        let mut node = self.root.as_deref_mut()?;
        for level in (1..self.height).rev() {
            match &mut node.slots[step(index, level)] {
                Slot::Node(next) => node = next,
                _ => return None,
            }
        }
        Some(&mut node.slots[step(index, 0)])
    }

    /// Marks a page as changed; false if it is not there.
    pub fn mark_dirty(&mut self, index: u64) -> bool {
        match self.slot_mut(index) {
            Some(Slot::Page { dirty, .. }) => {
                *dirty = true;
                true
            }
            _ => false,
        }
    }

    /// True if the page is there and changed.
    pub fn is_dirty(&mut self, index: u64) -> bool {
        matches!(self.slot_mut(index), Some(Slot::Page { dirty: true, .. }))
    }

    /// Puts a page in; returns the one that was there.
    pub fn insert(&mut self, index: u64, frame: Frame, dirty: bool) -> Option<Frame> {
        if self.root.is_none() {
            self.root = Some(Node::new());
            self.height = self.height.max(1);
        }
        while !self.fits(index) {
            let mut up = Node::new();
            if let Some(old) = self.root.take() {
                up.slots[0] = Slot::Node(old);
                up.used = 1;
            }
            self.root = Some(up);
            self.height += 1;
        }
        let mut node = self.root.as_deref_mut()?;
        for level in (1..self.height).rev() {
            let slot = &mut node.slots[step(index, level)];
            if matches!(slot, Slot::Empty) {
                *slot = Slot::Node(Node::new());
                node.used += 1;
            }
            let Slot::Node(next) = slot else {
                return None;
            };
            node = next;
        }
        let slot = &mut node.slots[step(index, 0)];
        match core::mem::replace(slot, Slot::Page { frame, dirty }) {
            Slot::Page { frame, .. } => Some(frame),
            _ => {
                node.used += 1;
                self.len += 1;
                None
            }
        }
    }

    /// Removes the pages of `first..end` for which `remove(index, frame, dirty)` is true and hands them to it by
    /// value through `taken`. Cost: the pages and nodes in the range.
    pub fn remove_range(
        &mut self,
        first: u64,
        end: u64,
        remove: &mut dyn FnMut(u64, &Frame, bool) -> bool,
        taken: &mut dyn FnMut(Frame),
    ) {
        let Some(root) = self.root.as_deref_mut() else {
            return;
        };
        let mut removed = 0;
        prune(root, self.height - 1, 0, first, end, &mut |i, f, d| remove(i, f, d), &mut |f| {
            removed += 1;
            taken(f);
        });
        self.len -= removed;
        if self.root.as_ref().is_some_and(|r| r.used == 0) {
            self.root = None;
            self.height = 0;
        }
    }

    /// The first page at or after `index`.
    pub fn next_from(&self, index: u64) -> Option<u64> {
        next(self.root.as_deref()?, self.height - 1, 0, index)
    }
}

fn prune(
    node: &mut Node,
    level: u32,
    base: u64,
    first: u64,
    end: u64,
    remove: &mut dyn FnMut(u64, &Frame, bool) -> bool,
    taken: &mut dyn FnMut(Frame),
) {
    for i in 0..FANOUT {
        let start = base + ((i as u64) << (BITS * level));
        let last = start.saturating_add((1u64 << (BITS * level)) - 1);
        if last < first || start >= end {
            continue;
        }
        let empty = match &mut node.slots[i] {
            Slot::Empty => false,
            Slot::Page { frame, dirty } => remove(start, frame, *dirty),
            Slot::Node(child) => {
                prune(child, level - 1, start, first, end, remove, taken);
                child.used == 0
            }
        };
        if empty {
            node.used -= 1;
            if let Slot::Page { frame, .. } = core::mem::replace(&mut node.slots[i], Slot::Empty) {
                taken(frame);
            }
        }
    }
}

fn next(node: &Node, level: u32, base: u64, index: u64) -> Option<u64> {
    for i in 0..FANOUT {
        let start = base + ((i as u64) << (BITS * level));
        let last = start.saturating_add((1u64 << (BITS * level)) - 1);
        if last < index {
            continue;
        }
        match &node.slots[i] {
            Slot::Empty => {}
            Slot::Page { .. } => return Some(start),
            Slot::Node(child) => {
                if let Some(found) = next(child, level - 1, start, index) {
                    return Some(found);
                }
            }
        }
    }
    None
}

#[cfg(all(test, feature = "host"))]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn finds_removes_and_grows() {
        let mut map = PageMap::new();
        let indices = [0u64, 63, 64, 4095, 4096, 1 << 30, (1 << 51) - 1];
        for &i in &indices {
            assert!(map.insert(i, Frame::zeroed().unwrap(), i % 2 == 0).is_none());
        }
        assert_eq!(map.len(), indices.len() as u64);
        for &i in &indices {
            assert!(map.get(i).is_some(), "{i}");
            assert!(map.get(i + 1).is_none() || indices.contains(&(i + 1)));
        }
        assert_eq!(map.next_from(65), Some(4095));
        let mut gone = Vec::new();
        map.remove_range(1, 4096, &mut |_, _, _| true, &mut |f| gone.push(f));
        assert_eq!(gone.len(), 3);
        assert_eq!(map.next_from(1), Some(4096));
        map.remove_range(0, u64::MAX, &mut |_, _, dirty| dirty, &mut |f| gone.push(f));
        assert_eq!(map.len(), 1);
        map.remove_range(0, u64::MAX, &mut |_, _, _| true, &mut |f| gone.push(f));
        assert!(map.is_empty() && map.get(0).is_none());
        assert!(map.insert(5, Frame::zeroed().unwrap(), true).is_none());
        assert!(map.mark_dirty(5) && !map.mark_dirty(6));
    }
}
