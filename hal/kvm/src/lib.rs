//! KVM and the plain PC: the platform with paravirtual clocks where KVM's CPUID leaf is there, and the same
//! devices without them elsewhere (QEMU's TCG, a hypervisor that nobody here knows).
#![no_std]

extern crate alloc;
