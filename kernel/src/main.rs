//! The Coracle kernel: modules only. The order of start-up is in `boot`.
#![no_std]
#![no_main]

extern crate alloc;
extern crate hal_x86 as _;

mod backends;
mod boot;
mod chart;
mod klog;
mod panic;
mod selftest;
mod symbols;

mod devices;
mod files;
mod mm;
mod process;
mod sched;
mod sockets;
mod syscall;
