//! Process and thread ids: one space of numbers, as in Linux. A number stays taken while it names a thread, a
//! process that was not waited for, a process group or a session.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::{Arc, Weak};

use base::{Errno, Result, SpinLock};

use super::Process;
use crate::sched::Thread;

/// Numbers are below this (`/proc/sys/kernel/pid_max`).
pub const PID_MAX: u32 = 32768;
/// After a wrap-around the search starts here.
const RESERVED: u32 = 300;

#[derive(Default)]
struct Slot {
    thread: Option<Weak<Thread>>,
    process: Option<Arc<Process>>,
    /// A thread or process of this number exists, or is being made.
    owned: bool,
    /// Processes whose group or session has this number.
    members: u32,
}

struct Ids {
    next: u32,
    slots: BTreeMap<u32, Slot>,
}

static IDS: SpinLock<Ids> = SpinLock::new(Ids { next: 1, slots: BTreeMap::new() });

/// A new number. `EAGAIN` when all are taken.
pub fn allocate() -> Result<u32> {
    let mut ids = IDS.lock();
    for _ in 0..PID_MAX {
        let candidate = ids.next;
        ids.next = if candidate + 1 >= PID_MAX { RESERVED } else { candidate + 1 };
        if let Entry::Vacant(free) = ids.slots.entry(candidate) {
            free.insert(Slot { owned: true, ..Slot::default() });
            return Ok(candidate);
        }
    }
    Err(Errno::EAGAIN)
}

/// Makes the thread findable by its number.
pub fn publish_thread(id: u32, thread: &Arc<Thread>) {
    if let Some(slot) = IDS.lock().slots.get_mut(&id) {
        slot.thread = Some(Arc::downgrade(thread));
    }
}

/// Makes the process findable by its number.
pub fn publish_process(process: &Arc<Process>) {
    if let Some(slot) = IDS.lock().slots.get_mut(&process.pid) {
        slot.process = Some(process.clone());
    }
}

/// The thread's number no longer finds it; the number itself stays taken until [`release`].
pub fn forget_thread(id: u32) {
    if let Some(slot) = IDS.lock().slots.get_mut(&id) {
        slot.thread = None;
    }
}

/// Gives the number back.
pub fn release(id: u32) {
    let removed = {
        let mut ids = IDS.lock();
        let Some(slot) = ids.slots.get_mut(&id) else { return };
        slot.owned = false;
        let process = slot.process.take();
        slot.thread = None;
        if slot.members == 0 {
            ids.slots.remove(&id);
        }
        process
    };
    // Outside of the lock: the last reference to a process may go here.
    drop(removed);
}

/// A process joined the group or session of this number.
pub fn join(id: u32) {
    IDS.lock().slots.entry(id).or_default().members += 1;
}

/// A process left the group or session of this number.
pub fn leave(id: u32) {
    let mut ids = IDS.lock();
    let Some(slot) = ids.slots.get_mut(&id) else { return };
    slot.members = slot.members.saturating_sub(1);
    if slot.members == 0 && !slot.owned {
        ids.slots.remove(&id);
    }
}

/// The process of this number, alive or not waited for yet.
pub fn process(pid: u32) -> Option<Arc<Process>> {
    IDS.lock().slots.get(&pid)?.process.clone()
}

/// The live thread of this number.
pub fn thread(tid: u32) -> Option<Arc<Thread>> {
    IDS.lock().slots.get(&tid)?.thread.as_ref()?.upgrade()
}

/// Every process, by rising pid, each looked up when its turn comes: no memory is taken, and no lock held in between.
pub fn processes() -> impl Iterator<Item = Arc<Process>> {
    let mut next = 0;
    core::iter::from_fn(move || {
        let ids = IDS.lock();
        let found = ids.slots.range(next..).find_map(|(id, slot)| Some((*id, slot.process.clone()?)));
        let (id, process) = found?;
        next = id + 1;
        Some(process)
    })
}
