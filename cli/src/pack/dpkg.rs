//! What Debian's package database knows about a program: which package it belongs to, which packages that one needs,
//! and which files these have. The database is read directly; `dpkg` is not run.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One installed package.
#[derive(Clone, Debug, Default)]
struct Package {
    /// Dependencies, each a list of alternatives.
    depends: Vec<Vec<String>>,
    provides: Vec<String>,
    priority: String,
}

/// The package database of the host, empty on a machine without dpkg.
#[derive(Debug, Default)]
pub struct Dpkg {
    packages: BTreeMap<String, Package>,
    /// Package name and its list of paths, one a line.
    lists: Vec<(String, String)>,
}

/// Folders of documentation, translations and service managers: no program needs them to run.
const LEFT_OUT: [&str; 27] = [
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/info",
    "/usr/share/locale",
    "/usr/share/lintian",
    "/usr/share/bug",
    "/usr/share/bash-completion",
    "/usr/share/zsh",
    "/usr/share/fish",
    "/usr/share/menu",
    "/usr/share/applications",
    "/usr/share/icons",
    "/usr/share/pixmaps",
    "/usr/share/vim",
    "/usr/share/apport",
    "/usr/share/doc-base",
    "/usr/share/gdb",
    "/usr/share/gcc",
    "/usr/include",
    "/usr/lib/systemd",
    "/usr/lib/tmpfiles.d",
    "/etc/init.d",
    "/etc/logrotate.d",
    "/etc/cron.d",
    "/etc/cron.daily",
    "/etc/ufw",
    "/etc/apparmor.d",
];

impl Dpkg {
    /// Reads the database below `folder` (`/var/lib/dpkg`).
    pub fn read(folder: &Path) -> Self {
        let Ok(status) = fs::read(folder.join("status")) else { return Dpkg::default() };
        let packages = parse_status(&String::from_utf8_lossy(&status));
        let mut lists = Vec::new();
        if let Ok(entries) = fs::read_dir(folder.join("info")) {
            for path in entries.filter_map(|e| e.ok()).map(|e| e.path()) {
                if path.extension().is_some_and(|e| e == "list")
                    && let (Some(name), Ok(text)) = (path.file_stem().and_then(|n| n.to_str()), fs::read(&path))
                {
                    let name = name.split(':').next().unwrap_or(name).to_owned();
                    lists.push((name, String::from_utf8_lossy(&text).into_owned()));
                }
            }
        }
        lists.sort();
        Dpkg { packages, lists }
    }

    /// Whether a package of this name is installed.
    pub fn has(&self, name: &str) -> bool {
        self.packages.contains_key(name)
    }

    /// The package that a file came with. The database may name it with or without the leading `/usr` of a merged /usr.
    pub fn owner(&self, path: &Path) -> Option<&str> {
        let path = path.to_str()?;
        let other = other_spelling(path);
        let is_it = |l: &str| l == path || l == other;
        self.lists
            .iter()
            .find(|(_, list)| list.contains(path_tail(path)) && list.lines().any(is_it))
            .map(|(n, _)| &n[..])
    }

    /// `roots` and every package that they need, except what a Debian system has anyway for its own sake
    /// (priorities required, important and standard) and the packages in `without`.
    pub fn closure(&self, roots: &BTreeSet<String>, without: &BTreeSet<String>) -> BTreeSet<String> {
        let mut todo: Vec<String> = roots.iter().cloned().collect();
        let mut done = BTreeSet::new();
        while let Some(name) = todo.pop() {
            if !done.insert(name.clone()) {
                continue;
            }
            let Some(package) = self.packages.get(&name) else { continue };
            for alternatives in &package.depends {
                let Some(real) = alternatives.iter().find_map(|a| self.installed(a)) else { continue };
                let system = matches!(&self.packages[real].priority[..], "required" | "important" | "standard");
                if !system && !without.contains(real) {
                    todo.push(real.to_owned());
                }
            }
        }
        done
    }

    fn installed(&self, name: &str) -> Option<&str> {
        if let Some((key, _)) = self.packages.get_key_value(name) {
            return Some(key);
        }
        self.packages.iter().find(|(_, p)| p.provides.iter().any(|v| v == name)).map(|(k, _)| &k[..])
    }

    /// The paths of these packages that a program may need, and folders below /etc that are theirs alone, whose other
    /// contents (made when they were installed) belong to them too.
    pub fn files(&self, packages: &BTreeSet<String>) -> (Vec<PathBuf>, Vec<PathBuf>) {
        let mut files = BTreeSet::new();
        for (_, list) in self.lists.iter().filter(|(n, _)| packages.contains(n)) {
            files.extend(list.lines().filter(|l| l.starts_with('/') && *l != "/." && wanted(l)).map(PathBuf::from));
        }
        let own = files
            .iter()
            .filter(|p| p.starts_with("/etc") && p.components().count() == 3 && p.is_dir() && !p.is_symlink())
            .filter(|p| {
                let line = p.to_string_lossy();
                !self.lists.iter().any(|(n, list)| !packages.contains(n) && list.lines().any(|l| l == line))
            })
            .cloned()
            .collect();
        (files.into_iter().collect(), own)
    }
}

fn wanted(path: &str) -> bool {
    let spelled = if path.starts_with("/lib/") { format!("/usr{path}") } else { path.to_owned() };
    !LEFT_OUT.iter().any(|out| Path::new(&spelled).starts_with(out))
        && !spelled.ends_with(".a")
        && !spelled.starts_with("/usr/share/locale-langpack")
}

/// `/usr/bin/x` for `/bin/x` and the reverse.
fn other_spelling(path: &str) -> String {
    match path.strip_prefix("/usr") {
        Some(rest) => rest.to_owned(),
        None => format!("/usr{path}"),
    }
}

/// The last part of a path with its slash: a quick test before lines are compared.
fn path_tail(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at..])
}

fn parse_status(text: &str) -> BTreeMap<String, Package> {
    let mut all = BTreeMap::new();
    for block in text.split("\n\n") {
        let (mut name, mut package, mut installed) = ("", Package::default(), false);
        for line in block.lines() {
            let Some((key, value)) = line.split_once(": ") else { continue };
            match key {
                "Package" => name = value,
                "Status" => installed = value.ends_with(" installed"),
                "Priority" => package.priority = value.to_owned(),
                "Depends" | "Pre-Depends" => package.depends.extend(value.split(',').map(names_of)),
                "Provides" => package.provides = value.split(',').flat_map(names_of).collect(),
                _ => {}
            }
        }
        if installed && !name.is_empty() {
            all.insert(name.to_owned(), package);
        }
    }
    all
}

/// Package names of one dependency: versions, architectures and qualifiers go.
fn names_of(dependency: &str) -> Vec<String> {
    dependency
        .split('|')
        .filter_map(|d| d.split([' ', '(', '[', ':', '<']).find(|w| !w.is_empty()).map(|w| w.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> (tempfile::TempDir, Dpkg) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("info")).unwrap();
        fs::write(
            dir.path().join("status"),
            "Package: web\nStatus: install ok installed\nPriority: optional\nDepends: libc9 (>= 2.3), web-common:any, \
             mail | postbox, base\nMulti: x\n\nPackage: web-common\nStatus: install ok installed\nPriority: optional\n\n\
             Package: base\nStatus: install ok installed\nPriority: required\n\nPackage: gone\nStatus: deinstall ok \
             config-files\n\nPackage: exim\nStatus: install ok installed\nPriority: extra\nProvides: postbox (= 2), x\n\n\
             Package: libc9\nStatus: install ok installed\nPriority: optional\n",
        )
        .unwrap();
        let list = |name: &str, text: &str| fs::write(dir.path().join("info").join(name), text).unwrap();
        list("web.list", "/.\n/usr\n/usr/sbin\n/usr/sbin/web\n/usr/share/doc/web/readme\n/bin/wob\n");
        list("web-common.list", "/etc/web\n/var/log/web\n/lib/systemd/system/web.service\n");
        list("libc9:amd64.list", "/lib/libc.so.9\n");
        let dpkg = Dpkg::read(dir.path());
        (dir, dpkg)
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn owner_knows_both_spellings() {
        let (_dir, dpkg) = database();
        assert_eq!(dpkg.owner(Path::new("/usr/sbin/web")), Some("web"));
        assert_eq!(dpkg.owner(Path::new("/usr/bin/wob")), Some("web"));
        assert_eq!(dpkg.owner(Path::new("/usr/lib/libc.so.9")), Some("libc9"));
        assert_eq!(dpkg.owner(Path::new("/usr/sbin/we")), None);
    }

    #[test]
    fn closure_takes_alternatives_and_leaves_the_system() {
        let (_dir, dpkg) = database();
        assert_eq!(dpkg.closure(&set(&["web"]), &set(&["libc9"])), set(&["web", "web-common", "exim"]));
        assert!(!dpkg.has("gone"));
    }

    #[test]
    fn documentation_is_left_out() {
        let (_dir, dpkg) = database();
        let (files, _) = dpkg.files(&set(&["web", "web-common"]));
        let names: Vec<_> = files.iter().map(|f| f.to_str().unwrap()).collect();
        assert_eq!(names, ["/bin/wob", "/etc/web", "/usr", "/usr/sbin", "/usr/sbin/web", "/var/log/web"]);
    }

    #[test]
    fn no_database_is_no_error() {
        let dpkg = Dpkg::read(Path::new("/nonexistent"));
        assert_eq!(dpkg.owner(Path::new("/bin/sh")), None);
    }
}
