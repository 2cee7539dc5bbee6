//! The benchmarks: Coracle beside a Linux guest, same program, same QEMU, same devices, in alternating runs.

pub mod coracle;
pub mod cpio;
pub mod guest;
pub mod linux;
pub mod measure;
pub mod table;

/// The two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    /// Debian's cloud kernel with a tiny initramfs.
    Linux,
    /// Ours.
    Coracle,
}

impl std::fmt::Display for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            System::Linux => "Linux",
            System::Coracle => "Coracle",
        })
    }
}

/// What to run in a guest.
#[derive(Clone, Debug)]
pub struct Workload {
    /// A short name.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// More files: path here (the same in the guest).
    pub files: Vec<std::path::PathBuf>,
    /// Listens at this port.
    pub port: Option<u16>,
}
