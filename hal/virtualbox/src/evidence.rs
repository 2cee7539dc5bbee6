//! What tells VirtualBox. Pure.

/// The VMM device, which every VM has: InnoTek's vendor number, then the device's.
pub const VMM_DEVICE: (u16, u16) = (0x80ee, 0xcafe);

/// True for the OEM id in the ACPI root pointer.
pub fn is_oem(oem: [u8; 6]) -> bool {
    oem == *b"VBOX  "
}

/// True for what DMI says of the firmware's maker and of the machine. People may set either
/// (`VBoxInternal/Devices/pcbios/0/Config/Dmi...`), so one is enough.
pub fn is_machine(bios_vendor: Option<&[u8]>, product: Option<&[u8]>) -> bool {
    bios_vendor == Some(b"innotek GmbH") || product == Some(b"VirtualBox")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_it_from_others() {
        assert!(is_oem(*b"VBOX  ") && !is_oem(*b"BOCHS "));
        assert!(is_machine(Some(b"innotek GmbH"), None));
        assert!(is_machine(Some(b"Oracle"), Some(b"VirtualBox")));
        assert!(!is_machine(Some(b"SeaBIOS"), Some(b"Standard PC (Q35 + ICH9, 2009)")));
        assert!(!is_machine(None, None));
    }
}
