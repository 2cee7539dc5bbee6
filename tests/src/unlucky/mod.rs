//! Hostile and unlucky platforms: no interface or two, a hypervisor that nobody knows or that lies about its name, clocks that
//! are missing, a disk that fails or goes away, the power button under load. Each ends in a clear message or in
//! carrying on. What devices and backends can do to rings is for the drivers' own tests.

mod live;
mod qmp;

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::compile::{Variant, c_program, folder};
use crate::options::{Options, Place};
use crate::report::{Bad, Outcome, Suite};
use crate::run::{Finished, Scratch, must, run, tail};

const LIMIT: Duration = Duration::from_secs(120);
/// Length of the file that the disks' tests read.
const FILE: usize = 1 << 20;

/// The suite's parts that every case needs.
struct Rig {
    options: Options,
    kernel: PathBuf,
    machine: String,
    cpus: u32,
    place: Place,
    scratch: Scratch,
    program: PathBuf,
    /// A root whose command line starts the program; what is added with `arg=` are its arguments.
    image: PathBuf,
    /// The file's bytes.
    data: Vec<u8>,
}

type Case = (&'static str, fn(&Rig) -> Outcome);

/// On every machine.
const ANYWHERE: &[Case] = &[
    ("no-interface", Rig::no_interface),
    ("two-interfaces", Rig::two_interfaces),
    ("missing-clock", Rig::missing_clock),
    ("bad-sector", Rig::bad_sector),
];
/// The second one where the button is a PC's.
const BUTTON: &[Case] = &[("power-button", live::power_button), ("button-under-load", live::button_under_load)];
/// The same whatever the number of CPUs.
const ONCE: &[Case] = &[("unknown-hypervisor", Rig::unknown_hypervisor)];

/// Runs every case on every machine, and on `pc` what differs there.
pub fn suite(options: &Options) -> Result<bool, String> {
    let mut good = true;
    for place in options.combinations() {
        let Place::Vm { machine, cpus } = &place else { continue };
        let mut cases = ANYWHERE.to_vec();
        cases.extend(if machine == "microvm" { &BUTTON[..1] } else { BUTTON });
        if *cpus == 1 {
            cases.extend(if machine == "microvm" { &[] } else { ONCE });
            cases.extend(live::disks_gone(machine));
        }
        good &= cases_at(options, &place, &cases)?;
    }
    if !options.machines.iter().any(|m| m == "pc") && !options.host {
        for &cpus in &options.cpus {
            let mut cases = BUTTON.to_vec();
            cases.extend(ANYWHERE.iter().filter(|(name, _)| *name == "missing-clock"));
            good &= cases_at(options, &Place::Vm { machine: "pc".into(), cpus }, &cases)?;
        }
    }
    Ok(good)
}

fn cases_at(options: &Options, place: &Place, cases: &[Case]) -> Result<bool, String> {
    let wanted: Vec<_> = cases.iter().filter(|(name, _)| name.contains(&options.filter)).collect();
    if wanted.is_empty() {
        return Ok(true);
    }
    let rig = Rig::new(options, place)?;
    let mut suite = Suite::new(format!("unlucky {place}"));
    for (name, case) in wanted {
        suite.case(name, || case(&rig));
    }
    Ok(suite.finish())
}

/// A QEMU that differs from the usual one.
#[derive(Clone, Copy, Debug)]
struct Odd<'a> {
    /// More of `-machine`, with a comma before each.
    machine: &'a str,
    cpu: &'a str,
    args: &'a [&'a str],
}

const USUAL: Odd = Odd { machine: "", cpu: "max", args: &[] };

impl Rig {
    fn new(options: &Options, place: &Place) -> Result<Self, String> {
        let kernel = options.kernel.clone().ok_or("which kernel? give --kernel FILE or CORACLE_KERNEL")?;
        let Place::Vm { machine, cpus } = place else { return Err("only in a VM".into()) };
        let scratch = Scratch::new("unlucky")?;
        let program = c_program(&folder().join("guests/unlucky.c"), Variant::GlibcStatic)?;
        let data: Vec<u8> = (0..FILE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        std::fs::create_dir(scratch.path().join("data")).map_err(|e| e.to_string())?;
        scratch.write("data/file", &data)?;
        let image = scratch.path().join("root.erofs");
        let mut build = Command::new(&options.coracle);
        build
            .args(["build", "-o"])
            .arg(&image)
            .arg("-v")
            .arg(format!("{}:/data", scratch.path().join("data").display()));
        must(build.arg("--").arg(&program), LIMIT)?;
        let (machine, cpus, place) = (machine.clone(), *cpus, place.clone());
        Ok(Rig { options: options.clone(), kernel, machine, cpus, place, scratch, program, image, data })
    }

    fn is_microvm(&self) -> bool {
        self.machine == "microvm"
    }

    /// Boots with these virtio devices after the root's; returns the exit code, and what was printed.
    fn boot(&self, odd: Odd, line: &str, devices: &[&str]) -> Result<(i32, String), String> {
        let root = format!("if=none,id=root,format=raw,readonly=on,file={}", self.image.display());
        self.boot_from(&root, odd, line, devices)
    }

    fn boot_from(&self, root: &str, odd: Odd, line: &str, devices: &[&str]) -> Result<(i32, String), String> {
        let mut c = Command::new("qemu-system-x86_64");
        let mut line = line.to_owned();
        // QEMU tells the kernel of its devices only when it makes no tables.
        let tells = odd.machine.contains("acpi=off");
        let fixed = match self.is_microvm() {
            true if tells => ",isa-serial=on",
            true => ",isa-serial=on,rtc=on,ioapic2=on",
            false => "",
        };
        c.arg("-M").arg(format!("{}{fixed}{}", self.machine, odd.machine));
        c.args(["-accel", "tcg", "-cpu", odd.cpu, "-smp", &self.cpus.to_string(), "-m", "128M"]);
        c.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        c.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]).args(odd.args).arg("-drive").arg(root);
        for (n, device) in ["virtio-blk*,drive=root"].iter().chain(devices).enumerate() {
            let device = match device.split_once('*') {
                Some((name, rest)) if self.is_microvm() => format!("{name}-device,bus=virtio-mmio-bus.{}{rest}", n + 1),
                Some((name, rest)) => format!("{name}-pci{rest}"),
                None => (*device).to_owned(),
            };
            c.arg("-device").arg(device);
        }
        if self.is_microvm() {
            c.args(["-global", "virtio-mmio.force-legacy=false"]);
            if !tells {
                for slot in 1..=devices.len() + 1 {
                    line += &format!(" virtio_mmio.device=512@{:#x}:{}", 0xfeb0_0000 + 512 * slot, 24 + slot);
                }
            }
        }
        let Finished { code, text } = run(c.args(["-append", &line, "-kernel"]).arg(&self.kernel), LIMIT)?;
        if self.options.verbose {
            println!("{c:?}\n{text}");
        }
        Ok((code >> 1, text))
    }

    fn expect(&self, odd: Odd, line: &str, devices: &[&str], code: i32, says: &[&str]) -> Outcome {
        let got = self.boot(odd, line, devices).map_err(|why| format!("{odd:?}: {why}"))?;
        judge(got, code, says).map_err(|why| match why {
            Bad::Failed(why) => Bad::Failed(format!("{odd:?}: {why}")),
            other => other,
        })
    }

    fn no_interface(&self) -> Outcome {
        let fine = "alone: all right";
        self.expect(USUAL, "arg=alone", &[], 0, &[fine])?;
        let told = "ip=10.0.2.15/24: there is no network interface";
        self.expect(USUAL, "arg=alone ip=10.0.2.15/24", &[], 0, &[fine, told])
    }

    /// Both work, and the second one is no harm: the first has the address of the command line, the second DHCP's.
    fn two_interfaces(&self) -> Outcome {
        let port = server()?;
        let line = format!("ip=10.0.2.15/24,10.0.2.2 arg=nics arg={port} arg=10.0.2.2");
        let says = ["2 interfaces", "interface eth0 has 10.0.2.15", "nics: all right"];
        let apart = ["-netdev", "user,id=n0", "-netdev", "user,id=n1,net=10.0.3.0/24"];
        let (first, second) = ("virtio-net*,netdev=n0", "virtio-net*,netdev=n1");
        let apart = Odd { args: &apart, ..USUAL };
        let all = [says[0], says[1], says[2], "interface eth1 has 10.0.3.15"];
        let both = format!("{line} arg=10.0.3.2");
        self.expect(apart, &both, &[first, second], 0, &all)?;
        if !self.is_microvm() {
            self.expect(apart, &both, &[first, "e1000,netdev=n1"], 0, &all)?;
        }
        // Two networks that call themselves the same, and the second gives out the first one's address.
        let same = Odd { args: &["-netdev", "user,id=n0", "-netdev", "user,id=n1"], ..USUAL };
        self.expect(same, &line, &[first, second], 0, &says)?;
        // Nobody is at the second one.
        let silent = Odd { args: &["-netdev", "user,id=n0", "-netdev", "hubport,id=n1,hubid=1"], ..USUAL };
        self.expect(silent, &line, &[first, second], 0, &says)
    }

    /// No signature, none but the CPU's, names of nobody; names that lie lead to that hypervisor's platform, which finds
    /// what it needs or does without.
    fn unknown_hypervisor(&self) -> Outcome {
        let nobody = "manufacturer=Nobody,product=Nothing,serial=0";
        let smbios = |text: &str| format!("type=1,{text}");
        let plain = "pc: clock tsc";
        let cpu = |cpu| Odd { cpu, ..USUAL };
        let none = smbios(nobody);
        let vmware = smbios("manufacturer=VMware,, Inc.,product=VMware Virtual Platform,serial=VMware-56 4d 00 00");
        let virtualbox = smbios("manufacturer=innotek GmbH,product=VirtualBox,serial=0");
        let cases = [
            (cpu("max"), "", plain),
            (cpu("max,tcg-cpuid=off"), "", plain),
            (cpu("max,-hypervisor"), "", plain),
            (cpu("max,tcg-cpuid=off"), &*none, plain),
            // The name, but nobody at the backdoor.
            (Odd { machine: ",vmport=off", ..USUAL }, &*vmware, plain),
            (USUAL, &*virtualbox, "virtualbox: clock tsc"),
        ];
        for (odd, names, says) in cases {
            let args = ["-smbios", names];
            let odd = Odd { args: if names.is_empty() { &[] } else { &args }, ..odd };
            self.expect(odd, "log=info arg=clock", &[], 0, &[says, "clock: all right"])?;
        }
        Ok(())
    }

    /// Without one clock the next best serves; without any the kernel says so and goes on.
    fn missing_clock(&self) -> Outcome {
        let odd = |machine, cpu| Odd { machine, cpu, ..USUAL };
        let none = "no working time reference";
        let cases: &[(Odd, &str)] = match &*self.machine {
            "q35" => &[
                (odd(",hpet=off", "max"), "measured by the ACPI timer"),
                (odd(",hpet=off", "qemu64"), "events by apic-counter"),
                // The firmware's own tables, of ACPI 1.0.
                (odd(",acpi=off", "max"), "measured by HPET"),
            ],
            "pc" => &[
                (odd(",acpi=off,hpet=off", "max"), "measured by the PIT"),
                (odd(",acpi=off,hpet=off,pit=off", "max"), none),
            ],
            _ => &[
                (odd(",acpi=off,rtc=off", "max"), "the CMOS clock makes no sense"),
                (odd(",acpi=off,pit=off,rtc=off", "max"), none),
            ],
        };
        for &(odd, says) in cases {
            self.expect(odd, "log=info arg=clock", &[], 0, &[says, "clock: all right"])?;
        }
        Ok(())
    }

    /// A sector of a file on the root cannot be read: its page gives EIO, the pages around it do not.
    fn bad_sector(&self) -> Outcome {
        let image = std::fs::read(&self.image)?;
        let at = image.chunks(4096).position(|page| page == &self.data[..4096]).ok_or("the image lacks the file")?;
        let bad = 100;
        let root = format!(
            "if=none,id=root,driver=raw,read-only=on,file.driver=blkdebug,file.inject-error.0.event=read_aio,\
             file.inject-error.0.errno=5,file.inject-error.0.sector={},file.image.driver=file,file.image.filename={}",
            (at + bad) * 8,
            self.image.display()
        );
        let line = format!("arg=disk arg=/data/file arg={bad}");
        judge(self.boot_from(&root, USUAL, &line, &[])?, 0, &["disk: all right"])
    }
}

fn judge((got, text): (i32, String), code: i32, says: &[&str]) -> Outcome {
    let missing = says.iter().find(|words| !text.contains(**words));
    if got != code || missing.is_some() || text.contains("panic on CPU") {
        return Err(Bad::from(format!("exit code {got}, not {code}, or {missing:?} missing: {}", tail(&text, 15))));
    }
    Ok(())
}

/// Says hello to everybody who connects, as long as this program runs; returns its port.
fn server() -> Result<u16, Bad> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.write_all(b"hello");
        }
    });
    Ok(port)
}
