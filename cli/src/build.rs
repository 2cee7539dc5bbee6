//! `coracle build` and `coracle convert`: image files in every format.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::args::{BuildArgs, ConvertArgs};
use crate::cache;
use crate::container::{self, Disk, Format, Machine, RawFile};
use crate::disk::{self, Boot, Inside};
use crate::erofs;
use crate::image;
use crate::progress::Progress;
use crate::run::find_kernel;

const DEFAULT_MEMORY: u64 = 512 << 20;

/// Packs a program and writes the image file.
pub fn build(args: &BuildArgs) -> Result<()> {
    let by_name = args.output.as_deref().and_then(Format::of_name);
    let format = args.format.or(by_name).unwrap_or(Format::Raw);
    // What is missing is told before anything is packed.
    let boot = match format {
        Format::Erofs => None,
        _ => Some(Boot::find(&find_kernel(args.kernel.as_deref())?)?),
    };
    let progress = Progress::new("Looking for what the program needs", false);
    let (tree, plan) = image::plan_build(args)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let name = Path::new(&plan.program.init).file_name().unwrap_or_default();
        let mut name = name.to_owned();
        name.push(if format == Format::Raw { ".img" } else { "." });
        if format != Format::Raw {
            name.push(format.name());
        }
        name.into()
    });
    check_output(&output)?;
    let latest = args.timestamp.or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok());
    let options = erofs::Options { latest, ..Default::default() };
    match boot {
        None => cache::write(&tree, &output, &options, &progress)?,
        Some(boot) => {
            let mut root = tempfile::tempfile_in(folder(&output))
                .with_context(|| format!("cannot write in {}", folder(&output).display()))?;
            progress.bytes(tree.totals().1, "Packing");
            erofs::write(&tree, &options, &mut root, &mut |n| progress.add(n))
                .with_context(|| format!("cannot write the image {}", output.display()))?;
            let disk = disk::assemble(&boot, &args.append.join(" "), Arc::new(RawFile::new(root)?))?;
            let machine = Machine {
                name: name_of(&output),
                memory: plan.config.memory.map_or(DEFAULT_MEMORY, |m| m.0),
                cpus: plan.config.cpus.unwrap_or(1),
            };
            write(format, &disk, &machine, &output, &progress)?;
        }
    }
    drop(progress);
    for note in &plan.notes {
        eprintln!("coracle: {note}");
    }
    let (files, _) = tree.totals();
    let size = std::fs::metadata(&output)?.len();
    println!(
        "{}: {}, {files} files, {:.1} MB; boot it with: coracle run {}",
        output.display(),
        format.name(),
        size as f64 / 1e6,
        output.display()
    );
    Ok(())
}

/// Writes a disk's file in another format.
pub fn convert(args: &ConvertArgs) -> Result<()> {
    let format = args.format.or_else(|| Format::of_name(&args.output)).with_context(|| {
        format!(
            "{} does not tell a format by its suffix; give --format raw, qcow2, vmdk, ova, vdi, vhd or erofs",
            args.output.display()
        )
    })?;
    let same =
        |a: &Path, b: &Path| std::fs::canonicalize(a).ok().is_some_and(|a| std::fs::canonicalize(b).ok() == Some(a));
    if same(&args.input, &args.output) {
        bail!("{} cannot be converted onto itself; name another output", args.input.display());
    }
    check_output(&args.output)?;
    let (from, disk) = container::open(&args.input)?;
    let disk: Arc<dyn Disk> = match (from, format) {
        (Format::Erofs, Format::Erofs) => disk,
        (Format::Erofs, _) => {
            erofs::Image::new(disk.clone(), &args.input)?;
            let boot = Boot::find(&find_kernel(args.kernel.as_deref())?)?;
            Arc::new(disk::assemble(&boot, "", disk)?)
        }
        (_, Format::Erofs) => {
            let unusable = || format!("the image {} cannot be used", args.input.display());
            let inside = Inside::of(disk).with_context(unusable)?;
            Arc::new(inside.root().with_context(unusable)?)
        }
        _ => disk,
    };
    let machine = Machine {
        name: name_of(&args.output),
        memory: args.memory.map_or(DEFAULT_MEMORY, |m| m.0),
        cpus: args.cpus.unwrap_or(1),
    };
    let progress = Progress::new("Converting", false);
    write(format, &*disk, &machine, &args.output, &progress)
        .with_context(|| format!("cannot convert {}", args.input.display()))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The output is replaced by renaming: that must not happen to a device or a folder.
fn check_output(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(there) if !there.is_file() => bail!(
            "{} is not a file, and would be replaced by one; write a file, then copy it there (to a disk: dd bs=1M)",
            path.display()
        ),
        _ => Ok(()),
    }
}

fn name_of(path: &Path) -> String {
    path.file_stem().map_or_else(|| "coracle".into(), |name| name.to_string_lossy().into_owned())
}

/// The file appears whole or not at all.
fn write(format: Format, disk: &dyn Disk, machine: &Machine, output: &PathBuf, progress: &Progress) -> Result<()> {
    let folder = folder(output);
    let mut file =
        tempfile::NamedTempFile::new_in(folder).with_context(|| format!("cannot write in {}", folder.display()))?;
    progress.bytes(disk.size(), "Writing");
    container::write(format, disk, machine, file.as_file_mut(), &mut |n| progress.add(n))
        .with_context(|| format!("cannot write the image {}", output.display()))?;
    file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    file.persist(output).with_context(|| format!("cannot write the image {}", output.display()))?;
    Ok(())
}
