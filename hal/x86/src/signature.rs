//! The hypervisor's CPUID leaves: a signature every 0x100 from 0x40000000 on (a hypervisor that imitates another
//! one puts its own behind). Pure, given a function that executes CPUID.

/// First and last leaf looked at.
const FIRST: u32 = 0x4000_0000;
const LAST: u32 = 0x4001_0000;
const STEP: u32 = 0x100;

/// The base leaf with this signature. `cpuid` gives eax, ebx, ecx, edx of a leaf.
pub fn find(signature: &[u8; 12], cpuid: impl Fn(u32) -> [u32; 4]) -> Option<u32> {
    (FIRST..=LAST).step_by(STEP as usize).find(|&leaf| {
        let [highest, b, c, d] = cpuid(leaf);
        let mut found = [0; 12];
        for (part, word) in found.chunks_mut(4).zip([b, c, d]) {
            part.copy_from_slice(&word.to_le_bytes());
        }
        // Old KVM says 0 for the highest leaf.
        found == *signature && (highest == 0 || highest >= leaf)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KVM: &[u8; 12] = b"KVMKVMKVM\0\0\0";

    fn words(signature: &[u8; 12]) -> [u32; 3] {
        let word = |i: usize| u32::from_le_bytes([signature[i], signature[i + 1], signature[i + 2], signature[i + 3]]);
        [word(0), word(4), word(8)]
    }

    #[test]
    fn finds_the_first_leaf_and_one_behind_another() {
        let [b, c, d] = words(KVM);
        assert_eq!(find(KVM, |_| [0x4000_0001, b, c, d]), Some(FIRST));
        let behind = |leaf| if leaf == 0x4000_0100 { [0x4000_0101, b, c, d] } else { [0x4000_0001, 1, 2, 3] };
        assert_eq!(find(KVM, behind), Some(0x4000_0100));
        assert_eq!(find(KVM, |leaf| if leaf == FIRST { [0, b, c, d] } else { [0; 4] }), Some(FIRST));
    }

    #[test]
    fn is_not_fooled() {
        let [b, c, d] = words(b"TCGTCGTCGTCG");
        assert_eq!(find(KVM, |_| [0x4000_0001, b, c, d]), None);
        assert_eq!(find(KVM, |_| [0; 4]), None);
        let [b, c, d] = words(KVM);
        // What a CPU gives for a leaf beyond its last basic one.
        assert_eq!(find(KVM, |_| [0x16, b, c, d]), None);
    }
}
