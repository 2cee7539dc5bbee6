//! The firmware's boot services as this loader needs them: memory, files of the own volume, text, the end.

use core::ffi::c_void;
use core::fmt;
use core::ptr::null_mut;

use boot_plan::Refused;
use uefi_raw::protocol::file_system::{FileAttribute, FileMode, FileProtocolV1, SimpleFileSystemProtocol};
use uefi_raw::protocol::loaded_image::LoadedImageProtocol;
use uefi_raw::table::boot::{AllocateType, BootServices, MemoryDescriptor, MemoryType};
use uefi_raw::table::system::SystemTable;
use uefi_raw::{Guid, Handle, Status};

/// Bytes in a page.
pub const PAGE: u64 = 4096;

const VOLUME: &str = "the loader's own volume cannot be read";

/// Why there is no boot.
pub struct Problem {
    what: &'static str,
    status: Status,
}

impl Problem {
    /// A problem that firmware reports.
    pub fn new(what: &'static str, status: Status) -> Self {
        Self { what, status }
    }
    /// True if what was looked for is not there.
    pub fn is_missing(&self) -> bool {
        self.status == Status::NOT_FOUND
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::new(refused.0, Status::SUCCESS)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)?;
        if self.status == Status::SUCCESS { Ok(()) } else { write!(f, " ({:?})", self.status) }
    }
}

/// A result of the loader.
pub type Result<T> = core::result::Result<T, Problem>;

fn check(status: Status, what: &'static str) -> Result<()> {
    if status == Status::SUCCESS { Ok(()) } else { Err(Problem::new(what, status)) }
}

/// The firmware, until [`Firmware::exit`].
pub struct Firmware {
    image: Handle,
    table: *const SystemTable,
}

/// Where the memory map was put, and how it is to be read.
pub struct MemoryMap {
    at: u64,
    len: usize,
    stride: usize,
}

impl MemoryMap {
    /// The descriptors.
    pub fn descriptors(&self) -> impl Iterator<Item = MemoryDescriptor> {
        let fits = if self.stride < size_of::<MemoryDescriptor>() { 0 } else { self.len / self.stride };
        // SAFETY: firmware wrote `len` bytes there, one descriptor at the start of each stride.
        (0..fits).map(|i| unsafe { ((self.at as usize + i * self.stride) as *const MemoryDescriptor).read_unaligned() })
    }
}

impl Firmware {
    /// # Safety
    /// The arguments are those that firmware gave to the entry point.
    pub unsafe fn new(image: Handle, table: *const SystemTable) -> Self {
        Self { image, table }
    }

    fn table(&self) -> &SystemTable {
        // SAFETY: firmware's table, valid while boot services are there.
        unsafe { &*self.table }
    }

    /// The boot services.
    pub fn boot(&self) -> &BootServices {
        // SAFETY: as in `table`.
        unsafe { &*self.table().boot_services }
    }

    /// An interface of a handle.
    pub fn protocol<T>(&self, handle: Handle, guid: &Guid, what: &'static str) -> Result<*mut T> {
        let mut found: *mut c_void = null_mut();
        // SAFETY: arguments as the specification has them.
        check(unsafe { (self.boot().handle_protocol)(handle, guid, &mut found) }, what)?;
        Ok(found.cast())
    }

    /// The handle of the volume that this program comes from.
    pub fn device(&self) -> Result<Handle> {
        let image: *mut LoadedImageProtocol = self.protocol(self.image, &LoadedImageProtocol::GUID, VOLUME)?;
        // SAFETY: firmware's structure.
        Ok(unsafe { (*image).device_handle })
    }

    /// The root folder of that volume.
    pub fn volume(&self) -> Result<File> {
        const WHAT: &str = VOLUME;
        let device = self.device()?;
        let system: *mut SimpleFileSystemProtocol = self.protocol(device, &SimpleFileSystemProtocol::GUID, WHAT)?;
        let mut root = null_mut();
        // SAFETY: the interface that firmware gave.
        check(unsafe { ((*system).open_volume)(system, &mut root) }, WHAT)?;
        Ok(File(root))
    }

    /// Takes these pages and no others.
    pub fn allocate_at(&self, at: u64, pages: u64) -> Result<()> {
        let mut place = at;
        // SAFETY: firmware gives only memory that is free.
        let status = unsafe {
            let boot = self.boot();
            (boot.allocate_pages)(AllocateType::ADDRESS, MemoryType::LOADER_DATA, pages as usize, &mut place)
        };
        check(status, "the kernel's memory is taken")
    }

    /// Takes pages below 4 GiB.
    pub fn allocate(&self, kind: MemoryType, pages: u64) -> Result<u64> {
        let mut place = u64::from(u32::MAX);
        // SAFETY: as in `allocate_at`.
        let status =
            unsafe { (self.boot().allocate_pages)(AllocateType::MAX_ADDRESS, kind, pages as usize, &mut place) };
        check(status, "there is not enough memory below 4 GiB")?;
        Ok(place)
    }

    /// How many bytes the memory map takes now.
    pub fn memory_map_len(&self) -> usize {
        let (mut len, mut key, mut stride, mut version) = (0, 0, 0, 0);
        // The status is "too small". SAFETY: with a length of 0 nothing is written but the numbers.
        let _ = unsafe { (self.boot().get_memory_map)(&mut len, null_mut(), &mut key, &mut stride, &mut version) };
        len
    }

    /// Ends boot services: `take` gets the memory map that counts. When firmware's map changed in between, again.
    pub fn exit(&self, buffer: u64, room: usize, mut take: impl FnMut(&MemoryMap)) -> Result<()> {
        let mut status = Status::ABORTED;
        for _ in 0..8 {
            let (mut len, mut key, mut stride, mut version) = (room, 0, 0, 0);
            // SAFETY: the buffer has `room` bytes and is nobody else's.
            let got = unsafe {
                let map = buffer as *mut MemoryDescriptor;
                (self.boot().get_memory_map)(&mut len, map, &mut key, &mut stride, &mut version)
            };
            check(got, "firmware gives no memory map")?;
            take(&MemoryMap { at: buffer, len, stride });
            // SAFETY: afterwards only memory of this loader is used.
            status = unsafe { (self.boot().exit_boot_services)(self.image, key) };
            if status == Status::SUCCESS {
                return Ok(());
            }
        }
        check(status, "firmware does not end its boot services")
    }

    /// The address of a configuration table, 0 if there is none.
    pub fn configuration(&self, guid: &Guid) -> u64 {
        let table = self.table();
        (0..table.number_of_configuration_table_entries)
            // SAFETY: firmware's array of that many entries.
            .map(|i| unsafe { table.configuration_table.add(i).read() })
            .find(|entry| entry.vendor_guid == *guid)
            .map_or(0, |entry| entry.vendor_table as u64)
    }

    /// Waits.
    pub fn stall(&self, microseconds: usize) {
        // SAFETY: a service without memory.
        let _ = unsafe { (self.boot().stall)(microseconds) };
    }
}

/// Text on firmware's console.
pub struct Console<'a>(pub &'a Firmware);

impl fmt::Write for Console<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let out = self.0.table().stdout;
        if out.is_null() {
            return Ok(());
        }
        for unit in text.encode_utf16() {
            let string = if unit == 10 { [13, 10, 0] } else { [unit, 0, 0] };
            // SAFETY: firmware's interface and a string that ends with zero.
            let _ = unsafe { ((*out).output_string)(out, string.as_ptr()) };
        }
        Ok(())
    }
}

/// An open file or folder. Stays open: boot services end soon.
pub struct File(*mut FileProtocolV1);

impl File {
    /// Opens a file by its path from here, with `/` between names.
    pub fn open(&self, path: &str, what: &'static str) -> Result<File> {
        let mut name = [0u16; 64];
        if path.len() >= name.len() {
            return Err(Problem::new(what, Status::INVALID_PARAMETER));
        }
        for (slot, unit) in name.iter_mut().zip(path.encode_utf16()) {
            *slot = if unit == u16::from(b'/') { u16::from(b'\\') } else { unit };
        }
        let mut file = null_mut();
        // SAFETY: firmware's interface; the name ends with zero.
        let status =
            unsafe { ((*self.0).open)(self.0, &mut file, name.as_ptr(), FileMode::READ, FileAttribute::empty()) };
        check(status, what)?;
        Ok(File(file))
    }

    /// Its length.
    pub fn len(&self, what: &'static str) -> Result<u64> {
        self.seek(u64::MAX, what)?; // the end (UEFI 2.10, section 13.5)
        let mut len = 0;
        // SAFETY: firmware's interface.
        check(unsafe { ((*self.0).get_position)(self.0, &mut len) }, what)?;
        Ok(len)
    }

    fn seek(&self, to: u64, what: &'static str) -> Result<()> {
        // SAFETY: firmware's interface.
        check(unsafe { ((*self.0).set_position)(self.0, to) }, what)
    }

    /// Fills `out` from `offset` on.
    pub fn read(&self, offset: u64, out: &mut [u8], what: &'static str) -> Result<()> {
        self.seek(offset, what)?;
        let mut done = 0;
        while done < out.len() {
            let rest = &mut out[done..];
            let mut len = rest.len();
            // SAFETY: firmware writes at most `len` bytes.
            check(unsafe { ((*self.0).read)(self.0, &mut len, rest.as_mut_ptr().cast()) }, what)?;
            if len == 0 || len > rest.len() {
                return Err(Problem::new(what, Status::END_OF_FILE));
            }
            done += len;
        }
        Ok(())
    }
}
