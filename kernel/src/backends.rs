//! The one list of linked hypervisor backends and device drivers.
