//! Socket options that a connection looks at. A listener's are copied to the connections it accepts.

/// Options, with Linux's defaults.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// TCP_CORK.
    pub cork: bool,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// TCP_KEEPIDLE, seconds.
    pub keep_idle: u32,
    /// TCP_KEEPINTVL, seconds.
    pub keep_interval: u32,
    /// TCP_KEEPCNT.
    pub keep_count: u8,
    /// TCP_USER_TIMEOUT, milliseconds; 0: the default.
    pub user_timeout: u32,
    /// SO_RCVBUF, bytes of payload.
    pub receive_buffer: u32,
    /// SO_SNDBUF, bytes of payload.
    pub send_buffer: u32,
    /// SO_RCVLOWAT.
    pub low_water: u32,
    /// SO_LINGER: seconds, if on.
    pub linger: Option<u32>,
    /// TCP_MAXSEG; 0: by the path.
    pub max_segment: u32,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// IPV6_V6ONLY.
    pub v6_only: bool,
    /// IP_TOS or IPV6_TCLASS.
    pub tos: u8,
    /// IP_TTL or IPV6_UNICAST_HOPS.
    pub ttl: u8,
    /// SO_BINDTODEVICE: interface index, 0 for any.
    pub device: u32,
}

/// Most bytes that SO_RCVBUF and SO_SNDBUF give.
pub const MAX_BUFFER: u32 = 4 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            nodelay: false,
            cork: false,
            keepalive: false,
            keep_idle: 7200,
            keep_interval: 75,
            keep_count: 9,
            user_timeout: 0,
            // Limits, not allocations: memory is taken for bytes that are there.
            receive_buffer: 512 << 10,
            send_buffer: 256 << 10,
            low_water: 1,
            linger: None,
            max_segment: 0,
            reuse_address: false,
            reuse_port: false,
            v6_only: false,
            tos: 0,
            ttl: 64,
            device: 0,
        }
    }
}

impl Options {
    pub(crate) fn keep_idle_ns(&self) -> u64 {
        u64::from(self.keep_idle) * 1_000_000_000
    }
    pub(crate) fn keep_interval_ns(&self) -> u64 {
        u64::from(self.keep_interval) * 1_000_000_000
    }
}
