//! System calls: the table and one file per family.
#![forbid(unsafe_code)]
