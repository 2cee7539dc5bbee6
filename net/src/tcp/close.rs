//! How a connection ends by the application's will: shutdown, close, reset.

use alloc::collections::VecDeque;
use alloc::sync::Arc;

use base::{Errno, Events, Result};

use super::socket::{Inner, Role, Shutdown, Tcp};
use super::tcb::{State, Tcb};

impl Tcp {
    /// Shuts one or both directions.
    pub fn shutdown(self: &Arc<Self>, how: Shutdown) -> Result<()> {
        let mut orphans = VecDeque::new();
        let events = self.with_inner(|inner, cx, tx| {
            let Inner { role, options, .. } = inner;
            match role {
                Role::Idle => Err(Errno::ENOTCONN),
                Role::Listen(l) => {
                    if how == Shutdown::Write {
                        return Ok(Events::empty());
                    }
                    orphans = l.take_all();
                    self.unlisten(inner);
                    Ok(Events::IN | Events::HUP)
                }
                Role::Flow(tcb) => {
                    if tcb.state == State::Closed {
                        return Err(Errno::ENOTCONN);
                    }
                    let mut events = Events::empty();
                    if how != Shutdown::Write {
                        tcb.read_shut = true;
                        events |= Events::IN | Events::RDHUP;
                    }
                    if how != Shutdown::Read {
                        if tcb.state == State::SynSent {
                            let step = tcb.finish();
                            cx.stack.tcp().remove(tcb.key);
                            return Ok(step.events);
                        }
                        close_write(tcb);
                        tcb.output(cx, options, tx);
                        events |= Events::OUT | Events::HUP;
                    }
                    Ok(events)
                }
            }
        })?;
        for child in orphans {
            child.abort();
        }
        self.subject().notify(events);
        Ok(())
    }

    /// The last descriptor is gone. The connection ends in the background.
    pub fn close(self: &Arc<Self>) {
        let mut orphans = VecDeque::new();
        self.with_inner(|inner, cx, tx| {
            let Inner { role, options, .. } = inner;
            match role {
                Role::Idle => self.release_port(inner),
                Role::Listen(l) => {
                    orphans = l.take_all();
                    self.unlisten(inner);
                    self.release_port(inner);
                }
                Role::Flow(tcb) => {
                    tcb.orphan = true;
                    let unread = tcb.rx.len() > 0;
                    tcb.rx.clear();
                    if tcb.state == State::Closed {
                        self.release_port(inner);
                        return;
                    }
                    let reset = unread || options.linger == Some(0);
                    if tcb.state == State::SynSent || reset {
                        if tcb.state != State::SynSent {
                            tcb.send_reset(cx, options, tx);
                        }
                        tcb.finish();
                        cx.stack.tcp().remove(tcb.key);
                        self.release_port(inner);
                        return;
                    }
                    close_write(tcb);
                    if tcb.state == State::FinWait2 {
                        tcb.end_at = cx.now + super::input::FIN_TIMEOUT;
                    }
                    tcb.output(cx, options, tx);
                }
            }
        });
        for child in orphans {
            child.abort();
        }
    }

    /// Ends the connection with a reset.
    pub fn abort(self: &Arc<Self>) {
        let events = self.with_inner(|inner, cx, tx| {
            let Inner { role: Role::Flow(tcb), options, .. } = inner else {
                return Events::empty();
            };
            if tcb.state == State::Closed {
                return Events::empty();
            }
            if tcb.state != State::SynSent {
                tcb.send_reset(cx, options, tx);
            }
            let step = tcb.fail(Errno::ECONNABORTED);
            cx.stack.tcp().remove(tcb.key);
            self.release_port(inner);
            step.events
        });
        self.subject().notify(events);
    }
}

fn close_write(tcb: &mut Tcb) {
    match tcb.state {
        State::Established | State::SynReceived => {
            tcb.fin_wanted = true;
            if tcb.state == State::Established {
                tcb.state = State::FinWait1;
            }
        }
        State::CloseWait => {
            tcb.fin_wanted = true;
            tcb.state = State::LastAck;
        }
        _ => {}
    }
    tcb.more = false;
}
