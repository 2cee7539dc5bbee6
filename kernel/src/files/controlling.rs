//! Which terminal controls which session: what `/dev/tty` opens.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use base::SpinLock;

use super::tty::Tty;

static SESSIONS: SpinLock<BTreeMap<u32, Arc<Tty>>> = SpinLock::new(BTreeMap::new());

/// `tty` controls `session` from now on.
pub fn set(session: u32, tty: Arc<Tty>) {
    SESSIONS.lock().insert(session, tty);
}

/// The terminal of a session, if it has one.
pub fn of(session: u32) -> Option<Arc<Tty>> {
    SESSIONS.lock().get(&session).cloned()
}

/// The session gives its terminal up, or its leader has ended.
pub fn release(session: u32) {
    let tty = SESSIONS.lock().remove(&session);
    if let Some(tty) = tty {
        tty.release();
    }
}
