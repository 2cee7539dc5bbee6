//! Programs with an image of their own, as PV domains of real Xen: what the one image does not show of PV (fork with copy on write, many
//! processes, threads, a dynamic language). An image for each, its kernel loaded by `kernel=`; a boot of L1 for each image.

use super::cells::{Cell, pv};
use super::image::{self, Image, need};
use super::{Verdict, judge, labs, table};
use crate::apps::{App, WORKERS};
use crate::compile::folder;
use crate::e2e::http::{nginx_conf, python_of_this_machine, website};
use crate::lab::Lab;
use crate::options::Options;
use crate::report::{Bad, Suite};

/// One program on so many CPUs.
pub struct AppCell {
    /// The program.
    pub app: App,
    /// Where it runs.
    pub cell: Cell,
}

/// All of them.
pub const APPS: &[AppCell] = &[
    AppCell { app: App::Redis, cell: pv("xen-pv-redis", 1) },
    AppCell { app: App::Redis, cell: pv("xen-pv-redis-2", 2) },
    AppCell { app: App::Nginx, cell: pv("xen-pv-nginx", 1) },
    AppCell { app: App::Nginx, cell: pv("xen-pv-nginx-2", 2) },
    AppCell { app: App::Python, cell: pv("xen-pv-python", 1) },
    AppCell { app: App::Python, cell: pv("xen-pv-python-2", 2) },
];

const HEAD: &[&str] =
    &["cell", "hypervisor", "CPUs", "NIC", "disk", "first answer", "requests/s", "MB/s out", "seconds", "result"];

/// Runs these and prints their table; true when none failed.
pub fn run(options: &Options, chosen: &[&'static AppCell]) -> Result<bool, String> {
    let mut suite = Suite::new("matrix apps");
    let mut rows = Vec::new();
    for app in App::ALL {
        let own: Vec<&AppCell> = chosen.iter().copied().filter(|c| c.app == app).collect();
        if own.is_empty() {
            continue;
        }
        let image = build(options, app)?;
        println!("matrix: the image of {} is {} with SHA-256 {}", app.name(), image.file.display(), image.sha256);
        let task = |c: &&AppCell| {
            let task = labs::task(&c.cell, &image);
            labs::Task { line: format!("APP={} {}", app.name(), task.line), ..task }
        };
        let tasks = own.iter().map(task).collect();
        let work = labs::Work { lab: Lab::Xen, tasks, files: vec![], image: &image, verbose: options.verbose };
        labs::run(&work, &mut |name, verdict| {
            let Some(AppCell { cell, .. }) = own.iter().find(|c| c.cell.name == name) else { return };
            // Redis, as the first process, has nobody beside it who could tell of the machine
            let judged = match (&verdict.outcome, app) {
                (Ok(_), App::Redis) => Ok(()),
                _ => judge(cell, &verdict),
            };
            rows.push(row(cell, &verdict, table::result(&verdict, &judged)));
            suite.add(name, verdict.begun(), judged);
        });
        image.unchanged()?;
    }
    println!("\n{}", table::markdown(HEAD, &rows));
    Ok(suite.finish())
}

fn row(cell: &Cell, verdict: &Verdict, result: String) -> Vec<String> {
    let nothing = Default::default();
    let facts = verdict.outcome.as_ref().unwrap_or(&nothing);
    let fact = |name: &str, unit: &str| match facts.get(name) {
        "" => "-".to_owned(),
        text => format!("{text}{unit}"),
    };
    let rate = if facts.get("redis_rps").is_empty() { "http_rps" } else { "redis_rps" };
    vec![
        cell.name.to_owned(),
        fact("hypervisor", ""),
        cell.cpus.to_string(),
        fact("nic", ""),
        fact("disk", ""),
        fact("first", " s"),
        fact(rate, ""),
        fact("down_mb_s", ""),
        format!("{:.0}", verdict.seconds),
        result,
    ]
}

/// The image of a program, as somebody would build it; `serve.sh` is around those that do not end by themselves.
fn build(options: &Options, app: App) -> Result<Image, String> {
    let words = |why: Bad| match why {
        Bad::Failed(why) | Bad::Skipped(why) => why,
    };
    let name = format!("app-{}", app.name());
    if app == App::Redis {
        let redis = need("redis-server")?.display().to_string();
        // a snapshot comes when it is asked for
        let schedule = ["--save", "86400", "100000000", "--dir", "/tmp"];
        let program =
            [&[&redis, "--bind", "0.0.0.0", "--port", "6379", "--protected-mode", "no"][..], &schedule].concat();
        return image::make(options, &name, &[], &program);
    }
    let site = website()?;
    let busybox = need("busybox")?.display().to_string();
    let guest = |file: &str| format!("{}:/app/{file}", folder().join("guests").join(file).display());
    let mut with = vec![format!("{}:/app/site", site.path().display()), guest("serve.sh")];
    let start = [busybox.as_str(), "sh", "/app/serve.sh", &busybox];
    match app {
        App::Nginx => {
            let nginx = need("nginx")?.display().to_string();
            let conf = site.write("nginx.conf", nginx_conf(80, "/app/site".as_ref(), WORKERS))?;
            with.extend([format!("{}:/app/nginx.conf", conf.display()), format!("{nginx}:{nginx}")]);
            let program = [&start[..], &[&nginx, "-e", "stderr", "-c", "/app/nginx.conf"]].concat();
            image::make(options, &name, &with, &program)
        }
        _ => {
            let (python, library) = python_of_this_machine().map_err(words)?;
            let python = python.display().to_string();
            with.extend([guest("mixed.py"), format!("{python}:{python}")]);
            with.extend(library.iter().filter_map(|l| l.strip_prefix("--with=")).map(str::to_owned));
            let server = [&python, "-m", "http.server", "80", "--directory", "/app/site"];
            let program = [&start[..], &["first", &python, "/app/mixed.py"], &server].concat();
            image::make(options, &name, &with, &program)
        }
    }
}
