//! Signals: sets and `siginfo`, actions, sending, delivery with Linux's frames.
//!
//! A signal waits in its thread's or its process's queue. Senders mark the queue's mask and interrupt a thread
//! that does not block it; the thread takes it in [`deliver`], on its way to the application.

mod action;
mod deliver;
mod fpu;
mod frame;
mod mask;
mod pending;
mod send;
mod stop;
mod types;

pub use action::{Action, Actions, IGNORE, flags};
pub use deliver::deliver;
pub use frame::{sigreturn, state_size};
pub use mask::{must_leave, pending_of, set_blocked, set_temporary_mask, take, with_temporary_mask};
pub use pending::Pending;
pub(super) use send::interrupt_all;
pub use send::{discard, force, may_signal, send_all, send_group, send_process, send_thread};
pub use types::*;
