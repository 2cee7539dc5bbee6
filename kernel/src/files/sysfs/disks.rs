//! /sys/block, /sys/class/block and /sys/dev/block: disks and their partitions.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use base::Errno;
use fs::FileType;
use fs::synth::{dir, dynamic, fixed};
use fs::types::{major, minor};

use super::{Node, text};
use crate::devices::volume::{Volume, volumes};

type Entries = Vec<(&'static str, Node)>;

fn attributes(volume: &'static Arc<Volume>) -> Entries {
    let device = volume.device();
    let kind = if volume.partition().is_some() { "partition" } else { "disk" };
    let mut all = alloc::vec![
        ("dev", text(move || format!("{}:{}\n", major(device), minor(device)))),
        ("ro", text(|| format!("{}\n", u32::from(volume.disk().caps().read_only)))),
        ("size", text(|| format!("{}\n", volume.len() / 512))),
        (
            "uevent",
            text(move || {
                let (major, minor) = (major(device), minor(device));
                format!("MAJOR={major}\nMINOR={minor}\nDEVNAME={}\nDEVTYPE={kind}\n", volume.name())
            })
        ),
    ];
    match volume.partition() {
        Some(partition) => {
            all.push(("partition", text(|| format!("{}\n", partition.number))));
            all.push(("start", text(|| format!("{}\n", volume.start() / 512))));
        }
        None => {
            let block = || text(|| format!("{}\n", volume.disk().caps().block_size));
            all.push((
                "queue",
                dir(alloc::vec![
                    ("logical_block_size", block()),
                    ("physical_block_size", block()),
                    ("rotational", fixed("0\n")),
                    ("scheduler", fixed("[none]\n")),
                ]),
            ));
            all.push(("removable", fixed("0\n")));
            all.push(("device", super::device(volume.disk().driver())));
            all.push(("serial", text(|| volume.disk().serial())));
        }
    }
    all
}

/// A disk's directory holds its partitions' directories.
fn node(volume: &'static Arc<Volume>) -> Node {
    let below = move || {
        let of_it = move |other: &&'static Arc<Volume>| {
            volume.partition().is_none() && other.partition().is_some() && Arc::ptr_eq(other.disk(), volume.disk())
        };
        volumes().iter().filter(of_it)
    };
    dynamic(
        attributes(volume),
        move |name| below().find(|v| v.name().as_bytes() == name).map(node).ok_or(Errno::ENOENT),
        move || Ok(below().map(|v| (v.name().as_bytes().to_vec(), FileType::Directory)).collect()),
    )
}

fn named(wanted: fn(&Volume) -> bool) -> Node {
    let all = move || volumes().iter().filter(move |v| wanted(v));
    dynamic(
        Vec::new(),
        move |name| all().find(|v| v.name().as_bytes() == name).map(node).ok_or(Errno::ENOENT),
        move || Ok(all().map(|v| (v.name().as_bytes().to_vec(), FileType::Directory)).collect()),
    )
}

/// Whole disks by name.
pub fn disks() -> Node {
    named(|volume| volume.partition().is_none())
}

/// Disks and partitions by name.
pub fn all() -> Node {
    named(|_| true)
}

/// Disks and partitions by `MAJOR:MINOR`.
pub fn by_number() -> Node {
    let number = |v: &Volume| format!("{}:{}", major(v.device()), minor(v.device())).into_bytes();
    dynamic(
        Vec::new(),
        move |name| volumes().iter().find(|v| number(v) == name).map(node).ok_or(Errno::ENOENT),
        move || Ok(volumes().iter().map(|v| (number(v), FileType::Directory)).collect()),
    )
}
