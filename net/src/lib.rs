//! The network stack: Ethernet, ARP, IPv4, IPv6, NDP, ICMP, UDP, TCP, loopback, DHCPv4 and SLAAC.
//!
//! Knows no hardware and no system call: an interface is an [`env::Transmit`], received frames come in through
//! [`Stack::input`], time and randomness come from an [`env::Env`]. Runs under `cargo test` on the host.
#![no_std]
#![forbid(unsafe_code)]
#![allow(dead_code)] // the parts of UDP, ICMP and NDP that land next use what is there already

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod addr;
mod arp;
mod checksum;
pub mod env;
pub mod interface;
mod neighbour;
pub mod packet;
pub mod route;
mod stack;
pub mod tcp;
mod timers;

pub use addr::{Endpoint, Family, Ip};
pub use env::{Env, Transmit};
pub use interface::Interface;
pub use neighbour::NeighbourInfo;
pub use stack::{Hop, Stack, Tx};
