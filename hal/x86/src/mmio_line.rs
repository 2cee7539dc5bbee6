//! `SIZE@ADDRESS:IRQ`, as Linux's `virtio_mmio.device` parameter has it. Pure.

/// Size in bytes, address, interrupt.
pub fn parse(value: &str) -> Option<(u64, u64, u32)> {
    let (size, rest) = value.split_once('@')?;
    let mut parts = rest.split(':');
    let address = number(parts.next()?)?;
    let irq = u32::try_from(number(parts.next()?)?).ok()?;
    // An id may follow; it names the platform device in Linux and nothing here.
    let size = size_with_suffix(size)?;
    (size != 0 && address.checked_add(size).is_some()).then_some((size, address, irq))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

fn size_with_suffix(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_what_qemu_writes() {
        assert_eq!(parse("512@0xfeb00e00:12"), Some((512, 0xfeb0_0e00, 12)));
        assert_eq!(parse("4K@0xd0000000:5:1"), Some((4096, 0xd000_0000, 5)));
    }

    #[test]
    fn refuses_nonsense() {
        for bad in [
            "",
            "512",
            "512@",
            "512@0x1000",
            "@0x1000:1",
            "0@0x1000:1",
            "5x@0x1:1",
            "9@0xffffffffffffffff:1",
            "1K@z:1",
            "512@1:4294967296",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
