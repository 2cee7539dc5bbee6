//! Memory: frames, heap, stacks, page tables, address spaces, faults, user memory.
