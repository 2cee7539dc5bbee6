//! The first line of a script: `#!INTERPRETER [ARGUMENT]`.

/// Bytes of a file that are looked at for the line (`BINPRM_BUF_SIZE`).
pub const LINE_SIZE: usize = 256;

/// Interpreter, and the one optional argument.
pub type Line<'a> = (&'a [u8], Option<&'a [u8]>);

/// Parses the start of a file. `None` if it is no script; `Some(None)` if its line is empty or cut.
pub fn parse(start: &[u8]) -> Option<Option<Line<'_>>> {
    let text = start.strip_prefix(b"#!")?;
    let text = &text[..text.len().min(LINE_SIZE - 2)];
    let blank = |b: &u8| *b == b' ' || *b == b'\t';
    let (line, complete) = match text.iter().position(|b| *b == b'\n' || *b == 0) {
        Some(end) => (&text[..end], true),
        // A file that ends here has its line whole; a longer one may have been cut in the interpreter's name.
        None => (text, start.len() < LINE_SIZE),
    };
    let begin = line.iter().position(|b| !blank(b)).unwrap_or(line.len());
    let rest = &line[begin..];
    let length = rest.iter().position(blank).unwrap_or(rest.len());
    let (name, argument) = rest.split_at(length);
    if name.is_empty() || (!complete && argument.is_empty()) {
        return Some(None);
    }
    let first = argument.iter().position(|b| !blank(b));
    let last = argument.iter().rposition(|b| !blank(b));
    Some(Some((name, first.zip(last).map(|(a, b)| &argument[a..=b]))))
}
