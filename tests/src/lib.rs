//! The proof: conformance programs, end-to-end tests with real clients, robustness, a soak and the benchmarks.
//!
//! Here: what drives programs on the host and in VMs, and judges what they do. Not here: the guest programs
//! themselves (`tests/conformance`, `tests/guests`) and how a VM is made (the `coracle` command does that).

#![forbid(unsafe_code)]

pub mod abi;
pub mod apps;
pub mod bench;
pub mod boot;
pub mod client;
pub mod compile;
pub mod conformance;
pub mod disk;
pub mod e2e;
pub mod exchange;
pub mod lab;
pub mod matrix;
pub mod network;
pub mod options;
pub mod pattern;
pub mod report;
pub mod robust;
pub mod run;
pub mod soak;
pub mod unlucky;
pub mod vm;
pub mod volumes;
