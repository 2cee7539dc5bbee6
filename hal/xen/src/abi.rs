//! Xen's numbers and structures, from its public headers (xen/include/public; the file is named at each group).
//!
//! Written here because the crate `xen-sys` (0.0.0-pre2) does not serve: its hypercalls go through a page that is a linker's
//! symbol, promise that the stack is untouched although they call, and keep `rcx` and `r11`, which a PV guest's `syscall`
//! destroys; it has no grant, HVM, XenStore or device structures.

/// Number of a hypercall (xen.h).
pub mod op {
    /// Trap table of a PV guest.
    pub const SET_TRAP_TABLE: u32 = 0;
    /// Page-table updates of a PV guest.
    pub const MMU_UPDATE: u32 = 1;
    /// Descriptor table of a PV guest.
    pub const SET_GDT: u32 = 2;
    /// Kernel stack of a PV guest.
    pub const STACK_SWITCH: u32 = 3;
    /// Memory.
    pub const MEMORY: u32 = 12;
    /// Several hypercalls in one.
    pub const MULTICALL: u32 = 13;
    /// One page-table entry of a PV guest, by virtual address.
    pub const UPDATE_VA_MAPPING: u32 = 14;
    /// Version and features.
    pub const XEN_VERSION: u32 = 17;
    /// Xen's own console.
    pub const CONSOLE_IO: u32 = 18;
    /// Grant tables.
    pub const GRANT_TABLE: u32 = 20;
    /// Return of a PV guest.
    pub const IRET: u32 = 23;
    /// Virtual CPUs.
    pub const VCPU: u32 = 24;
    /// FS and GS of a PV guest.
    pub const SET_SEGMENT_BASE: u32 = 25;
    /// Extended page-table operations of a PV guest.
    pub const MMUEXT: u32 = 26;
    /// Scheduling.
    pub const SCHED: u32 = 29;
    /// Entry points of a PV guest.
    pub const CALLBACK: u32 = 30;
    /// Event channels.
    pub const EVENT_CHANNEL: u32 = 32;
    /// HVM and PVH guests.
    pub const HVM: u32 = 34;
}

/// This domain, in hypercalls (xen.h).
pub const DOMID_SELF: u16 = 0x7ff0;
/// The first domain, whose XenStore holds everything.
pub const DOMID_FIRST: u16 = 0;

/// Event channels (event_channel.h).
pub mod evtchn {
    /// `struct evtchn_bind_interdomain`.
    #[repr(C)]
    pub struct BindInterdomain {
        /// The other domain.
        pub remote_domain: u16,
        /// Its port.
        pub remote_port: u32,
        /// Ours: the result.
        pub local_port: u32,
    }
    /// `struct evtchn_bind_virq`.
    #[repr(C)]
    pub struct BindVirq {
        /// Which virtual interrupt.
        pub virq: u32,
        /// For which VCPU.
        pub vcpu: u32,
        /// The result.
        pub port: u32,
    }
    /// `struct evtchn_bind_ipi`.
    #[repr(C)]
    pub struct BindIpi {
        /// For which VCPU.
        pub vcpu: u32,
        /// The result.
        pub port: u32,
    }
    /// `struct evtchn_bind_vcpu`.
    #[repr(C)]
    pub struct BindVcpu {
        /// The channel.
        pub port: u32,
        /// Who gets its events from now on.
        pub vcpu: u32,
    }
    /// `struct evtchn_alloc_unbound`.
    #[repr(C)]
    pub struct AllocUnbound {
        /// Whose the port is.
        pub domain: u16,
        /// Who may bind to it.
        pub remote_domain: u16,
        /// The result.
        pub port: u32,
    }
    /// `struct evtchn_close`, `evtchn_send`, `evtchn_unmask`.
    #[repr(C)]
    pub struct Port {
        /// The channel.
        pub port: u32,
    }
    /// `EVTCHNOP_bind_interdomain`.
    pub const BIND_INTERDOMAIN: u64 = 0;
    /// `EVTCHNOP_bind_virq`.
    pub const BIND_VIRQ: u64 = 1;
    /// `EVTCHNOP_close`.
    pub const CLOSE: u64 = 3;
    /// `EVTCHNOP_send`.
    pub const SEND: u64 = 4;
    /// `EVTCHNOP_alloc_unbound`.
    pub const ALLOC_UNBOUND: u64 = 6;
    /// `EVTCHNOP_bind_ipi`.
    pub const BIND_IPI: u64 = 7;
    /// `EVTCHNOP_bind_vcpu`.
    pub const BIND_VCPU: u64 = 8;
    /// `EVTCHNOP_unmask`.
    pub const UNMASK: u64 = 9;
    /// Virtual interrupt of the VCPU's one-shot timer (xen.h).
    pub const VIRQ_TIMER: u32 = 0;
    /// Ports of the two-level interface.
    pub const PORTS: usize = 4096;
}

/// Scheduling (sched.h).
pub mod sched {
    /// Lets others run.
    pub const YIELD: u64 = 0;
    /// Waits for an event, and unmasks events.
    pub const BLOCK: u64 = 1;
    /// Ends the domain.
    pub const SHUTDOWN: u64 = 2;
    /// Waits for one of some channels, or a time.
    pub const POLL: u64 = 3;
    /// Reasons of [`SHUTDOWN`].
    pub const REASON_POWEROFF: u32 = 0;
    /// See [`REASON_POWEROFF`].
    pub const REASON_REBOOT: u32 = 1;
    /// See [`REASON_POWEROFF`].
    pub const REASON_CRASH: u32 = 3;
    /// `struct sched_poll`.
    #[repr(C)]
    pub struct Poll {
        /// Address of an array of ports.
        pub ports: u64,
        /// Its length.
        pub count: u32,
        /// System time in ns at which to return anyway; 0: never.
        pub timeout: u64,
    }
}

/// Memory (memory.h).
pub mod memory {
    /// `XENMEM_decrease_reservation`.
    pub const DECREASE_RESERVATION: u64 = 1;
    /// `XENMEM_populate_physmap`.
    pub const POPULATE_PHYSMAP: u64 = 6;
    /// `XENMEM_add_to_physmap`.
    pub const ADD_TO_PHYSMAP: u64 = 7;
    /// `XENMEM_memory_map`.
    pub const MEMORY_MAP: u64 = 9;
    /// What to add: the shared info page.
    pub const SPACE_SHARED_INFO: u32 = 0;
    /// What to add: a frame of the grant table.
    pub const SPACE_GRANT_TABLE: u32 = 1;
    /// `struct xen_add_to_physmap`.
    #[repr(C)]
    pub struct AddToPhysmap {
        /// The domain.
        pub domain: u16,
        /// Only for ranges.
        pub size: u16,
        /// What.
        pub space: u32,
        /// Which of them.
        pub index: u64,
        /// The guest frame where it shall be.
        pub frame: u64,
    }
    /// `struct xen_memory_reservation`.
    #[repr(C)]
    pub struct Reservation {
        /// Address of an array of frame numbers.
        pub extents: u64,
        /// Its length.
        pub count: u64,
        /// log2 of the frames in each.
        pub order: u32,
        /// Address bits and NUMA node; 0 is "any".
        pub flags: u32,
        /// The domain.
        pub domain: u16,
    }
}

/// Grant tables, version 1 (grant_table.h).
pub mod grant {
    /// `GNTTABOP_setup_table`.
    pub const SETUP_TABLE: u64 = 2;
    /// `GNTTABOP_query_size`.
    pub const QUERY_SIZE: u64 = 6;
    /// `GNTTABOP_set_version`.
    pub const SET_VERSION: u64 = 8;
    /// The entry allows access to a frame.
    pub const PERMIT_ACCESS: u16 = 1;
    /// Reading only.
    pub const READ_ONLY: u16 = 1 << 2;
    /// Set by Xen: mapped for reading.
    pub const READING: u16 = 1 << 3;
    /// Set by Xen: mapped for writing.
    pub const WRITING: u16 = 1 << 4;
    /// The first entries belong to the tool stack (console, XenStore).
    pub const RESERVED: u32 = 8;
    /// `struct gnttab_query_size`.
    #[repr(C)]
    pub struct QuerySize {
        /// The domain.
        pub domain: u16,
        /// Frames now.
        pub frames: u32,
        /// Most frames.
        pub most: u32,
        /// 0 if it worked.
        pub status: i16,
    }
    /// `struct gnttab_setup_table`.
    #[repr(C)]
    pub struct SetupTable {
        /// The domain.
        pub domain: u16,
        /// How many frames.
        pub frames: u32,
        /// 0 if it worked.
        pub status: i16,
        /// Address of an array for the frames' numbers.
        pub list: u64,
    }
    /// `struct gnttab_set_version`.
    #[repr(C)]
    pub struct SetVersion {
        /// Wanted, then what is in force.
        pub version: u32,
    }
}

/// HVM and PVH guests (hvm/hvm_op.h, hvm/params.h).
pub mod hvm {
    /// `HVMOP_set_param`.
    pub const SET_PARAM: u64 = 0;
    /// `HVMOP_get_param`.
    pub const GET_PARAM: u64 = 1;
    /// How events are told.
    pub const PARAM_CALLBACK: u32 = 0;
    /// The XenStore ring's frame.
    pub const PARAM_STORE_PFN: u32 = 1;
    /// Its event channel.
    pub const PARAM_STORE_PORT: u32 = 2;
    /// The console ring's frame.
    pub const PARAM_CONSOLE_PFN: u32 = 17;
    /// Its event channel.
    pub const PARAM_CONSOLE_PORT: u32 = 18;
    /// Type of [`PARAM_CALLBACK`]: a vector on every CPU, without the local APIC.
    pub const CALLBACK_VECTOR: u64 = 2 << 56;
    /// `HVMOP_set_evtchn_upcall_vector`.
    pub const SET_UPCALL_VECTOR: u64 = 23;
    /// `struct xen_hvm_evtchn_upcall_vector`.
    #[repr(C)]
    pub struct UpcallVector {
        /// Which VCPU.
        pub vcpu: u32,
        /// The vector of its local APIC.
        pub vector: u8,
    }
    /// `struct xen_hvm_param`.
    #[repr(C)]
    pub struct Param {
        /// The domain.
        pub domain: u16,
        /// Which.
        pub index: u32,
        /// Its value.
        pub value: u64,
    }
}

/// Virtual CPUs (vcpu.h).
pub mod vcpu {
    /// `VCPUOP_initialise`.
    pub const INITIALISE: u64 = 0;
    /// `VCPUOP_up`.
    pub const UP: u64 = 1;
    /// `VCPUOP_down`.
    pub const DOWN: u64 = 2;
    /// `VCPUOP_is_up`.
    pub const IS_UP: u64 = 3;
    /// `VCPUOP_stop_periodic_timer`.
    pub const STOP_PERIODIC_TIMER: u64 = 7;
    /// `VCPUOP_set_singleshot_timer`.
    pub const SET_TIMER: u64 = 8;
    /// `VCPUOP_stop_singleshot_timer`.
    pub const STOP_TIMER: u64 = 9;
    /// `VCPUOP_register_vcpu_info`.
    pub const REGISTER_INFO: u64 = 10;
    /// `struct vcpu_set_singleshot_timer`.
    #[repr(C)]
    pub struct SetTimer {
        /// System time in ns.
        pub deadline: u64,
        /// 0: a time in the past fires at once.
        pub flags: u32,
    }
    /// `struct vcpu_register_vcpu_info`.
    #[repr(C)]
    pub struct RegisterInfo {
        /// Frame.
        pub frame: u64,
        /// Byte in it.
        pub offset: u32,
        /// Must be 0.
        pub reserved: u32,
    }
}

/// `struct start_info` of a PV guest, as far as it is used (xen.h).
#[repr(C)]
pub struct StartInfo {
    /// "xen-3.0-x86_64".
    pub magic: [u8; 32],
    /// Frames of this domain.
    pub pages: u64,
    /// Machine address of the shared info.
    pub shared_info: u64,
    /// `SIF_*`.
    pub flags: u32,
    /// Machine frame of the XenStore ring.
    pub store_frame: u64,
    /// Its event channel.
    pub store_port: u32,
    /// Machine frame of the console ring.
    pub console_frame: u64,
    /// Its event channel.
    pub console_port: u32,
    /// Virtual address of the root page table.
    pub page_table: u64,
    /// Frames of the first page tables.
    pub page_table_frames: u64,
    /// Virtual address of the list of machine frames.
    pub frame_list: u64,
    /// Virtual address of the module, or its frame number with flag bit 3.
    pub module_start: u64,
    /// Bytes in it.
    pub module_len: u64,
    /// Zero-terminated.
    pub command_line: [u8; 1024],
    /// First frame of the list of machine frames.
    pub first_list_frame: u64,
    /// Frames of that list.
    pub list_frames: u64,
}

const _: () = assert!(core::mem::offset_of!(StartInfo, page_table) == 88 && size_of::<StartInfo>() == 1168);
