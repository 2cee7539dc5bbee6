//! The Coracle kernel. This file gives the order of start-up; everything else is in its module.
#![no_std]
#![no_main]

extern crate alloc;

mod backends;
mod devices;
mod files;
mod mm;
mod process;
mod sched;
mod sockets;
mod syscall;
