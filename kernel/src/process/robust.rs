//! Robust futexes: what a thread held when it ended is marked, so that others do not wait for ever.

use core::sync::atomic::Ordering;

use super::futex;
use crate::mm::user;
use crate::sched::Thread;

/// Most entries that are followed: a list may be a cycle.
const MOST: usize = 2048;

/// Walks the list of the running thread, which ends. The list is the program's and may hold anything.
pub(super) fn release(thread: &Thread) {
    let head = thread.ext.robust_list.swap(0, Ordering::SeqCst);
    if head == 0 {
        return;
    }
    // struct robust_list_head: next, offset of the word from the entry, entry that is being taken or freed.
    let Ok([first, offset, pending]) = user::read::<[u64; 3]>(head) else { return };
    let word_of = |entry: u64| ((entry & !1).wrapping_add(offset)) as usize;
    let mut entry = first;
    for _ in 0..MOST {
        if (entry & !1) as usize == head {
            break;
        }
        // The next one first: after the word is given up, its memory may go away.
        let next = user::read::<u64>((entry & !1) as usize);
        if entry & !1 != pending & !1 && futex::owner_died(word_of(entry), thread.tid, entry & 1 != 0).is_err() {
            break;
        }
        let Ok(next) = next else { break };
        entry = next;
    }
    if pending & !1 != 0 {
        let _ = futex::owner_died(word_of(pending), thread.tid, pending & 1 != 0);
    }
}
