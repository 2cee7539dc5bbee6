//! `coracle inspect`: what an image file holds, layer by layer.

use std::io::{StdoutLock, Write};

use anyhow::{Context, Result};
use fs::partition::{BIOS_BOOT, EFI_SYSTEM, Kind, ROOT_X86_64, Scheme};
use sha2::{Digest, Sha256};

use crate::args::InspectArgs;
use crate::cmdline;
use crate::container::{self, Disk, Format};
use crate::disk::Inside;
use crate::erofs;

/// Lines for the user. One who has seen enough closes the pipe: nothing more is printed then.
struct Lines {
    out: StdoutLock<'static>,
    closed: bool,
}

impl Lines {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.closed |= writeln!(self.out, "{text}").is_err();
    }
}

/// Prints what is in the image.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let path = &args.image;
    let shown = path.display();
    let (format, disk) = container::open(path)?;
    let mut out = Lines { out: std::io::stdout().lock(), closed: false };
    let unusable = || format!("the image {shown} cannot be used");
    let inside = Inside::of(disk.clone()).with_context(unusable)?;
    if matches!(format, Format::Raw | Format::Erofs) && !inside.has_table() {
        let image = erofs::Image::new(disk, path)?;
        return root(&mut out, &image, args, &format!("{shown}: EROFS"));
    }
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    out.line(format_args!("{shown}: {}, {bytes} bytes, a disk of {} bytes", format.name(), disk.size()));
    divisions(&mut out, &inside);
    boot(&mut out, &inside);
    let image = inside.image(path).with_context(unusable)?;
    root(&mut out, &image, args, "root: EROFS")
}

fn divisions(out: &mut Lines, inside: &Inside) {
    let table = &inside.table;
    match table.scheme {
        Scheme::None => out.line(format_args!("partitions: none")),
        Scheme::Mbr => out.line(format_args!("partitions: MBR")),
        Scheme::Gpt => out.line(format_args!("partitions: GPT {}", table.disk)),
        Scheme::GptBackup => out.line(format_args!("partitions: the backup of a damaged GPT {}", table.disk)),
    }
    for p in &table.partitions {
        let kind = match p.kind {
            Kind::Gpt(BIOS_BOOT) => "BIOS boot".to_owned(),
            Kind::Gpt(EFI_SYSTEM) => "EFI system".to_owned(),
            Kind::Gpt(ROOT_X86_64) => "Linux root (x86-64)".to_owned(),
            Kind::Gpt(guid) => guid.to_string(),
            Kind::Mbr(kind) => format!("type {kind:#04x}"),
        };
        let (start, end) = (p.start / 512, (p.start + p.len) / 512 - 1);
        out.line(format_args!("  {}: sectors {start} to {end}, {kind}, {:?}, {}", p.number, p.name, p.id));
    }
    for remark in &table.remarks {
        out.line(format_args!("  {remark}"));
    }
}

fn boot(out: &mut Lines, inside: &Inside) {
    match &inside.block {
        Ok(b) => out.line(format_args!(
            "boot block: stage 2 at sector {} ({} sectors), kernel at {}, command line at {}",
            b.stage2_lba, b.stage2_sectors, b.kernel_lba, b.command_line_lba
        )),
        Err(e) => out.line(format_args!("boot block: {e:#}")),
    }
    if inside.block.is_err() {
        return;
    }
    match inside.kernel().and_then(|kernel| look(&kernel)) {
        Ok((sum, version)) => {
            let size = inside.block.as_ref().map_or(0, |b| b.kernel_len);
            out.line(format_args!("kernel: {version}, {size} bytes, SHA-256 {sum}"));
        }
        Err(e) => out.line(format_args!("kernel: {e:#}")),
    }
    match inside.command_line() {
        Ok(line) => out.line(format_args!("command line: {line:?}")),
        Err(e) => out.line(format_args!("command line: {e:#}")),
    }
}

/// A kernel's checksum, and its version as its `uname` tells it.
fn look(kernel: &dyn Disk) -> Result<(String, String)> {
    const BEFORE: &[u8] = b"#1 SMP Coracle ";
    let mut bytes = vec![0; kernel.size() as usize];
    kernel.read_at(0, &mut bytes)?;
    let sum = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
    let version = bytes.windows(BEFORE.len()).position(|w| w == BEFORE).map(|at| {
        let rest = &bytes[at + BEFORE.len()..];
        let end = rest.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(0);
        String::from_utf8_lossy(&rest[..end.min(20)]).into_owned()
    });
    Ok((sum, version.map_or("of no known version".into(), |v| format!("Coracle {v}"))))
}

fn root(out: &mut Lines, image: &erofs::Image, args: &InspectArgs, title: &str) -> Result<()> {
    let info = image.info();
    out.line(format_args!("{title}, {} bytes, {} inodes", info.bytes, info.inodes));
    if let Some(text) = image.read(cmdline::IMAGE_FILE)? {
        let program = cmdline::Program::parse(&String::from_utf8_lossy(&text))?;
        out.line(format_args!("program: {}", program.init.display()));
        let words: Vec<_> = program.args.iter().map(|a| format!("{:?}", a.to_string_lossy())).collect();
        out.line(format_args!("arguments: {}", words.join(" ")));
        for pair in &program.env {
            out.line(format_args!("environment: {}", pair.display()));
        }
        out.line(format_args!("working folder: {}", program.cwd.display()));
    } else {
        out.line(format_args!("program: none (a root file system only)"));
    }
    if args.list {
        for entry in image.list()? {
            let (uid, gid) = entry.owner;
            let path = entry.path.display();
            out.line(format_args!("{:06o} {uid:>5} {gid:>5} {:>10} {path}", entry.mode, entry.size));
            if out.closed {
                break;
            }
        }
    }
    Ok(())
}
