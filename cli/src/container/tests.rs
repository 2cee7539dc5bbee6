//! Every format holds every disk, and damaged files do no harm.

use super::*;
use std::io::Read;

const KINDS: [Format; 5] = [Format::Qcow2, Format::Vmdk, Format::Ova, Format::Vdi, Format::Vhd];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// A disk with data here and there, the end included.
fn disk(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; size];
    for _ in 0..6 {
        let at = random.below(size - 5000);
        let len = random.below(5000);
        bytes[at..at + len].iter_mut().for_each(|b| *b = random.next() as u8);
    }
    bytes[size - 3] = 7;
    bytes
}

fn file(format: Format, disk: &dyn Disk) -> Vec<u8> {
    let mut out = tempfile::tempfile().unwrap();
    let machine = Machine { name: "a <test> & \"more\"".into(), memory: 64 << 20, cpus: 2 };
    let mut told = 0;
    write(format, disk, &machine, &mut out, &mut |n| told += n).unwrap();
    assert_eq!(told, disk.size().next_multiple_of(if told == disk.size() { 1 } else { 1 << 20 }));
    let mut bytes = Vec::new();
    std::io::Seek::rewind(&mut out).unwrap();
    out.read_to_end(&mut bytes).unwrap();
    bytes
}

/// All bytes, read in pieces of odd lengths.
fn all(disk: &dyn Disk) -> Result<Vec<u8>> {
    let mut bytes = vec![0xaa; disk.size() as usize];
    let mut at = 0;
    for piece in [1, 4097, 65_535, 300_001].into_iter().cycle() {
        let n = piece.min(bytes.len() - at);
        if n == 0 {
            break;
        }
        disk.read_at(at as u64, &mut bytes[at..at + n])?;
        at += n;
    }
    Ok(bytes)
}

#[test]
fn what_is_written_is_read_again() {
    for (size, seed) in [(3 << 20, 1), (40 << 20, 2), (1 << 20, 3), (70 << 20, 4)] {
        let original = disk(size, seed);
        for format in KINDS {
            let bytes = file(format, &original);
            assert_eq!(bytes, file(format, &original), "{format:?} is not the same twice");
            let (found, there) = disk_in(Arc::new(bytes)).unwrap();
            assert_eq!((found, there.size()), (format, size as u64));
            assert!(all(&*there).unwrap() == original, "{format:?} of {size}");
            for at in (0..size as u64).step_by(1 << 20) {
                let zero = is_zero(&original[at as usize..][..1 << 20]);
                assert!(zero || !there.is_hole(at, 1 << 20), "{format:?}: {at} is no hole");
            }
            assert!(there.read_at(size as u64 - 1, &mut [0; 2]).is_err());
        }
        assert_eq!(file(Format::Raw, &original), original);
    }
}

#[test]
fn odd_and_empty_disks() {
    let odd = disk(1_234_567, 9);
    for format in [Format::Qcow2, Format::Vdi] {
        let (_, there) = disk_in(Arc::new(file(format, &odd))).unwrap();
        assert!(all(&*there).unwrap() == odd, "{format:?}");
    }
    for format in KINDS {
        let (_, there) = disk_in(Arc::new(file(format, &Vec::new()))).unwrap();
        assert_eq!(there.size(), 0);
        assert!(there.read_at(0, &mut [0]).is_err());
    }
    assert_eq!(disk_in(Arc::new(Vec::new())).map(|(f, d)| (f, d.size())).unwrap(), (Format::Raw, 0));
}

#[test]
fn a_truncated_file_is_refused_or_reads_short() {
    let original = disk(3 << 20, 5);
    for format in KINDS {
        let bytes = file(format, &original);
        for keep in [bytes.len() - 1, bytes.len() - 513, bytes.len() / 2, 1000, 512, 100, 5] {
            let cut = bytes[..keep].to_vec();
            let outcome = disk_in(Arc::new(cut)).and_then(|(found, disk)| Ok((found, all(&*disk)?)));
            // Some bytes at the end of an archive or a table are nobody's.
            if let Ok((found, read)) = outcome {
                assert!(found == Format::Raw || read == original, "{format:?} cut to {keep} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn tables_that_lead_astray_are_refused() {
    let original = disk(3 << 20, 6);
    let refused = |bytes: Vec<u8>, words: &str| {
        let e = format!("{:#}", disk_in(Arc::new(bytes)).map(drop).unwrap_err());
        assert!(e.contains(words), "{words:?} is not in {e:?}");
    };
    let mut vdi = file(Format::Vdi, &original);
    num::put(&mut vdi, 512, &0u32.to_le_bytes());
    num::put(&mut vdi, 516, &0u32.to_le_bytes());
    refused(vdi.clone(), "lies over something else");
    num::put(&mut vdi, 516, &99u32.to_le_bytes());
    refused(vdi.clone(), "outside the file");
    num::put(&mut vdi, 384, &1u32.to_le_bytes());
    refused(vdi, "too short");

    let mut qcow2 = file(Format::Qcow2, &original);
    let l1 = num::be64(&qcow2, 40) as usize;
    let mut loops = qcow2.clone();
    num::put(&mut loops, l1, &(l1 as u64).to_be_bytes());
    refused(loops, "lies over something else");
    num::put(&mut qcow2, l1, &(1u64 << 40).to_be_bytes());
    refused(qcow2.clone(), "outside the file");
    num::put(&mut qcow2, 8, &1u64.to_be_bytes());
    refused(qcow2, "backing file");

    let vmdk = file(Format::Vmdk, &original);
    let directory = num::le64(&vmdk, vmdk.len() - 1024 + 56) as usize * 512;
    let table = num::le32(&vmdk, directory) as usize * 512;
    let first = (0..512).find(|n| num::le32(&vmdk, table + 4 * n) > 1).unwrap();
    let mut grain = vmdk.clone();
    num::put(&mut grain, table + 4 * first, &0x7fff_ffffu32.to_le_bytes());
    refused(grain, "past the end");
    let mut other = vmdk.clone();
    num::put(&mut other, table + 4 * first + 4, &num::le32(&vmdk, table + 4 * first).to_le_bytes());
    refused(other, "not the one that the table means");
    let text = vmdk.windows(15).position(|w| w == b"streamOptimized").unwrap();
    let mut split = vmdk.clone();
    num::put(&mut split, text, b"twoGbMaxExtents");
    refused(split, "several files");

    let mut vhd = file(Format::Vhd, &original);
    let at = vhd.len() - 512;
    vhd[at + 48] = 1;
    refused(vhd, "checksum");
    let mut ova = file(Format::Ova, &original);
    let at = ova.len() / 2;
    ova[at] ^= 1;
    refused(ova, "manifest");
}

#[test]
fn random_damage_does_no_harm() {
    let original = disk(2 << 20, 7);
    let mut random = Random(0x1234_5678_9abc_def1);
    for format in KINDS {
        let good = file(format, &original);
        let mut refused = 0;
        for _ in 0..400 {
            let mut bytes = good.clone();
            for _ in 0..1 + random.below(4) {
                // Where the structures are: at both ends.
                let at = match random.below(3) {
                    0 => random.below(bytes.len().min(1024)),
                    1 => bytes.len() - 1 - random.below(bytes.len().min(4096)),
                    _ => random.below(bytes.len()),
                };
                let value = [0, 1, 0x7f, 0xff, random.next() as u8][random.below(5)];
                let run = 1 + random.below(4);
                bytes[at..].iter_mut().take(run).for_each(|b| *b = value);
            }
            match disk_in(Arc::new(bytes)) {
                Err(_) => refused += 1,
                Ok((_, disk)) => {
                    let mut piece = vec![0; disk.size().min(1 << 16) as usize];
                    for at in [0, disk.size() / 2, disk.size() - piece.len() as u64] {
                        let at = at.min(disk.size() - piece.len() as u64);
                        let _ = disk.read_at(at, &mut piece);
                        disk.is_hole(at, piece.len() as u64);
                    }
                    let _ = crate::disk::Inside::of(disk).map(|inside| inside.kernel().is_ok());
                }
            }
        }
        assert!(refused > 0, "{format:?}: nothing was refused");
    }
}
