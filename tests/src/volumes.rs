//! Disks: the root is found wherever it lies, what is no root is not taken for one, and disks are files that can be read
//! and written. QEMU is called directly, with the disk image and another disk in both orders.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::compile::{Variant, c_program, folder};
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome, Suite};
use crate::run::{Finished, Scratch, must, run, tail};

const LIMIT: Duration = Duration::from_secs(240);

/// The suite's parts that every case needs.
struct Disks {
    kernel: PathBuf,
    machine: String,
    cpus: u32,
    scratch: Scratch,
    image: PathBuf,
    data: PathBuf,
}

/// Runs every case on the machines that have PCI.
pub fn suite(options: &Options) -> Result<bool, String> {
    let kernel = options.kernel.clone().ok_or("which kernel? give --kernel FILE or CORACLE_KERNEL")?;
    let program = c_program(&folder().join("guests/blocks.c"), Variant::GlibcStatic)?;
    let mut good = true;
    for place in options.combinations() {
        let Place::Vm { machine, cpus } = &place else { continue };
        if machine == "microvm" {
            continue;
        }
        let mut suite = Suite::new(format!("volumes {place}"));
        let disks = Disks::new(options, &kernel, machine, *cpus, &program)?;
        type Case = (&'static str, fn(&Disks) -> Outcome);
        let cases: [Case; 5] = [
            ("block-devices", Disks::block_devices),
            ("root-comes-second", Disks::root_comes_second),
            ("short-disk", Disks::short_disk),
            ("damaged-table", Disks::damaged_table),
            ("no-root", Disks::no_root),
        ];
        for (name, case) in cases.iter().filter(|(name, _)| name.contains(&options.filter)) {
            suite.case(name, || case(&disks));
        }
        good &= suite.finish();
    }
    Ok(good)
}

impl Disks {
    fn new(options: &Options, kernel: &Path, machine: &str, cpus: u32, program: &Path) -> Result<Self, String> {
        let scratch = Scratch::new("volumes")?;
        let image = scratch.path().join("disk.img");
        let mut build = Command::new(&options.coracle);
        build.args(["build", "-o"]).arg(&image).arg("--kernel").arg(kernel).arg("--").arg(program);
        must(build.args(["vdb", "vda", "vda3", "vda2"]), LIMIT)?;
        let bytes: Vec<u8> = (0..4u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let data = scratch.write("data.img", &bytes)?;
        Ok(Disks { kernel: kernel.to_owned(), machine: machine.to_owned(), cpus, scratch, image, data })
    }

    /// Boots with these disks in order; returns the program's or kernel's exit code, and what was printed.
    fn boot(&self, line: &str, disks: &[&Path]) -> Result<(i32, String), String> {
        let mut c = Command::new("qemu-system-x86_64");
        c.args(["-M", &self.machine, "-accel", "tcg", "-cpu", "max", "-smp", &self.cpus.to_string(), "-m", "128M"]);
        c.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        c.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-append", line, "-kernel"]).arg(&self.kernel);
        for (n, disk) in disks.iter().enumerate() {
            c.arg("-drive").arg(format!("if=none,id=d{n},format=raw,file={}", disk.display()));
            c.arg("-device").arg(format!("virtio-blk-pci,drive=d{n}"));
        }
        let Finished { code, text } = run(&mut c, LIMIT)?;
        Ok((code >> 1, text))
    }

    fn expect(&self, line: &str, disks: &[&Path], code: i32, says: &[&str]) -> Outcome {
        let (got, text) = self.boot(line, disks)?;
        let missing = says.iter().find(|words| !text.contains(**words));
        if got != code || missing.is_some() || text.contains("panic on CPU") {
            return Err(Bad::from(format!("exit code {got}, not {code}, or {missing:?} missing: {}", tail(&text, 12))));
        }
        Ok(())
    }

    fn copy(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Result<PathBuf, String> {
        let mut bytes = std::fs::read(&self.image).map_err(|e| e.to_string())?;
        change(&mut bytes);
        self.scratch.write(name, bytes)
    }

    fn block_devices(&self) -> Outcome {
        self.expect("", &[&self.image, &self.data], 0, &["blocks: all right"])
    }

    /// Data disks that come first: without a table, and with an image's first bytes on a whole disk.
    fn root_comes_second(&self) -> Outcome {
        let seen = "init=/bin/no-such-program log=info";
        self.expect(seen, &[&self.data, &self.image], 127, &["root: vdb3"])?;
        let image = self.scratch.path().join("root.erofs");
        let bytes = std::fs::read(&self.image)?;
        std::fs::write(&image, &bytes[9 << 20..])?;
        self.expect(seen, &[&image, &self.image], 127, &["root: vdb3"])?;
        self.expect("init=/bin/no-such-program log=info root=vda", &[&image, &self.image], 127, &["root: vda"])
    }

    fn short_disk(&self) -> Outcome {
        let cut = self.copy("cut.img", |bytes| bytes.truncate(9 << 20))?;
        self.expect("", &[&cut], 125, &["shorter than it was made", "no root: no disk holds one", "vda2 8192 KiB"])
    }

    fn damaged_table(&self) -> Outcome {
        let damaged = self.copy("damaged.img", |bytes| bytes[512 + 40] ^= 1)?;
        self.expect("init=/x log=info", &[&damaged], 127, &["its backup is", "root: vda3"])?;
        let gone = self.copy("gone.img", |bytes| {
            let end = bytes.len() - 512;
            bytes[512] ^= 1;
            bytes[end] ^= 1;
        })?;
        self.expect("", &[&gone], 125, &["the GPT and its backup are damaged", "no root"])
    }

    fn no_root(&self) -> Outcome {
        self.expect("", &[&self.data], 125, &["no root", "vda 4096 KiB (no EROFS image, no partitions)"])?;
        self.expect("root=vdc1", &[&self.data], 125, &["no root: there is no vdc1"])?;
        self.expect("root=hda", &[&self.data], 125, &["root=hda"])
    }
}
