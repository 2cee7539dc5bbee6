//! Sockets: the network stack, AF_UNIX and netlink behind file descriptors.
