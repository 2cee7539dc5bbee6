//! Builds the C programs: four variants of each conformance program, and the guests of the other suites.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::run::{must, which};

/// A C library and a way to link it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// glibc, dynamic.
    Glibc,
    /// glibc, static.
    GlibcStatic,
    /// musl, dynamic.
    Musl,
    /// musl, static.
    MuslStatic,
}

/// All of them.
pub const VARIANTS: [Variant; 4] = [Variant::Glibc, Variant::GlibcStatic, Variant::Musl, Variant::MuslStatic];

impl Variant {
    /// A short name, which also ends the file names.
    pub fn name(self) -> &'static str {
        match self {
            Variant::Glibc => "glibc",
            Variant::GlibcStatic => "glibc-static",
            Variant::Musl => "musl",
            Variant::MuslStatic => "musl-static",
        }
    }

    fn compiler(self) -> &'static str {
        match self {
            Variant::Glibc | Variant::GlibcStatic => "gcc",
            Variant::Musl | Variant::MuslStatic => "musl-gcc",
        }
    }

    fn is_static(self) -> bool {
        matches!(self, Variant::GlibcStatic | Variant::MuslStatic)
    }
}

/// The `tests` folder of the source tree.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where built programs go: beside this program, so that a clean build starts afresh.
pub fn output() -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut base = exe.parent().unwrap_or(Path::new("/tmp")).to_path_buf();
    if base.ends_with("deps") {
        base.pop();
    }
    let path = base.join("guests");
    std::fs::create_dir_all(&path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    Ok(path)
}

fn newer(source: &Path, built: &Path) -> bool {
    let time = |p: &Path| p.metadata().and_then(|m| m.modified()).ok();
    match (time(source), time(built)) {
        (Some(s), Some(b)) => s > b,
        _ => true,
    }
}

/// Builds one C file, when it is out of date; gives the program's path.
pub fn c_program(source: &Path, variant: Variant) -> Result<PathBuf, String> {
    let stem = source.file_stem().unwrap_or_default().to_string_lossy();
    let target = output()?.join(format!("{stem}.{}", variant.name()));
    let header = source.with_file_name("conf.h");
    if !newer(source, &target) && (!header.exists() || !newer(&header, &target)) {
        return Ok(target);
    }
    let mut c = Command::new(variant.compiler());
    c.args(["-O1", "-g", "-Wall", "-Wextra", "-Wno-clobbered", "-pthread"]);
    // the compiler sees that these programs do wrong things on purpose
    c.args(["-Wno-stringop-overflow", "-Wno-stringop-overread", "-Wno-array-bounds", "-Wno-unused-value"]);
    if variant.is_static() {
        c.arg("-static");
    }
    if variant.compiler() == "musl-gcc" {
        // musl comes without the kernel's own headers
        c.args(["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"]);
    }
    c.arg("-o").arg(&target).arg(source);
    must(&mut c, Duration::from_secs(120))?;
    Ok(target)
}

/// All conformance programs in these variants, built two at a time, sorted by variant and name.
pub fn conformance(variants: &[Variant]) -> Result<Vec<Program>, String> {
    let mut sources: Vec<PathBuf> = std::fs::read_dir(folder().join("conformance"))
        .map_err(|e| format!("cannot read tests/conformance: {e}"))?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "c") && !p.ends_with("runall.c"))
        .collect();
    sources.sort();
    let mut jobs = Vec::new();
    for &variant in variants {
        for source in &sources {
            jobs.push((source.clone(), variant));
        }
    }
    jobs.reverse();
    let queue = Mutex::new(jobs);
    let done = Mutex::new(Vec::new());
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                while let Some((source, variant)) = queue.lock().ok().and_then(|mut q| q.pop()) {
                    let built = c_program(&source, variant);
                    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    if let Ok(mut d) = done.lock() {
                        d.push(built.map(|path| Program { name, variant, path }));
                    }
                }
            });
        }
    });
    let mut programs = done.into_inner().unwrap_or_default().into_iter().collect::<Result<Vec<_>, _>>()?;
    programs.sort_by(|a, b| (a.variant, &a.name).cmp(&(b.variant, &b.name)));
    Ok(programs)
}

/// A built conformance program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its source's name.
    pub name: String,
    /// How it was built.
    pub variant: Variant,
    /// Where it is.
    pub path: PathBuf,
}

/// The variants that this machine has compilers for.
pub fn variants_here() -> Vec<Variant> {
    VARIANTS.into_iter().filter(|v| which(v.compiler()).is_some()).collect()
}
