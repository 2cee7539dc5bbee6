//! Any bytes as an executable: the plan that comes out is one that can be mapped.
#![no_main]

use elf_plan::{HEADER_SIZE, Header, PAGE, Plan, USER_END};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(first) = data.get(..HEADER_SIZE) else { return };
    let Ok(header) = Header::parse(first) else { return };
    let range = &header.program_headers;
    let Ok(offset) = usize::try_from(range.offset) else { return };
    let Some(headers) = offset.checked_add(range.len).and_then(|end| data.get(offset..end)) else { return };
    let Ok(plan) = Plan::new(&header, headers, data.len() as u64) else { return };
    let mut last = 0;
    for segment in &plan.segments {
        assert!(segment.start % PAGE == 0 && segment.start >= last, "out of order");
        assert!(segment.start <= segment.file_end && segment.file_end <= segment.end && segment.end <= USER_END);
        last = segment.end;
    }
});
