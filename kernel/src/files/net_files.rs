//! /proc/net: a table of texts that the network registers, so that files and sockets do not depend on each other.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::{Errno, SpinLock};
use fs::synth::{dynamic, file};
use fs::{FileType, Inode};

/// Makes the text of one file.
pub type Text = fn() -> String;

static TEXTS: SpinLock<BTreeMap<&'static str, Text>> = SpinLock::new(BTreeMap::new());

/// Adds `/proc/net/NAME`, for ever.
pub fn register(name: &'static str, text: Text) {
    TEXTS.lock().insert(name, text);
}

/// The directory.
pub fn tree() -> Arc<dyn Inode> {
    dynamic(
        Vec::new(),
        |name| {
            let text = TEXTS.lock().iter().find(|(n, _)| n.as_bytes() == name).map(|(_, text)| *text);
            let text = text.ok_or(Errno::ENOENT)?;
            Ok(file(move || Ok(text().into_bytes())))
        },
        || Ok(TEXTS.lock().keys().map(|name| (name.as_bytes().to_vec(), FileType::Regular)).collect()),
    )
}
