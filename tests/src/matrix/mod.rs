//! The matrix: one image file on every hypervisor, with a real client over that hypervisor's own network interface.

pub mod apps;
pub mod cells;
pub mod compare;
mod image;
mod labs;
mod linux;
mod qemu;
mod table;

use std::time::{Duration, Instant};

use apps::{APPS, AppCell};
use cells::{CELLS, Cell, Place};

use crate::exchange::Facts;
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Bad, Outcome, Suite};

/// For a cell on this machine, from its making to its end.
const LIMIT: Duration = Duration::from_secs(180);

/// How a cell went.
pub struct Verdict {
    outcome: Result<Facts, String>,
    seconds: f64,
    note: String,
}

impl Verdict {
    fn failed(why: String) -> Verdict {
        Verdict { outcome: Err(why), seconds: 0.0, note: String::new() }
    }

    fn begun(&self) -> Instant {
        Instant::now().checked_sub(Duration::from_secs_f64(self.seconds)).unwrap_or_else(Instant::now)
    }
}

/// Which cells to run.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Those of the labs, too.
    pub full: bool,
    /// Those of programs with an image of their own, instead or too.
    pub apps: bool,
    /// Only these, by name or its beginning.
    pub named: Vec<String>,
}

impl Choice {
    /// The cells, in the order of the list.
    pub fn cells(&self) -> Result<Vec<&'static Cell>, String> {
        for name in &self.named {
            if !every().any(|cell| cell.name.starts_with(name.as_str())) {
                return Err(format!("there is no cell {name}; --list shows them"));
            }
        }
        let wanted = |cell: &&Cell| match self.named.is_empty() {
            true => self.full || cell.fast && !self.apps,
            false => self.names(cell),
        };
        Ok(CELLS.iter().filter(wanted).collect())
    }

    /// The programs with images of their own. A name's beginning means those only if no cell of the one image begins so.
    pub fn apps(&self) -> Vec<&'static AppCell> {
        let named = Choice {
            named: self
                .named
                .iter()
                .filter(|n| !CELLS.iter().any(|c| c.name.starts_with(n.as_str())))
                .cloned()
                .collect(),
            ..self.clone()
        };
        let wanted = |app: &&AppCell| (self.apps && self.named.is_empty()) || named.names(&app.cell);
        APPS.iter().filter(wanted).collect()
    }

    /// Whether a name is that of the cell, or the beginning of it and of no other's whole name.
    fn names(&self, cell: &Cell) -> bool {
        let whole = |name: &str| every().any(|c| c.name == name);
        self.named.iter().any(|name| cell.name == name || !whole(name) && cell.name.starts_with(name.as_str()))
    }
}

fn every() -> impl Iterator<Item = &'static Cell> {
    CELLS.iter().chain(APPS.iter().map(|app| &app.cell))
}

/// The suite of `./x test`: the fast cells.
pub fn suite(options: &Options) -> Result<bool, String> {
    run(options, &Choice::default())
}

/// Runs cells and prints their tables; true when none failed.
pub fn run(options: &Options, choice: &Choice) -> Result<bool, String> {
    let (cells, apps) = (choice.cells()?, choice.apps());
    let mut good = true;
    if !cells.is_empty() {
        good &= one_image(options, &cells)?;
    }
    if !apps.is_empty() {
        good &= apps::run(options, &apps)?;
    }
    Ok(good)
}

fn one_image(options: &Options, cells: &[&'static Cell]) -> Result<bool, String> {
    let image = image::build(options)?;
    println!("matrix: the image is {} with SHA-256 {}", image.file.display(), image.sha256);
    let mut suite = Suite::new("matrix");
    let mut table = table::Table::default();
    let mut done = |cell: &Cell, verdict: Verdict| {
        let judged = judge(cell, &verdict);
        table.row(cell, &verdict, &judged);
        suite.add(cell.name, verdict.begun(), judged);
    };
    for cell in cells {
        if let Place::Emulated(q) = &cell.place {
            let started = Instant::now();
            let outcome = qemu::run(cell, q, &image, LIMIT, options.verbose);
            done(cell, Verdict { outcome, seconds: started.elapsed().as_secs_f64(), note: String::new() });
        }
    }
    for lab in [Lab::Kvm, Lab::Xen, Lab::VirtualBox] {
        let own: Vec<&Cell> = cells.iter().copied().filter(|c| c.lab() == Some(lab)).collect();
        if !own.is_empty() {
            let tasks = own.iter().map(|cell| labs::task(cell, &image)).collect();
            let work = labs::Work { lab, tasks, files: vec![], image: &image, verbose: options.verbose };
            labs::run(&work, &mut |name, verdict| {
                if let Some(cell) = own.iter().find(|cell| cell.name == name) {
                    done(cell, verdict);
                }
            });
        }
    }
    println!("\n{}", table.text());
    image.unchanged()?;
    Ok(suite.finish())
}

/// The client was content; now what the guest says of itself must be what the cell is there for.
fn judge(cell: &Cell, verdict: &Verdict) -> Outcome {
    let facts = verdict.outcome.as_ref().map_err(|why| Bad::Failed(why.clone()))?;
    let expected = [
        ("hypervisor", cell.hypervisor.to_owned()),
        ("nic", cell.drivers.0.to_owned()),
        ("disk", cell.drivers.1.to_owned()),
        ("cpus", cell.cpus.to_string()),
    ];
    for (name, value) in expected {
        if facts.get(name) != value {
            return Err(format!("the guest says {name}={:?}, which should be {value:?}", facts.get(name)).into());
        }
    }
    Ok(())
}
