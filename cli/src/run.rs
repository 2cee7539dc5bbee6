//! `coracle run`: prepares everything, then hands over to [`crate::vm`].

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::args::{Accel, Net, RootKind, RunArgs};
use crate::cmdline::{self, encode};
use crate::container::{self, Format};
use crate::elf_info::{What, look};
use crate::image::{Plan, Root, USER_NET_DNS, plan_run};
use crate::progress::Progress;
use crate::qemu::{self, Vm};
use crate::{EXIT_OURS, cache, failure, pack, terminal, vm};

const DEFAULT_MEMORY: u64 = 512 << 20;
/// Besides image and kernel, a guest needs this much to start.
const LEAST_BESIDES: u64 = 8 << 20;

/// Runs; returns the exit code.
pub fn run(args: &RunArgs) -> Result<u8> {
    let qemu = qemu::find()?;
    let accel = qemu::choose_accel(args.accel)?;
    qemu::check_ports(&args.publish)?;
    if args.install {
        install_missing(&args.program[0])?;
    }
    let progress = Progress::new("Looking for what the program needs", args.quiet);
    let mut plan = plan_run(args)?;
    let args = &merged(args, &mut plan);
    if plan.config.publish.iter().any(|p| args.publish.contains(p)) {
        qemu::check_ports(&args.publish)?;
    }
    let net = args.net.clone().unwrap_or_default();
    if net != Net::User && !args.publish.is_empty() {
        bail!("-p works with --net user alone; with another network the guest is reached at its own address");
    }
    let (image, format) = match &plan.root {
        Root::Tree(tree) => (cache::image(tree, &cache::folder(), &progress)?, Format::Raw),
        Root::Image(path) => (path.clone(), Format::Raw),
        Root::Disk(path, format, _) => (path.clone(), *format),
    };
    drop(progress);
    let memory = args.memory.map_or(DEFAULT_MEMORY, |m| m.0);
    let root = args.root.unwrap_or_default();
    let firmware = check_firmware(args, &plan)?;
    let own = own_kernel(args, &plan)?;
    let kernel = match &own {
        Some(own) => own.file.path().to_owned(),
        None => find_kernel(args.kernel.as_deref())?,
    };
    check_memory(memory, root, &kernel, &image)?;
    if !args.quiet {
        for note in &plan.notes {
            eprintln!("coracle: {note}");
        }
        if accel == Accel::Tcg && args.accel.is_none() {
            eprintln!(
                "coracle: no hardware virtualization here (kvm_intel or kvm_amd is not loaded): the VM is emulated, which is slower"
            );
        }
    }
    let own_options = own.as_ref().map_or("", |own| &own.command_line);
    let (append, params) = append_line(args, &plan, &net, root, own_options)?;
    let machine = Vm {
        machine: args.machine.unwrap_or_default(),
        memory,
        cpus: args.cpus.unwrap_or(1),
        kernel,
        append,
        window: if format == Format::Ova { Some(container::vmdk_in_ova(&image)?) } else { None },
        image,
        format,
        firmware,
        root,
        params: params.as_ref().map(|p| p.path().to_owned()),
        net,
        nic: args.nic.unwrap_or_default(),
        disk: args.disk.unwrap_or_default(),
        publish: args.publish.clone(),
        accel,
        icount: args.icount,
        extra: args.qemu.clone(),
    };
    machine.check_devices()?;
    let arguments = machine.arguments();
    if args.verbose {
        eprintln!("coracle: {} {}", qemu.display(), shell_words(&arguments));
    }
    vm::boot(&qemu, &arguments, &vm::Settings { tty: args.tty, verbose: args.verbose })
}

/// The options, with those of a `Coracle.toml` where the command line has none.
fn merged(args: &RunArgs, plan: &mut Plan) -> RunArgs {
    let mut all = args.clone();
    let config = &plan.config;
    all.memory = all.memory.or(config.memory);
    all.cpus = all.cpus.or(config.cpus);
    all.machine = all.machine.or(config.machine);
    all.net = all.net.or(config.net.clone());
    all.hostname = all.hostname.or(config.hostname.clone());
    if all.publish.is_empty() {
        all.publish = config.publish.clone();
    }
    if args.tty
        && let Some(term) = std::env::var_os("TERM")
    {
        let mut pair = OsString::from("TERM=");
        pair.push(term);
        if !plan.program.env.iter().any(|e| e.to_string_lossy().starts_with("TERM=")) {
            plan.program.set_env(&pair);
        }
    }
    all
}

/// The kernel's command line, and a file for what does not fit.
fn append_line(
    args: &RunArgs,
    plan: &Plan,
    net: &Net,
    root: RootKind,
    own_options: &str,
) -> Result<(String, Option<tempfile::NamedTempFile>)> {
    let mut options: Vec<String> = own_options.split_ascii_whitespace().map(str::to_owned).collect();
    options.push("framing=on".to_owned());
    options.push(format!("root={}", if root == RootKind::Disk { "disk" } else { "module" }));
    options.push(match (&args.ip, net) {
        (Some(ip), _) => format!("ip={}", encode(ip.as_bytes())),
        (None, Net::User) => format!("ip=10.0.2.15/24,10.0.2.2,{USER_NET_DNS}"),
        (None, Net::Tap(_)) => "ip=dhcp".to_owned(),
        (None, Net::None) => "ip=none".to_owned(),
    });
    options.extend(args.hostname.iter().map(|h| format!("hostname={}", encode(h.as_bytes()))));
    if args.tty {
        let (rows, columns) = terminal::size();
        options.push(format!("tty=on winsize={rows}x{columns}"));
    }
    if args.verbose {
        options.push("log=info".to_owned());
    }
    options.extend(args.append.iter().cloned());
    let program = plan.program.tokens().join(" ");
    let line = format!("{program} {}", options.join(" "));
    if line.len() + qemu::DEVICES_LINE <= cmdline::MAX_LINE {
        return Ok((line, None));
    }
    if root == RootKind::Module {
        bail!(
            "arguments and environment need {} bytes; with --root module they may have {}: leave --root away",
            line.len(),
            cmdline::MAX_LINE - qemu::DEVICES_LINE
        );
    }
    options.push("params=module".to_owned());
    let mut file = tempfile::NamedTempFile::new().context("cannot write a temporary file")?;
    file.write_all(program.as_bytes())?;
    file.flush()?;
    Ok((options.join(" "), Some(file)))
}

/// A kernel that was taken out of a disk image.
struct OwnKernel {
    file: tempfile::NamedTempFile,
    command_line: String,
}

/// A disk image is booted with its own kernel and options, unless another kernel was asked for.
fn own_kernel(args: &RunArgs, plan: &Plan) -> Result<Option<OwnKernel>> {
    let Root::Disk(path, _, inside) = &plan.root else { return Ok(None) };
    if args.root == Some(RootKind::Module) {
        bail!("--root module wants a root file system alone: coracle convert {} NAME.erofs", path.display());
    }
    if args.kernel.is_some() {
        return Ok(None);
    }
    let broken = || format!("the image {} cannot be booted (or give --kernel FILE)", path.display());
    let kernel = inside.kernel().with_context(broken)?;
    let command_line = inside.command_line().with_context(broken)?;
    let mut file = tempfile::NamedTempFile::new().context("cannot write a temporary file")?;
    let machine = container::Machine { name: String::new(), memory: 0, cpus: 0 };
    container::write(Format::Raw, &kernel, &machine, file.as_file_mut(), &mut |_| {})?;
    Ok(Some(OwnKernel { file, command_line }))
}

/// With firmware the disk boots as it is: what the command line would carry cannot be given.
fn check_firmware(args: &RunArgs, plan: &Plan) -> Result<Option<qemu::Boot>> {
    let Some(firmware) = args.firmware else { return Ok(None) };
    if !matches!(plan.root, Root::Disk(..)) {
        bail!("--firmware boots disk images; make one with: coracle build -o NAME.img");
    }
    if args.machine == Some(crate::args::Machine::Microvm) {
        bail!("a microvm has no firmware that boots disks; leave --machine or --firmware away");
    }
    let fixed = args.program.len() > 1
        || !args.env.is_empty()
        || !args.append.is_empty()
        || args.tty
        || args.kernel.is_some()
        || args.workdir.is_some()
        || args.hostname.is_some()
        || args.ip.is_some();
    if fixed {
        bail!(
            "with --firmware the image boots as it was built: arguments, -e, -w, -t, --ip, --hostname, --kernel and --append cannot be given; build the image with them"
        );
    }
    qemu::firmware(firmware).map(Some)
}

fn check_memory(memory: u64, root: RootKind, kernel: &Path, image: &Path) -> Result<()> {
    let size = |p: &Path| std::fs::metadata(p).map_or(0, |m| m.len());
    let module = if root == RootKind::Module { size(image) } else { 0 };
    // Of the kernel's file at most this much is loaded: the rest may be symbols.
    let need = size(kernel).min(4 << 20) + module + LEAST_BESIDES;
    if memory < need && module == 0 {
        bail!("{} MiB are too little memory for the kernel; give -m 16M or more", memory >> 20);
    }
    if memory < need {
        bail!(
            "{} MiB are too little memory: the root image of {} MiB must fit in with the kernel; give -m {}M or leave --root module away",
            memory >> 20,
            module.div_ceil(1 << 20),
            need.div_ceil(1 << 20) + 16
        );
    }
    Ok(())
}

/// The kernel: as told, or beside this command, or in the workspace that this command was built in.
pub fn find_kernel(given: Option<&Path>) -> Result<PathBuf> {
    let told = given.map(Path::to_owned).or_else(|| std::env::var_os("CORACLE_KERNEL").map(PathBuf::from));
    let path = match told {
        Some(path) if path.is_file() => path,
        Some(path) => {
            let message = format!("there is no kernel at {}; check --kernel and $CORACLE_KERNEL", path.display());
            return Err(failure(EXIT_OURS, message));
        }
        None => {
            let exe = std::env::current_exe()?;
            let beside = exe.parent().unwrap_or(Path::new("/"));
            let profile = |p: &str| beside.join("../x86_64-unknown-none").join(p).join("kernel");
            [beside.join("coracle-kernel"), profile("release"), profile("ship")]
                .into_iter()
                .find(|p| p.is_file())
                .ok_or_else(|| {
                    failure(EXIT_OURS, "no kernel was found; build one with: ./x build (or give --kernel FILE)")
                })?
        }
    };
    match look(&path)? {
        What::Elf(_) => Ok(path),
        What::Script(..) => Err(failure(EXIT_OURS, format!("{} is not a kernel: it is a script", path.display()))),
        What::Other(what) => Err(failure(EXIT_OURS, format!("{} is not a kernel: it is {what}", path.display()))),
    }
}

/// For `./x run`: a program that is not there, but is a Debian package's name, is installed. Its services do not start.
fn install_missing(name: &OsString) -> Result<()> {
    let cwd = std::env::current_dir()?;
    let is_name = name.to_str().is_some_and(|n| {
        n.starts_with(|c: char| c.is_ascii_lowercase())
            && n.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b))
    });
    if !is_name || cwd.join(name).exists() || pack::find_program(name, &cwd).is_ok() {
        return Ok(());
    }
    let shown = name.display();
    let known = || {
        Command::new("apt-cache")
            .arg("show")
            .arg(name)
            .output()
            .is_ok_and(|o| o.status.success() && !o.stdout.is_empty())
    };
    if !Path::new("/usr/bin/apt-get").exists() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        return Err(failure(
            crate::EXIT_NOT_FOUND,
            format!(
                "no such program: {shown}; if Debian has it, run: sudo apt-get install --no-install-recommends {shown}"
            ),
        ));
    }
    if !known() {
        Command::new("apt-get").arg("update").output().context("cannot run apt-get update")?;
        if !known() {
            return Ok(());
        }
    }
    eprintln!("coracle: {shown} is not on this machine: installing the Debian package of that name");
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let made = !policy.exists() && std::fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok();
    if made {
        std::fs::set_permissions(policy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let outcome = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends"])
        .arg(name)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(std::process::Stdio::null())
        .output();
    if made {
        std::fs::remove_file(policy)?;
    }
    let outcome = outcome.context("cannot run apt-get install")?;
    if !outcome.status.success() {
        let text = String::from_utf8_lossy(&outcome.stderr).into_owned();
        let last = text.lines().rev().find(|l| l.starts_with("E:")).unwrap_or("apt-get failed");
        return Err(failure(crate::EXIT_NOT_FOUND, format!("could not install {shown}: {last}")));
    }
    Ok(())
}

/// As a shell would take it, for people who copy it.
fn shell_words(arguments: &[OsString]) -> String {
    let word = |a: &OsString| {
        let text = a.to_string_lossy();
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:,@+=%".contains(&b)) {
            text.into_owned()
        } else {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
    };
    arguments.iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmdline::Program;
    use crate::config::Config;
    use crate::tree::Tree;

    fn plan_with(arg: &str) -> Plan {
        let program = Program { init: "/x".into(), args: vec!["x".into(), arg.into()], env: vec![], cwd: "/".into() };
        Plan { root: Root::Tree(Tree::default()), program, notes: vec![], config: Config::default() }
    }

    #[test]
    fn what_does_not_fit_goes_to_a_module() {
        let args = RunArgs::default();
        let (line, file) = append_line(&args, &plan_with("a b"), &Net::User, RootKind::Disk, "").unwrap();
        assert!(
            line.starts_with("init=/x arg=x arg=a%20b cwd=/ framing=on root=disk ip=10.0.2.15/24,10.0.2.2,10.0.2.3"),
            "{line}"
        );
        assert!(file.is_none());
        let long = "y".repeat(5000);
        let (line, file) = append_line(&args, &plan_with(&long), &Net::None, RootKind::Disk, "").unwrap();
        assert!(line.contains("params=module") && !line.contains("init="), "{line}");
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        assert_eq!(Program::parse(&text).unwrap().args[1], OsString::from(long.clone()));
        let e = append_line(&args, &plan_with(&long), &Net::None, RootKind::Module, "").unwrap_err();
        assert!(e.to_string().contains("leave --root away"), "{e}");
    }

    #[test]
    fn a_module_must_fit_into_memory() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(64 << 20).unwrap();
        let kernel = tempfile::NamedTempFile::new().unwrap();
        let check = |m: u64, root| check_memory(m << 20, root, kernel.path(), image.path());
        assert!(check(64, RootKind::Module).unwrap_err().to_string().contains("too little memory"));
        check(128, RootKind::Module).unwrap();
        check(16, RootKind::Disk).unwrap();
    }

    #[test]
    fn shell_words_can_be_copied() {
        assert_eq!(shell_words(&["-a".into(), "b c".into(), "d'e".into(), "".into()]), "-a 'b c' 'd'\\''e' ''");
    }
}
