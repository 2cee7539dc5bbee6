//! Collects samples and prints them as a Markdown table: medians and ratios.

use std::collections::BTreeMap;

use super::System;

/// Which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times, sizes, instructions.
    Less,
    /// Requests per second.
    More,
}

/// All samples.
#[derive(Default)]
pub struct Table {
    rows: Vec<(String, Better)>,
    samples: BTreeMap<(String, System), Vec<f64>>,
    notes: Vec<String>,
}

/// The middle value; the mean of the two middle ones for an even number.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// Four significant digits at most, thousands apart.
pub fn number(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), String::new()), |(w, r)| (w, format!(".{r}")));
    let mut grouped = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(c);
    }
    grouped + &rest
}

impl Table {
    /// Adds one sample.
    pub fn add(&mut self, row: &str, better: Better, system: System, value: f64) {
        if !self.rows.iter().any(|(n, _)| n == row) {
            self.rows.push((row.to_owned(), better));
        }
        println!("      {system}: {row}: {}", number(value));
        self.samples.entry((row.to_owned(), system)).or_default().push(value);
    }

    /// Adds something that went wrong: it stands under the table.
    pub fn note(&mut self, text: String) {
        eprintln!("bench: {text}");
        let first = text.lines().next().unwrap_or_default().trim_end_matches(':').to_owned();
        if !self.notes.contains(&first) {
            self.notes.push(first);
        }
    }

    /// Whether something went wrong.
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// The table in Markdown.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| | Linux | Coracle | Coracle is better by |\n|---|---:|---:|---:|\n");
        for (row, better) in &self.rows {
            let get = |s: System| self.samples.get(&(row.clone(), s)).and_then(|v| median(v).map(|m| (m, v.len())));
            let cell = |v: Option<(f64, usize)>| {
                v.map_or("-".into(), |(m, n)| if n > 1 { format!("{} (n={n})", number(m)) } else { number(m) })
            };
            let (linux, ours) = (get(System::Linux), get(System::Coracle));
            let ratio = match (linux, ours, better) {
                (Some((l, _)), Some((c, _)), Better::Less) if c > 0.0 => format!("{:.2}x", l / c),
                (Some((l, _)), Some((c, _)), Better::More) if l > 0.0 => format!("{:.2}x", c / l),
                _ => "-".into(),
            };
            text.push_str(&format!("| {row} | {} | {} | {ratio} |\n", cell(linux), cell(ours)));
        }
        for note in &self.notes {
            text.push_str(&format!("\nNot measured: {note}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(number(1234567.8), "1,234,568");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.512), "0.51");
        assert_eq!(number(100.0), "100");
    }

    #[test]
    fn a_table() {
        let mut t = Table::default();
        for v in [1.0, 3.0, 2.0] {
            t.add("boot, s", Better::Less, System::Linux, v);
        }
        t.add("boot, s", Better::Less, System::Coracle, 0.5);
        t.add("requests/s", Better::More, System::Linux, 100.0);
        assert!(t.markdown().contains("| boot, s | 2.00 (n=3) | 0.50 | 4.00x |"));
        assert!(t.markdown().contains("| requests/s | 100 | - | - |"));
    }
}
