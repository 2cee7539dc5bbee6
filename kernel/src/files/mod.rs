//! Open files that are not in a file system, and the contents of /proc, /sys and /dev.
