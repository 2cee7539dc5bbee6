//! Finds the sleep types of soft-off in a DSDT, without an interpreter: the `\_S5` package is a constant.

/// AML: `NameOp "_S5_" PackageOp length count element element`, elements as byte constants or Zero and One
/// (ACPI 6.4, sections 20.2.5 and 16.3.4).
pub fn find(dsdt: &[u8]) -> Option<(u8, u8)> {
    let at = dsdt.windows(5).position(|w| w == b"_S5_\x12")?;
    let mut rest = &dsdt[at + 5..];
    // Package length: the top two bits of the lead byte say how many bytes follow it.
    let lead = *rest.first()?;
    rest = rest.get(1 + usize::from(lead >> 6)..)?;
    let count = *rest.first()?;
    rest = &rest[1..];
    if count < 1 {
        return None;
    }
    let (first, rest) = element(rest)?;
    let second = if count < 2 { first } else { element(rest)?.0 };
    Some((first, second))
}

fn element(code: &[u8]) -> Option<(u8, &[u8])> {
    match *code.first()? {
        0x0a => Some((*code.get(1)?, &code[2..])),
        value @ (0 | 1) => Some((value, &code[1..])),
        0xff => Some((0xff, &code[1..])),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn finds_byte_constants_and_zero() {
        assert_eq!(find(b"xx\x08_S5_\x12\x08\x04\x0a\x05\x0a\x06\x00\x00yy"), Some((5, 6)));
        assert_eq!(find(b"\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some((0, 0)));
        assert_eq!(find(b"\x08_S5_\x12\x40\x08\x04\x0a\x07\x01"), Some((7, 1)));
    }

    #[test]
    fn refuses_what_is_cut_or_strange() {
        assert_eq!(find(b""), None);
        assert_eq!(find(b"_S5_\x12"), None);
        assert_eq!(find(b"_S5_\x12\xc0\x01"), None);
        assert_eq!(find(b"_S5_\x12\x08\x04\x0a"), None);
        assert_eq!(find(b"_S5_\x12\x08\x04\x0c\x01\x02"), None);
        assert_eq!(find(b"_S5_\x12\x02\x00"), None);
    }
}
