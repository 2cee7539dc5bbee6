//! The kernel's command line, for /proc/cmdline; and the names that `uname` has, for /proc.

use alloc::string::String;

use base::{Errno, Once, Result};

use crate::syscall::misc;

static COMMAND_LINE: Once<String> = Once::new();

/// The host name.
pub fn hostname() -> String {
    String::from_utf8_lossy(&misc::host_name()).into_owned()
}

/// Sets it. `EINVAL` beyond 64 bytes.
pub fn set_hostname(name: &[u8]) -> Result<()> {
    if name.len() > 64 {
        return Err(Errno::EINVAL);
    }
    misc::set_host_name(name);
    Ok(())
}

/// As `uname -r` shows it.
pub fn release() -> &'static str {
    misc::RELEASE
}

/// As `uname -v` shows it.
pub fn build_version() -> &'static str {
    misc::version()
}

/// Tells once what the kernel was started with.
pub fn set_kernel_command_line(line: &str) {
    COMMAND_LINE.call_once(|| String::from(line));
}

/// What the kernel was started with.
pub fn kernel_command_line() -> &'static str {
    COMMAND_LINE.get().map_or("", String::as_str)
}
