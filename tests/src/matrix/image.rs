//! The one image: Redis, the web server and a large file; and the kernel that is in an image, for hypervisors that load it themselves.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use boot_layout::{BOOT_LBA, BootBlock, SECTOR};

use crate::compile::{folder, output};
use crate::options::Options;
use crate::pattern::{self, Pattern};
use crate::run::{must, which};

/// The image and what was taken out of it.
pub struct Image {
    /// The disk.
    pub file: PathBuf,
    /// Its SHA-256.
    pub sha256: String,
    /// The kernel in it, as a file of its own.
    pub kernel: PathBuf,
    /// The command line in it.
    pub line: String,
    coracle: PathBuf,
}

/// Builds it afresh: the same inputs give the same bytes.
pub fn build(options: &Options) -> Result<Image, String> {
    let at = output()?.join("matrix");
    std::fs::create_dir_all(&at).map_err(|e| format!("cannot make {}: {e}", at.display()))?;
    let server = web_server(&at)?;
    let data = at.join("data");
    large_file(&data)?;
    let script = folder().join("guests/matrix.sh");
    let with = [
        (server, "/matrix/http"),
        (data, "/matrix/data"),
        (script, "/matrix/init.sh"),
        (need("redis-server")?, "/usr/bin/redis-server"),
    ];
    let with: Vec<String> = with.iter().map(|(from, to)| format!("{}:{to}", from.display())).collect();
    make(options, "matrix", &with, &[&need("busybox")?.to_string_lossy(), "sh", "/matrix/init.sh"])
}

/// A program that goes into an image.
pub fn need(name: &str) -> Result<PathBuf, String> {
    which(name).ok_or_else(|| format!("{name} is not installed"))
}

/// Builds an image of this command line and these additions, and takes out what is needed.
pub fn make(options: &Options, name: &str, with: &[String], program: &[&str]) -> Result<Image, String> {
    let at = output()?.join("matrix");
    std::fs::create_dir_all(&at).map_err(|e| format!("cannot make {}: {e}", at.display()))?;
    let (file, fresh) = (at.join(format!("{name}.img")), at.join(format!("{name}.{}.img", std::process::id())));
    let mut c = Command::new(&options.coracle);
    c.args(["build", "--format", "raw", "-o"]).arg(&fresh).args(["--timestamp", "0"]);
    for what in with {
        c.arg("--with").arg(what);
    }
    c.arg("--").args(program);
    c.env("CORACLE_KERNEL", options.kernel.as_ref().ok_or("which kernel? CORACLE_KERNEL names it")?);
    must(&mut c, Duration::from_secs(300))?;
    let sha256 = sha256(&fresh)?;
    // machines of another run may have it open
    std::fs::rename(&fresh, &file).map_err(|e| format!("cannot rename {}: {e}", fresh.display()))?;
    let (bytes, line) = inside(&file).map_err(|why| format!("{}: {why}", file.display()))?;
    let kernel = at.join(format!("{name}.kernel"));
    std::fs::write(&kernel, bytes).map_err(|e| format!("cannot write {}: {e}", kernel.display()))?;
    Ok(Image { file, sha256, kernel, line, coracle: options.coracle.clone() })
}

/// Kernel and command line, as the boot block tells where they are.
fn inside(disk: &Path) -> Result<(Vec<u8>, String), String> {
    let mut file = File::open(disk).map_err(|e| e.to_string())?;
    let mut read = |lba: u64, count: u64| {
        let mut bytes = vec![0; usize::try_from(count).map_err(|e| e.to_string())?];
        file.seek(SeekFrom::Start(lba * SECTOR as u64))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|e| e.to_string())?;
        Ok::<_, String>(bytes)
    };
    let block = read(BOOT_LBA, SECTOR as u64)?;
    let block = block.as_slice().try_into().map_err(|_| "no boot block")?;
    let block = BootBlock::decode(block).map_err(|refused| refused.0)?;
    let kernel = read(block.kernel_lba, block.kernel_len)?;
    let line = read(block.command_line_lba, u64::from(block.command_line_len))?;
    if boot_layout::crc32(&kernel) != block.kernel_crc {
        return Err("the kernel in it has another sum than the boot block says".into());
    }
    Ok((kernel, String::from_utf8_lossy(&line).split_whitespace().collect::<Vec<_>>().join(" ")))
}

/// The web server, static: it needs nothing in the image.
fn web_server(at: &Path) -> Result<PathBuf, String> {
    let (source, shared) = (folder().join("guests/matrix.rs"), folder().join("src/pattern.rs"));
    let server = at.join("http");
    let time = |p: &Path| p.metadata().and_then(|m| m.modified()).ok();
    if time(&server) > time(&source) && time(&server) > time(&shared) {
        return Ok(server);
    }
    let mut build = Command::new(which("rustc").ok_or("rustc is not installed")?);
    build
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "strip=symbols", "-o"])
        .arg(&server)
        .arg(source);
    must(&mut build, Duration::from_secs(300))?;
    Ok(server)
}

fn large_file(path: &Path) -> Result<(), String> {
    let mut bytes = Vec::new();
    let _: Result<(), ()> = Pattern::new(pattern::DATA).each(pattern::DATA_BYTES, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    std::fs::write(path, bytes).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn sha256(file: &Path) -> Result<String, String> {
    let sums = must(Command::new("sha256sum").arg(file), Duration::from_secs(60))?;
    Ok(sums.split_whitespace().next().unwrap_or_default().to_owned())
}

impl Image {
    /// The same bytes in VirtualBox' container.
    pub fn vdi(&self) -> Result<PathBuf, String> {
        let vdi = self.file.with_extension("vdi");
        let mut c = Command::new(&self.coracle);
        must(c.arg("convert").arg(&self.file).arg(&vdi), Duration::from_secs(120))?;
        Ok(vdi)
    }

    /// No cell may have changed the image.
    pub fn unchanged(&self) -> Result<(), String> {
        if sha256(&self.file)? == self.sha256 { Ok(()) } else { Err("the image's bytes have changed".into()) }
    }
}
