//! `Coracle.toml`: a program, its arguments and its machine in a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::args::{Machine, Memory, Net, Pair, Publish, With};

/// The name of the file.
pub const NAME: &str = "Coracle.toml";

/// What the file says. Relative paths start at its folder.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// The program: a name on the search path, a path, or a path inside `root`.
    pub program: String,
    /// Its arguments.
    #[serde(default)]
    pub args: Vec<String>,
    /// A folder that is the whole root file system; the program is in it.
    pub root: Option<PathBuf>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Working directory in the guest.
    pub workdir: Option<PathBuf>,
    /// The guest's name.
    pub hostname: Option<String>,
    /// As `-m`.
    #[serde(default, deserialize_with = "parsed")]
    pub memory: Option<Memory>,
    /// As `-c`.
    pub cpus: Option<u32>,
    /// As `--machine`.
    pub machine: Option<Machine>,
    /// As `--net`.
    #[serde(default, deserialize_with = "parsed")]
    pub net: Option<Net>,
    /// As `-p`.
    #[serde(default, deserialize_with = "all_parsed")]
    pub publish: Vec<Publish>,
    /// As `-v`.
    #[serde(default, deserialize_with = "all_parsed")]
    pub volumes: Vec<Pair>,
    /// As `--with`.
    #[serde(default, deserialize_with = "all_parsed")]
    pub with: Vec<With>,
}

fn parsed<'de, D, T>(d: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err = String>,
{
    String::deserialize(d)?.parse().map(Some).map_err(serde::de::Error::custom)
}

fn all_parsed<'de, D, T>(d: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr<Err = String>,
{
    Vec::<String>::deserialize(d)?.iter().map(|t| t.parse().map_err(serde::de::Error::custom)).collect()
}

impl Config {
    /// Reads the file and makes its paths absolute.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut config = Config::parse(&text).with_context(|| format!("{} is not right", path.display()))?;
        let folder = std::path::absolute(path)?.parent().map(Path::to_owned).unwrap_or_default();
        if let Some(root) = &mut config.root {
            *root = folder.join(&*root);
        }
        for with in &mut config.with {
            if with.guest.is_none() && with.host.is_relative() {
                bail!(
                    "{}: with = {:?} needs a place in the guest; write \"{}:/PATH\"",
                    path.display(),
                    with.host,
                    with.host.display()
                );
            }
            with.host = folder.join(&with.host);
        }
        for pair in &mut config.volumes {
            pair.host = folder.join(&pair.host);
        }
        if config.root.is_none() && config.program.contains('/') && !config.program.starts_with('/') {
            config.program = folder.join(&config.program).to_string_lossy().into_owned();
        }
        Ok(config)
    }

    fn parse(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text)?;
        if config.program.is_empty() {
            bail!("program is empty; name the program to run");
        }
        if config.cpus.is_some_and(|c| !(1..=255).contains(&c)) {
            bail!("cpus must be 1 to 255");
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        std::fs::write(
            &path,
            "program = \"./bin/x\"\nargs = [\"a b\"]\nenv = { K = \"V\" }\nmemory = \"64M\"\ncpus = 2\nmachine = \"microvm\"\n\
             publish = [\"80:80\"]\nvolumes = [\"data:/data\"]\nwith = [\"x.conf:/etc/x.conf\"]\nnet = \"none\"\n",
        )
        .unwrap();
        let c = Config::read(&path).unwrap();
        assert_eq!(c.program, dir.path().join("./bin/x").to_str().unwrap());
        assert_eq!(c.volumes[0].host, dir.path().join("data"));
        assert_eq!(c.with[0].host, dir.path().join("x.conf"));
        assert_eq!(
            (c.memory, c.cpus, c.machine, c.net),
            (Some(Memory(64 << 20)), Some(2), Some(Machine::Microvm), Some(Net::None))
        );
    }

    #[test]
    fn mistakes_are_named() {
        let e = |t: &str| format!("{:#}", Config::parse(t).unwrap_err());
        assert!(e("args = []").contains("program"));
        assert!(e("program = \"x\"\nmemroy = \"1G\"").contains("memroy"));
        assert!(e("program = \"x\"\nmemory = \"1M\"").contains("too little"));
        assert!(e("program = \"x\"\npublish = [\"x\"]").contains("HOST:GUEST"));
        assert!(e("program = \"\"").contains("empty"));
    }
}
