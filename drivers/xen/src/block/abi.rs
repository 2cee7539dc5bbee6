//! Requests and responses of a disk (io/blkif.h), as 64-bit guests lay them out ("x86_64-abi").

pub(super) const READ: u8 = 0;
pub(super) const WRITE: u8 = 1;
pub(super) const FLUSH: u8 = 3;
pub(super) const DISCARD: u8 = 5;
pub(super) const INDIRECT: u8 = 6;

pub(super) const OKAY: i16 = 0;
pub(super) const NOT_SUPPORTED: i16 = -2;

/// The unit of positions and of places in a page, whatever the block size.
pub(super) const SECTOR: u64 = 512;
/// Segments in a request itself.
pub(super) const DIRECT_SEGMENTS: usize = 11;
/// Segments in a page of them.
pub(super) const SEGMENTS_PER_PAGE: usize = hal_core::PAGE_SIZE / size_of::<Segment>();

/// `struct blkif_request_segment`: a page and its first and last sector.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Segment {
    pub reference: u32,
    pub first: u8,
    pub last: u8,
    pub pad: u16,
}

/// `struct blkif_request`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub operation: u8,
    pub segments: u8,
    pub handle: u16,
    pub pad: u32,
    pub id: u64,
    pub sector: u64,
    pub list: [Segment; DIRECT_SEGMENTS],
}

/// `struct blkif_request_discard`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Discard {
    pub operation: u8,
    pub flag: u8,
    pub handle: u16,
    pub pad: u32,
    pub id: u64,
    pub sector: u64,
    pub sectors: u64,
}

/// `struct blkif_request_indirect`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Indirect {
    pub operation: u8,
    pub inner: u8,
    pub segments: u16,
    pub pad: u32,
    pub id: u64,
    pub sector: u64,
    pub handle: u16,
    pub pad2: u16,
    pub pages: [u32; 8],
}

/// `struct blkif_response`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Response {
    pub id: u64,
    pub operation: u8,
    pub pad: u8,
    pub status: i16,
    pub pad2: u32,
}

const _: () = assert!(size_of::<Request>() == 112 && size_of::<Indirect>() == 64 && size_of::<Response>() == 16);
