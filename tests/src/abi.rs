//! docs/linux-abi.md from the kernel's table of system calls: the `calls!` blocks and the names.

use std::collections::BTreeMap;
use std::path::Path;

/// What a row says: name, family and coverage.
type Row = (String, String, String);

fn names(text: &str) -> BTreeMap<u32, String> {
    let start = text.rfind("names! {").map_or(text.len(), |at| at + "names! {".len());
    text[start..]
        .trim_end()
        .trim_end_matches('}')
        .split(',')
        .filter_map(|pair| pair.trim().split_once(' '))
        .filter_map(|(number, name)| Some((number.parse().ok()?, name.to_string())))
        .collect()
}

fn rows(family: &str, text: &str) -> Vec<(u32, Row)> {
    let Some(start) = text.find("\ncalls! {") else { return Vec::new() };
    let block = &text[start + "\ncalls! {".len()..];
    let block = &block[..block.find("\n}").unwrap_or(block.len())];
    let row = |line: &str| {
        let (head, rest) = line.trim().split_once(", \"")?;
        let (number, name) = head.split_once(' ')?;
        let coverage = rest.strip_suffix("\";")?;
        Some((number.parse().ok()?, (name.to_string(), family.to_string(), coverage.to_string())))
    };
    block.lines().filter_map(row).collect()
}

/// The page, from the sources below `root`, the repository's top.
pub fn generate(root: &Path) -> std::io::Result<String> {
    let folder = root.join("kernel/src/syscall");
    let names = names(&std::fs::read_to_string(folder.join("names.rs"))?);
    let mut table = BTreeMap::new();
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let family = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        if path.extension().is_some_and(|e| e == "rs") {
            table.extend(rows(&family, &std::fs::read_to_string(&path)?));
        }
    }
    let mut page = format!(
        "# The Linux ABI\n\nGenerated from `kernel/src/syscall` by `cargo run -p tests --bin linux-abi`; do not edit. \
         {} of {} calls of x86-64 have a function; every other number answers `ENOSYS`, and the kernel logs it once.\n\n\
         | number | call | family | what works |\n|---|---|---|---|\n",
        table.len(),
        names.len()
    );
    for (number, name) in &names {
        match table.get(number) {
            Some((_, family, coverage)) => page += &format!("| {number} | `{name}` | {family} | {coverage} |\n"),
            None => page += &format!("| {number} | `{name}` | | not there |\n"),
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository");
        let page = generate(root).expect("the sources can be read");
        assert!(page.contains("| 39 | `getpid` | process | complete |"));
        let there = std::fs::read_to_string(root.join("docs/linux-abi.md")).unwrap_or_default();
        assert!(there == page, "docs/linux-abi.md is old: cargo run -p tests --bin linux-abi");
    }
}
