//! The boot block's bytes as the contract has them, and what a damaged one leads to.

use super::*;

fn sample() -> BootBlock {
    BootBlock {
        stage2_lba: 65,
        stage2_sectors: 40,
        stage2_crc: 0x1111_2222,
        kernel_lba: 0x1_0000_0900,
        kernel_len: 2_000_001,
        kernel_crc: 0x3333_4444,
        command_line_lba: 2200,
        command_line_len: 4095,
        command_line_crc: 0x5555_6666,
    }
}

/// Puts the right checksum on a changed sector.
fn seal(mut sector: [u8; SECTOR]) -> [u8; SECTOR] {
    sector[CRC_AT..CRC_AT + 4].fill(0);
    let crc = crc32(&sector);
    sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    sector
}

#[test]
fn checksum_is_the_usual_one() {
    assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    let mut pieces = Checksum::new();
    pieces.update(b"1234");
    pieces.update(b"");
    pieces.update(b"56789");
    assert_eq!(pieces.finish(), 0xcbf4_3926);
}

#[test]
fn fields_are_where_the_contract_says() {
    let sector = sample().encode();
    assert_eq!(&sector[..8], b"CORACLEB");
    assert_eq!(sector[8..12], [1, 0, 0, 0]);
    assert_eq!(sector[16..24], 65u64.to_le_bytes());
    assert_eq!(sector[24..28], 40u32.to_le_bytes());
    assert_eq!(sector[28..32], 0x1111_2222u32.to_le_bytes());
    assert_eq!(sector[32..40], 0x1_0000_0900u64.to_le_bytes());
    assert_eq!(sector[40..48], 2_000_001u64.to_le_bytes());
    assert_eq!(sector[48..52], 0x3333_4444u32.to_le_bytes());
    assert_eq!(sector[56..64], 2200u64.to_le_bytes());
    assert_eq!(sector[64..68], 4095u32.to_le_bytes());
    assert_eq!(sector[68..72], 0x5555_6666u32.to_le_bytes());
    assert!(sector[72..].iter().chain(&sector[52..56]).all(|&b| b == 0));
    assert_eq!(seal(sector), sector);
    assert_eq!(BootBlock::decode(&sector), Ok(sample()));
}

#[test]
fn every_damaged_bit_is_seen() {
    let whole = sample().encode();
    for bit in 0..SECTOR * 8 {
        let mut sector = whole;
        sector[bit / 8] ^= 1 << (bit % 8);
        assert!(BootBlock::decode(&sector).is_err(), "bit {bit}");
    }
}

#[test]
fn impossible_values_are_refused() {
    let refused = |change: fn(&mut BootBlock)| {
        let mut block = sample();
        change(&mut block);
        BootBlock::decode(&block.encode()).unwrap_err().0
    };
    assert!(refused(|b| b.kernel_len = 0).contains("no kernel"));
    assert!(refused(|b| b.kernel_len = KERNEL_MAX + 1).contains("kernel"));
    assert!(refused(|b| b.stage2_sectors = 0).contains("stage 2"));
    assert!(refused(|b| b.stage2_sectors = u32::MAX).contains("stage 2"));
    assert!(refused(|b| b.command_line_len = 4096).contains("command line"));
    assert!(refused(|b| b.kernel_lba = u64::MAX).contains("sectors"));
    assert!(refused(|b| b.kernel_lba = 0).contains("sectors"));
    let mut sector = sample().encode();
    sector[8] = 2;
    assert!(BootBlock::decode(&seal(sector)).unwrap_err().0.contains("version"));
    assert!(BootBlock::decode(&[0; SECTOR]).unwrap_err().0.contains("no boot block"));
}
