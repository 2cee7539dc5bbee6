//! The end of a run: the code goes to the host (docs/command-line.md, section 4).

use hal_core::platform;

/// Ends the VM with the program's code.
pub fn finish(code: u8) -> ! {
    let mut line = *b"\x1e coracle:exit 000\n";
    let digits = line.len() - 4;
    let (mut at, mut rest) = (digits, code);
    for divisor in [100, 10, 1] {
        if rest >= divisor || at > digits || divisor == 1 {
            line[at] = b'0' + rest / divisor;
            at += 1;
        }
        rest %= divisor;
    }
    line[at] = b'\n';
    platform().console().write(&line[..=at]);
    platform().power().exit(code)
}
