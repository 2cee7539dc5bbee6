//! Xen: one backend, three ways in (PV, PVH, HVM). Here is what they share: hypercalls, event channels, grants, the
//! XenStore, the console ring, the clock, the balloon. What differs is in `hvm` (which serves PVH too) and `pv`, and reaches the
//! shared parts as a [`Mode`].
//!
//! Drivers of Xen's split devices (`drivers/xen`) use [`services`]; they are the only ones who know event channels and grants.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod plan;
pub mod services;
pub mod wire;

#[cfg(target_os = "none")]
pub mod balloon;
#[cfg(target_os = "none")]
pub mod bus;
#[cfg(target_os = "none")]
pub mod clock;
#[cfg(target_os = "none")]
pub mod console;
#[cfg(target_os = "none")]
pub mod control;
#[cfg(target_os = "none")]
pub mod event;
#[cfg(target_os = "none")]
pub mod features;
#[cfg(target_os = "none")]
pub mod grant;
#[cfg(target_os = "none")]
pub mod hvm;
#[cfg(target_os = "none")]
pub mod hypercall;
#[cfg(target_os = "none")]
pub mod mode;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod pv;
#[cfg(target_os = "none")]
pub mod shared;
#[cfg(target_os = "none")]
pub mod store;

#[cfg(target_os = "none")]
pub use mode::Mode;
