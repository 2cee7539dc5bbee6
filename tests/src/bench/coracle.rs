//! The Coracle guest: the image as `coracle build` makes it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Workload;
use crate::run::must;

/// Packs the workload into a root image.
pub fn image(coracle: &Path, work: &Workload, to: &Path) -> Result<(), String> {
    let mut c = Command::new(coracle);
    c.args(["build", "--format", "erofs", "-o"]).arg(to).args(["-w", "/"]);
    for file in &work.files {
        c.arg("--with").arg(file);
    }
    must(c.arg("--").args(&work.command), Duration::from_secs(120)).map(|_| ())
}
