//! The life of a front end: from the handshake with a backend over its end to the next one's beginning.

use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use driver_kit::Lock;
use hal_core::interrupt::Handler;
use hal_core::{Error, Result};
use hal_xen::services::Services;

use crate::xenbus::{Node, State, is_on, wait_until};

/// What a device does at each turn. None of these is called with a lock of the device held.
pub(crate) trait Front: Send + Sync + 'static {
    /// Our state after [`Front::tell`]: disks wait for the backend, network interfaces do not.
    const TOLD: State;
    /// Where the common part is.
    fn handshake(&self) -> &Handshake;
    /// The backend tells what it can do: makes rings, and what to publish about them.
    fn tell(&self, node: &Node) -> Result<Vec<(String, String)>>;
    /// The backend is connected.
    fn finish(&self, node: &Node) -> Result<()>;
    /// The backend is gone: takes back what it had.
    fn disconnect(&self);
    /// After [`Front::finish`], with the handshake's lock free: starts what waited.
    fn came_up(&self);
    /// The device is not used any more: fails what was asked of it. Called once.
    fn give_up(&self, why: &'static str);
}

/// How far the handshake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Waits for a backend that tells what it can do.
    Waiting,
    /// Our rings are told.
    Told,
    /// The backend works.
    Up,
}

struct Link {
    node: Node,
    phase: Phase,
    /// It worked once: the tool stack may name another backend since.
    was_up: bool,
}

/// The common part of a front end.
pub(crate) struct Handshake {
    services: Arc<dyn Services>,
    name: String,
    link: Lock<Link>,
    dead: AtomicBool,
    watching: spin::Once<Handler>,
}

/// What is left to do when the lock is free.
enum After {
    Nothing,
    Start,
}

impl Handshake {
    /// Of the device at `path`; and the domain of its backend.
    pub fn new(services: Arc<dyn Services>, path: &str) -> Result<(Self, u16)> {
        let node = Node::open(services.clone(), path)?;
        let domain = node.domain;
        let handshake = Self {
            services,
            name: String::from(path),
            link: Lock::new(Link { node, phase: Phase::Waiting, was_up: false }),
            dead: AtomicBool::new(false),
            watching: spin::Once::new(),
        };
        Ok((handshake, domain))
    }

    /// The device's path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if the device is not used any more.
    #[inline]
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// Begins, and waits until the handshake has come as far as `wanted`.
pub(crate) fn begin<F: Front>(front: &Arc<F>, wanted: Phase) -> Result<()> {
    let handshake = front.handshake();
    let device: Weak<F> = Arc::downgrade(front);
    let handler: Handler = Arc::new(move || {
        if let Some(front) = device.upgrade()
            && let Err(error) = step(&*front)
        {
            log::error!("{}: {error:?}", front.handshake().name);
            fail(&*front, "the handshake with the backend failed");
        }
    });
    handshake.watching.call_once(|| handler.clone());
    let (own, backend) = {
        let link = handshake.link.lock();
        (link.node.own("backend"), link.node.backend_path("state"))
    };
    handshake.services.watch(&own, handler.clone())?;
    handshake.services.watch(&backend, handler)?;
    let result = wait_until(&*handshake.services, || {
        step(&**front)?;
        if handshake.is_dead() {
            return Err(Error::Gone);
        }
        Ok((handshake.link.lock().phase >= wanted).then_some(()))
    });
    result.inspect_err(|_| fail(&**front, "it could not be started"))
}

/// Does what the backend's state asks for.
pub(crate) fn step<F: Front>(front: &F) -> Result<()> {
    let handshake = front.handshake();
    let mut link = handshake.link.lock();
    if handshake.is_dead() {
        return Ok(());
    }
    if link.phase == Phase::Waiting && link.was_up {
        find_again(handshake, &mut link)?;
    }
    let state = link.node.backend_state();
    let after = match (link.phase, state) {
        (Phase::Waiting, State::InitWait) => tell(front, &mut link)?,
        (Phase::Waiting, State::Closed | State::Unknown) => begin_again(front, &mut link)?,
        (Phase::Told, State::Connected) => {
            front.finish(&link.node)?;
            if F::TOLD != State::Connected {
                link.node.set_state(State::Connected)?;
            }
            (link.phase, link.was_up) = (Phase::Up, true);
            After::Start
        }
        // Linux and QEMU: a driver that is bound again attaches to the rings that are there, because our state says "connected".
        // New rings would pull them away from under it.
        (Phase::Up, State::InitWait) if link.node.stands() => After::Nothing,
        (Phase::Told | Phase::Up, State::Closing | State::Closed | State::Unknown)
        | (Phase::Up, State::Initialising | State::InitWait) => {
            log::warn!("{}: the backend is gone; waiting for its return", handshake.name);
            front.disconnect();
            link.phase = Phase::Waiting;
            // Fails if the tool stack took the device away; `begin_again` finds out.
            let _ = link.node.set_state(State::Closed);
            if state == State::InitWait { tell(front, &mut link)? } else { begin_again(front, &mut link)? }
        }
        _ => After::Nothing,
    };
    drop(link);
    if let After::Start = after {
        front.came_up();
    }
    Ok(())
}

fn tell<F: Front>(front: &F, link: &mut Link) -> Result<After> {
    let mut told = front.tell(&link.node)?;
    told.push((String::from("state"), alloc::format!("{}", F::TOLD as u32)));
    link.node.publish(&told)?;
    link.phase = Phase::Told;
    Ok(After::Nothing)
}

/// Reads anew where the backend is. Fails if the tool stack took the device away.
fn find_again(handshake: &Handshake, link: &mut Link) -> Result<()> {
    let before = link.node.backend.clone();
    link.node.find_backend()?;
    if link.node.backend != before
        && let Some(handler) = handshake.watching.get()
    {
        handshake.services.watch(&link.node.backend_path("state"), handler.clone())?;
    }
    Ok(())
}

/// Makes a backend that has ended begin again, if it is to.
fn begin_again<F: Front>(front: &F, link: &mut Link) -> Result<After> {
    if link.was_up {
        find_again(front.handshake(), link)?;
    }
    let online = link.node.backend_values(&["online"])?;
    if is_on(online.first().and_then(Option::as_ref)) && link.node.backend_state() == State::Closed {
        link.node.set_state(State::Initialising)?;
    }
    Ok(After::Nothing)
}

/// Ends the use of the device.
#[cold]
pub(crate) fn fail<F: Front>(front: &F, why: &'static str) {
    let handshake = front.handshake();
    let link = handshake.link.lock();
    if handshake.dead.swap(true, Ordering::AcqRel) {
        return;
    }
    log::error!("{}: {why}; it is not used any more", handshake.name);
    // Fails if the tool stack took the device away.
    let _ = link.node.set_state(State::Closed);
    drop(link);
    front.give_up(why);
}
