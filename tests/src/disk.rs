//! Boot from a disk image: every firmware and disk that QEMU has, damaged images, a kernel that must lie elsewhere, and
//! what a person at the screen sees. Images are made by `coracle build`; QEMU is called directly.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use boot_layout::{BOOT_LBA, BootBlock, SECTOR, crc32};

use crate::compile::{Variant, c_program, folder};
use crate::options::Options;
use crate::report::{Bad, Outcome, Suite};
use crate::run::{Finished, Group, Scratch, must, retry, run, tail};

const LIMIT: Duration = Duration::from_secs(240);
/// Where Debian's `ovmf` puts its firmware.
const OVMF: &str = "/usr/share/OVMF";

/// A machine that boots the image.
struct Machine {
    name: &'static str,
    uefi: bool,
    /// QEMU's machine type, then more arguments; the disk is the drive `d`.
    args: &'static [&'static str],
    memory: &'static str,
}

const fn machine(name: &'static str, uefi: bool, memory: &'static str, args: &'static [&'static str]) -> Machine {
    Machine { name, uefi, args, memory }
}

const VIRTIO_SCSI: [&str; 4] = ["-device", "virtio-scsi-pci,id=s", "-device", "scsi-hd,drive=d,bus=s.0"];

/// Firmware reaches the disk, whether the kernel has a driver for it or not: the kernel runs its own checks.
const MACHINES: &[Machine] = &[
    machine("bios-pc-ide", false, "128M", &["pc", "-device", "ide-hd,drive=d"]),
    machine("bios-pc-virtio", false, "128M", &["pc", "-device", "virtio-blk-pci,drive=d"]),
    machine("bios-q35-ahci", false, "6G", &["q35", "-device", "ide-hd,drive=d"]),
    machine("bios-q35-nvme", false, "128M", &["q35", "-device", "nvme,drive=d,serial=1"]),
    machine("bios-q35-scsi", false, "128M", &["q35", VIRTIO_SCSI[0], VIRTIO_SCSI[1], VIRTIO_SCSI[2], VIRTIO_SCSI[3]]),
    machine("bios-q35-two-cpus", false, "128M", &["q35", "-smp", "2", "-device", "virtio-blk-pci,drive=d"]),
    machine("uefi-q35-virtio", true, "256M", &["q35", "-device", "virtio-blk-pci,drive=d"]),
    machine("uefi-q35-ahci", true, "6G", &["q35", "-smp", "2", "-device", "ide-hd,drive=d"]),
    machine("uefi-q35-nvme", true, "256M", &["q35", "-device", "nvme,drive=d,serial=1"]),
    machine("uefi-pc-virtio", true, "6G", &["pc", "-device", "virtio-blk-pci,drive=d"]),
];

const BIOS: &Machine = &MACHINES[1];
const UEFI: &Machine = &MACHINES[6];

/// What is done to an image, and what the loader says to it.
struct Damage {
    name: &'static str,
    machine: &'static Machine,
    says: &'static str,
    harm: fn(&mut Vec<u8>),
}

const DAMAGES: &[Damage] = &[
    Damage { name: "no-boot-block", machine: BIOS, says: "no boot block", harm: |d| d[BLOCK..BLOCK + SECTOR].fill(0) },
    Damage { name: "damaged-boot-block", machine: BIOS, says: "boot block is damaged", harm: |d| d[BLOCK + 400] ^= 1 },
    Damage {
        name: "damaged-stage-2",
        machine: BIOS,
        says: "boot code is damaged",
        harm: |d| d[BLOCK + SECTOR + 3000] ^= 4,
    },
    Damage { name: "no-kernel", machine: BIOS, says: "no kernel", harm: |d| change(d, |_, b| b.kernel_len = 0) },
    Damage {
        name: "damaged-kernel",
        machine: BIOS,
        says: "kernel on this disk is damaged",
        harm: |d| {
            let at = block(d).kernel_lba as usize * SECTOR;
            d[at + 300_000] ^= 0x10;
        },
    },
    Damage {
        name: "truncated-kernel",
        machine: BIOS,
        says: "kernel file is truncated",
        harm: |d| {
            change(d, |d, b| {
                b.kernel_len /= 2;
                let at = b.kernel_lba as usize * SECTOR;
                b.kernel_crc = crc32(&d[at..at + b.kernel_len as usize]);
            })
        },
    },
    Damage {
        name: "no-elf",
        machine: BIOS,
        says: "not an ELF file",
        harm: |d| {
            change(d, |d, b| {
                let at = b.kernel_lba as usize * SECTOR;
                d[at] = 0;
                b.kernel_crc = crc32(&d[at..at + b.kernel_len as usize]);
            })
        },
    },
    Damage {
        name: "damaged-command-line",
        machine: BIOS,
        says: "command line on this disk is damaged",
        harm: |d| {
            let at = block(d).command_line_lba as usize * SECTOR;
            d[at] ^= 1;
        },
    },
    Damage {
        name: "short-disk",
        machine: BIOS,
        says: "cannot read the kernel",
        harm: |d| d.truncate((block(d).kernel_lba as usize + 1000) * SECTOR),
    },
    Damage {
        name: "uefi-no-elf",
        machine: UEFI,
        says: "not an ELF file",
        harm: |d| {
            change(d, |d, b| {
                let at = b.kernel_lba as usize * SECTOR;
                d[at] = 0;
                b.kernel_crc = crc32(&d[at..at + b.kernel_len as usize]);
            })
        },
    },
    Damage {
        name: "uefi-damaged-kernel",
        machine: UEFI,
        says: "kernel on this disk is damaged",
        harm: |d| {
            let at = block(d).kernel_lba as usize * SECTOR;
            d[at + 300_000] ^= 0x10;
        },
    },
    Damage {
        name: "uefi-no-kernel",
        machine: UEFI,
        says: "the kernel (/coracle/kernel) cannot be read",
        harm: |d| rename(d, b"KERNEL     ", b"OTHER      "),
    },
    Damage {
        name: "uefi-truncated-kernel",
        machine: UEFI,
        says: "kernel file is truncated",
        harm: |d| {
            let at = entry(d, b"KERNEL     ");
            d[at + 28..at + 32].copy_from_slice(&100_000u32.to_le_bytes());
        },
    },
];

const BLOCK: usize = BOOT_LBA as usize * SECTOR;

fn block(disk: &[u8]) -> BootBlock {
    let sector = disk[BLOCK..BLOCK + SECTOR].try_into().expect("a sector has that length");
    BootBlock::decode(sector).expect("the image has a boot block")
}

/// Changes the boot block and seals it again.
fn change(disk: &mut [u8], how: fn(&mut [u8], &mut BootBlock)) {
    let mut block = block(disk);
    how(disk, &mut block);
    disk[BLOCK..BLOCK + SECTOR].copy_from_slice(&block.encode());
}

/// Where the FAT directory entry with this name is (the name in its 8.3 form).
fn entry(disk: &[u8], name: &[u8; 11]) -> usize {
    let found = disk.chunks(32).position(|e| e.starts_with(name));
    found.expect("the EFI system partition has this file") * 32
}

/// Renames a file. Its long name goes, too: that would be found still.
fn rename(disk: &mut [u8], from: &[u8; 11], to: &[u8; 11]) {
    let mut at = entry(disk, from);
    disk[at..at + 11].copy_from_slice(to);
    while disk[at - 32 + 11] == 0x0f {
        at -= 32;
        disk[at] = 0xe5;
    }
}

/// Runs the suite; the machines of the command line do not matter, firmware and disks do.
pub fn suite(options: &Options) -> Result<bool, String> {
    let kernel = options.kernel.clone().ok_or("which kernel? give --kernel FILE or CORACLE_KERNEL")?;
    let program = c_program(&folder().join("guests/abuse.c"), Variant::GlibcStatic)?;
    let scratch = Scratch::new("disk")?;
    let wanted = |name: &str| name.contains(&options.filter);
    let mut suite = Suite::new("disk");
    let build = |name: &str, kernel: &Path, line: &str| build(options, &scratch, name, kernel, &program, line);

    let checks = build("checks.img", &kernel, "selftest=quick log=info")?;
    for m in MACHINES.iter().filter(|m| wanted(m.name)) {
        suite.case(m.name, || finishes(m, &checks, 0, "coracle:exit 0", options.verbose));
    }
    let hello = build("hello.img", &kernel, "")?;
    for m in [BIOS, UEFI].into_iter().filter(|m| wanted(&format!("program-{}", m.name))) {
        suite.case(&format!("program-{}", m.name), || finishes(m, &hello, 0, "hello", options.verbose));
    }
    let whole = std::fs::read(&checks).map_err(|e| e.to_string())?;
    for damage in DAMAGES.iter().filter(|d| wanted(d.name)) {
        suite.case(damage.name, || {
            let mut bytes = whole.clone();
            (damage.harm)(&mut bytes);
            refuses(damage.machine, &scratch.write("damaged.img", &bytes)?, damage.says)
        });
    }
    for (name, base) in [("elsewhere", 0x1234_5000), ("not-in-memory", 0xd000_0000), ("below-1-mib", 0)] {
        for m in [BIOS, UEFI] {
            let name = format!("kernel-{name}-{}", m.name);
            if wanted(&name) {
                suite.case(&name, || {
                    let moved = moved_kernel(&kernel, &scratch, base)?;
                    let image = build("moved.img", &moved, "selftest=quick nokaslr")?;
                    finishes(m, &image, 0, "coracle:exit 0", options.verbose)
                });
            }
        }
    }
    if wanted("screen") {
        suite.case("screen-shows-a-panic", || {
            screen(&build("panic.img", &kernel, "selftest=panic")?, "asked for by selftest=panic")
        });
        suite.case("screen-shows-a-refusal", || screen(&build("refusal.img", &kernel, "log=loud")?, "log=loud"));
    }
    Ok(suite.finish())
}

/// An image of the hello program with words for the kernel.
fn build(
    options: &Options,
    scratch: &Scratch,
    name: &str,
    kernel: &Path,
    program: &Path,
    line: &str,
) -> Result<PathBuf, String> {
    let path = scratch.path().join(name);
    let mut command = Command::new(&options.coracle);
    command.args(["build", "--format", "raw", "--kernel"]).arg(kernel).arg("-o").arg(&path);
    if !line.is_empty() {
        command.args(["--append", line]);
    }
    must(command.arg("--").arg(program), LIMIT)?;
    Ok(path)
}

fn qemu(machine: &Machine, image: &Path) -> Result<Command, Bad> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-accel", "tcg", "-cpu", "max", "-m", machine.memory, "-nodefaults", "-display", "none"]);
    command.args(["-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-M"]).args(machine.args);
    command.arg("-drive").arg(format!("file={},format=raw,if=none,id=d,snapshot=on", image.display()));
    if machine.uefi {
        let (code, variables) = (format!("{OVMF}/OVMF_CODE_4M.fd"), format!("{OVMF}/OVMF_VARS_4M.fd"));
        if !Path::new(&code).exists() {
            return Err(Bad::Skipped("no UEFI firmware here (Debian: ovmf)".into()));
        }
        command.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={code}")]);
        command.args(["-drive", &format!("if=pflash,format=raw,snapshot=on,file={variables}")]);
    }
    Ok(command)
}

/// The machine ends with this code, and says so.
fn finishes(machine: &Machine, image: &Path, code: u8, says: &str, verbose: bool) -> Outcome {
    let Finished { code: status, text } = run(qemu(machine, image)?.args(["-serial", "stdio"]), LIMIT)?;
    if verbose {
        println!("{text}");
    }
    // QEMU returns (code << 1) | 1 in 8 bits.
    if status != i32::from(u16::from(code) << 1 | 1) || !text.contains(says) {
        return Err(format!("QEMU's status is {status}, or {says:?} is missing:\n{}", tail(&text, 12)).into());
    }
    Ok(())
}

/// A machine that goes on by itself, with its serial port in a file.
struct Running {
    group: Group,
    serial: PathBuf,
}

impl Running {
    fn start(command: &mut Command, scratch: &Scratch) -> Result<Running, String> {
        let serial = scratch.path().join("serial");
        command.arg("-serial").arg(format!("file:{}", serial.display()));
        let group = Group::spawn_bound(command, Stdio::piped())?;
        Ok(Running { group, serial })
    }

    fn until(&self, text: &str) -> Result<(), String> {
        retry(LIMIT, || {
            let said = std::fs::read(&self.serial).map_err(|e| e.to_string())?;
            let said = String::from_utf8_lossy(&said);
            if said.contains(text) { Ok(()) } else { Err(format!("{text:?} is not said:\n{}", tail(&said, 12))) }
        })
    }
}

/// The loader says why it does not go on.
fn refuses(machine: &Machine, image: &Path, says: &str) -> Outcome {
    let scratch = Scratch::new("refuses")?;
    Ok(Running::start(&mut qemu(machine, image)?, &scratch)?.until(says)?)
}

/// The kernel's reason stands in the VGA text buffer while the machine waits for a person to read it.
fn screen(image: &Path, reason: &str) -> Outcome {
    let scratch = Scratch::new("screen")?;
    let mut command = qemu(BIOS, image)?;
    let mut vm = Running::start(command.args(["-device", "VGA", "-monitor", "stdio"]), &scratch)?;
    vm.until(reason)?;
    std::thread::sleep(Duration::from_millis(300)); // the console gets the line first, or the screen does
    let mut monitor = vm.group.0.stdin.take().ok_or("no monitor")?;
    monitor.write_all(b"xp /320hx 0xb8000\nquit\n")?;
    let mut text = String::new();
    vm.group.0.stdout.take().ok_or("no monitor")?.read_to_string(&mut text)?;
    // Cells are printed as 0x4f61: white on red, the letter.
    let cells = text.split_whitespace().filter_map(|word| u16::from_str_radix(word.strip_prefix("0x4f")?, 16).ok());
    let shown: String = cells.filter_map(|c| char::from_u32(c.into())).collect();
    if shown.contains(reason) { Ok(()) } else { Err(format!("the screen shows {shown:?}").into()) }
}

/// A copy of the kernel, with the loaders beside it, that is linked to lie at `base`.
fn moved_kernel(kernel: &Path, scratch: &Scratch, base: u64) -> Result<PathBuf, String> {
    let beside = |name: &str| kernel.with_file_name(name);
    for loader in ["bios.bin", "bootx64.efi"] {
        let to = scratch.path().join(loader);
        std::fs::copy(beside(loader), to).map_err(|e| format!("{}: {e}", beside(loader).display()))?;
    }
    let mut bytes = std::fs::read(beside("kernel.stripped")).map_err(|e| format!("kernel.stripped: {e}"))?;
    relink(&mut bytes, base).ok_or("the kernel is no ELF file as expected")?;
    scratch.write("moved", &bytes)
}

/// Changes the physical addresses of an ELF file's segments and of its entry note (type 18).
fn relink(bytes: &mut [u8], base: u64) -> Option<()> {
    let long = |b: &[u8], at: usize| Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?));
    let word = |b: &[u8], at: usize| Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?));
    let headers = long(bytes, 32)? as usize;
    let count = usize::from(u16::from_le_bytes(bytes.get(56..58)?.try_into().ok()?));
    let all: Vec<usize> = (0..count).map(|i| headers + i * 56).collect();
    let loads = all.iter().filter(|&&at| word(bytes, at) == Some(1));
    let shift = base.wrapping_sub(loads.filter_map(|&at| long(bytes, at + 24)).min()?);
    for at in all {
        let moved = long(bytes, at + 24)?.wrapping_add(shift);
        bytes.get_mut(at + 24..at + 32)?.copy_from_slice(&moved.to_le_bytes());
        if word(bytes, at)? != 4 {
            continue;
        }
        let (mut note, end) = (long(bytes, at + 8)? as usize, (long(bytes, at + 8)? + long(bytes, at + 32)?) as usize);
        while note < end {
            let padded = |at| Some(word(bytes, at)?.next_multiple_of(4) as usize);
            let (value, len) = (note + 12 + padded(note)?, padded(note + 4)?);
            if word(bytes, note + 8)? == 18 {
                let entry = long(bytes, value)?.wrapping_add(shift);
                bytes.get_mut(value..value + 8)?.copy_from_slice(&entry.to_le_bytes());
            }
            note = value + len;
        }
    }
    Some(())
}
