//! The table of what ran where.

use super::Verdict;
use super::cells::Cell;
use crate::report::{Bad, Outcome};

/// Rows of words.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

const HEAD: [&str; 11] = [
    "cell",
    "hypervisor",
    "told by",
    "boot path",
    "CPUs",
    "NIC",
    "disk",
    "first answer",
    "HTTP req/s",
    "MB/s out, in",
    "result",
];

impl Table {
    /// Adds a cell.
    pub fn row(&mut self, cell: &Cell, verdict: &Verdict, judged: &Outcome) {
        let nothing = Default::default();
        let facts = verdict.outcome.as_ref().unwrap_or(&nothing);
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let seconds = |name: &str| match facts.get(name) {
            "" => "-".to_owned(),
            text => format!("{text} s"),
        };
        let rates = match facts.get("down_mb_s") {
            "" => "-".to_owned(),
            down => format!("{down}, {}", facts.get("up_mb_s")),
        };
        self.rows.push(vec![
            cell.name.to_owned(),
            or_dash(facts.get("hypervisor")),
            or_dash(facts.get("told_by")),
            cell.boot.words().to_owned(),
            cell.cpus.to_string(),
            or_dash(facts.get("nic")),
            or_dash(facts.get("disk")),
            seconds("first"),
            or_dash(facts.get("http_rps")),
            rates,
            result(verdict, judged),
        ]);
    }

    /// As Markdown whose columns line up.
    pub fn text(&self) -> String {
        markdown(&HEAD, &self.rows)
    }
}

/// How it went, in one cell of a table.
pub fn result(verdict: &Verdict, judged: &Outcome) -> String {
    match judged {
        Ok(()) if verdict.note.is_empty() => "passed".to_owned(),
        Ok(()) => format!("passed ({})", verdict.note),
        Err(Bad::Failed(why)) => format!("FAILED: {}", why.lines().next().unwrap_or_default()),
        Err(Bad::Skipped(why)) => format!("skipped: {why}"),
    }
}

/// A Markdown table whose columns line up; the last one may be ragged.
pub fn markdown(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |n: usize| {
        rows.iter()
            .filter_map(|r| r.get(n))
            .map(|c| c.chars().count())
            .chain([head[n].chars().count()])
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let mut text = String::from("|");
        for (n, cell) in cells.iter().enumerate() {
            let pad = if n + 1 == head.len() { 0 } else { widths[n] - cell.chars().count() };
            text.push_str(&format!(" {cell}{} |", " ".repeat(pad)));
        }
        text + "\n"
    };
    let mut text = line(head.to_vec());
    let rule: Vec<String> =
        widths.iter().enumerate().map(|(n, w)| "-".repeat(if n + 1 == head.len() { 3 } else { *w })).collect();
    text.push_str(&line(rule.iter().map(String::as_str).collect()));
    rows.iter().for_each(|row| text.push_str(&line(row.iter().map(String::as_str).collect())));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows =
            vec![vec!["a".into(), "long".into(), "x".into()], vec!["bcd".into(), "e".into(), "much longer".into()]];
        let text = markdown(&["n", "m", "last"], &rows);
        assert_eq!(
            text,
            "| n   | m    | last |\n| --- | ---- | --- |\n| a   | long | x |\n| bcd | e    | much longer |\n"
        );
    }
}
