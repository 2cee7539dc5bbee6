//! The network stack: Ethernet, ARP, IPv4, IPv6, NDP, ICMP, UDP, TCP, loopback, DHCPv4 and SLAAC.
//!
//! Knows no hardware and no system call: an interface is an [`env::Transmit`], received frames come in through
//! [`Stack::input`], time and randomness come from an [`env::Env`]. Runs under `cargo test` on the host.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod addr;
mod arp;
mod checksum;
pub mod config;
pub mod datagram;
mod dhcp;
pub mod env;
mod fragment;
mod icmp;
pub mod interface;
mod ndp;
mod neighbour;
pub mod packet;
mod receive;
pub mod route;
mod stack;
pub mod tcp;
mod timers;
mod transmit;
pub mod udp;

pub use addr::{Endpoint, Family, Ip};
pub use env::{Env, Transmit};
pub use interface::Interface;
pub use neighbour::NeighbourInfo;
pub use stack::{Hop, Stack, Tx};
