//! The description of a machine in an OVA (DMTF DSP0243, OVF 1.1): what VMware and VirtualBox both import.
//!
//! The devices are the ones that both know by the same names and that Coracle drives on both: an E1000 network card (not
//! vmxnet3, which VirtualBox lacks; one can change to it after the import to VMware) and an AHCI controller (VMware calls
//! it `vmware.sata.ahci` from hardware version 10 on, VirtualBox knows that name; LSI controllers, the usual choice, have
//! no driver here). Firmware is the default of both, the BIOS; the disk boots by UEFI as well.

/// What the machine of an image shall be.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Virtual CPUs.
    pub cpus: u32,
}

/// Text in XML.
fn escape(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// One device. The elements are in the order of the schema, which is the alphabet's.
fn item(elements: &[(&str, String)]) -> String {
    let mut all: Vec<_> = elements.iter().collect();
    all.sort_by_key(|(name, _)| *name);
    let lines: String =
        all.iter().map(|(name, value)| format!("        <rasd:{name}>{value}</rasd:{name}>\n")).collect();
    format!("      <Item>\n{lines}      </Item>\n")
}

/// The description of `machine` with one disk of `capacity` bytes in the file `href` of `len` bytes, of which `populated`
/// are not zero.
pub fn describe(machine: &Machine, href: &str, len: u64, capacity: u64, populated: u64) -> String {
    let name = escape(&machine.name);
    let href = escape(href);
    let memory = machine.memory.div_ceil(1 << 20);
    let s = |text: &str| text.to_owned();
    let items: String = [
        item(&[
            ("AllocationUnits", s("hertz * 10^6")),
            ("ElementName", format!("{} virtual CPU(s)", machine.cpus)),
            ("InstanceID", s("1")),
            ("ResourceType", s("3")),
            ("VirtualQuantity", machine.cpus.to_string()),
        ]),
        item(&[
            ("AllocationUnits", s("byte * 2^20")),
            ("ElementName", format!("{memory} MB of memory")),
            ("InstanceID", s("2")),
            ("ResourceType", s("4")),
            ("VirtualQuantity", memory.to_string()),
        ]),
        item(&[
            ("Address", s("0")),
            ("ElementName", s("SATA controller")),
            ("InstanceID", s("3")),
            ("ResourceSubType", s("vmware.sata.ahci")),
            ("ResourceType", s("20")),
        ]),
        item(&[
            ("AddressOnParent", s("0")),
            ("ElementName", s("Disk")),
            ("HostResource", s("ovf:/disk/disk1")),
            ("InstanceID", s("4")),
            ("Parent", s("3")),
            ("ResourceType", s("17")),
        ]),
        item(&[
            ("AddressOnParent", s("7")),
            ("AutomaticAllocation", s("true")),
            ("Connection", s("NAT")),
            ("ElementName", s("Network adapter")),
            ("InstanceID", s("5")),
            ("ResourceSubType", s("E1000")),
            ("ResourceType", s("10")),
        ]),
    ]
    .concat();
    let cim = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_";
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<Envelope ovf:version="1.0" xml:lang="en-US" xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1" xmlns:rasd="{cim}ResourceAllocationSettingData" xmlns:vssd="{cim}VirtualSystemSettingData" xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:id="file1" ovf:href="{href}" ovf:size="{len}"/>
  </References>
  <DiskSection>
    <Info>The disks</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{capacity}" ovf:populatedSize="{populated}" ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </DiskSection>
  <NetworkSection>
    <Info>The networks</Info>
    <Network ovf:name="NAT">
      <Description>The network that the machine is on</Description>
    </Network>
  </NetworkSection>
  <VirtualSystem ovf:id="{name}">
    <Info>A machine for one program</Info>
    <Name>{name}</Name>
    <OperatingSystemSection ovf:id="101" vmw:osType="other3xLinux64Guest">
      <Info>The kind of guest</Info>
      <Description>Coracle (runs 64-bit Linux programs)</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>The hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-10</vssd:VirtualSystemType>
      </System>
{items}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"#
    )
}
