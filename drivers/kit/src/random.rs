//! A small generator of random numbers (xorshift64*) for tests that must be repeatable.

/// The generator.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "an endless source is no iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n
    }
}

/// Choices that a test or a fuzzer's input makes, shared by whoever needs some.
#[derive(Clone)]
pub struct Choices(alloc::sync::Arc<std::sync::Mutex<Chooser>>);

struct Chooser {
    /// The input that is left, backwards.
    input: alloc::vec::Vec<u8>,
    /// What comes behind it.
    random: Option<Random>,
}

impl Choices {
    /// Choices from a fuzzer's input; when that is used up they are all 0.
    pub fn from_input(input: &[u8]) -> Self {
        Self::new(Chooser { input: input.iter().rev().copied().collect(), random: None })
    }

    /// Choices without end.
    pub fn from_seed(seed: u64) -> Self {
        Self::new(Chooser { input: alloc::vec::Vec::new(), random: Some(Random(seed | 1)) })
    }

    fn new(chooser: Chooser) -> Self {
        Self(alloc::sync::Arc::new(std::sync::Mutex::new(chooser)))
    }

    /// A number below `n`.
    pub fn below(&self, n: u64) -> u64 {
        let mut chooser = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(random) = &mut chooser.random {
            return random.below(n);
        }
        let mut value = 0;
        let mut range = n - 1;
        while range > 0 {
            value = value << 8 | u64::from(chooser.input.pop().unwrap_or(0));
            range >>= 8;
        }
        value % n
    }

    /// True in one of `n` cases.
    pub fn one_in(&self, n: u64) -> bool {
        // Not the case in which an input that has ended would end up.
        self.below(n) == n - 1
    }

    /// 32 bits.
    pub fn word(&self) -> u32 {
        self.below(1 << 32) as u32
    }

    /// True as long as there is input, or more behind it.
    pub fn are_left(&self) -> bool {
        let chooser = self.0.lock().unwrap_or_else(|e| e.into_inner());
        chooser.random.is_some() || !chooser.input.is_empty()
    }
}
