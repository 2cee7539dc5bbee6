//! The kernel's random numbers: a ChaCha20 generator per CPU, seeded by the platform.

use base::SpinLock;
use hal_core::cpu::MAX_CPUS;
use hal_core::{clock, percpu, platform};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A generator is seeded anew after so many bytes.
const RESEED_BYTES: usize = 1 << 20;

struct Generator {
    rng: Option<ChaCha20Rng>,
    left: usize,
}

/// One per CPU; the lock is only ever contended by [`add_entropy`].
static GENERATORS: [SpinLock<Generator>; MAX_CPUS] =
    [const { SpinLock::new(Generator { rng: None, left: 0 }) }; MAX_CPUS];

/// What devices contributed; mixed into every new seed.
static POOL: SpinLock<[u8; 32]> = SpinLock::new([0; 32]);

/// A seed from the platform, the pool and the counter's jitter, mixed by the cipher itself.
fn seed() -> [u8; 32] {
    let mut seed = *POOL.lock();
    let mut fresh = [0u8; 32];
    let good = platform().entropy().fill(&mut fresh);
    let mut mix = |bytes: &[u8; 32]| {
        for (s, b) in seed.iter_mut().zip(bytes) {
            *s ^= b;
        }
        ChaCha20Rng::from_seed(seed).fill_bytes(&mut seed);
    };
    mix(&fresh);
    // Where the platform has no generator the jitter of memory and interrupts must do. Each round costs a cipher's set-up.
    let rounds: u64 = if good == fresh.len() { 1 } else { 32 };
    for round in 0..rounds {
        let mut sample = [0u8; 32];
        sample[..8].copy_from_slice(&clock::tsc().to_le_bytes());
        sample[8..16].copy_from_slice(&round.to_le_bytes());
        sample[16..24].copy_from_slice(&clock::wall_ns().to_le_bytes());
        mix(&sample);
    }
    ChaCha20Rng::from_seed(seed).fill_bytes(&mut *POOL.lock());
    seed
}

/// Adds what a device delivered; every generator is seeded anew at its next use.
pub fn add_entropy(bytes: &[u8]) {
    for piece in bytes.chunks(32) {
        let mut pool = POOL.lock();
        for (p, b) in pool.iter_mut().zip(piece) {
            *p ^= b;
        }
        let mixed = *pool;
        ChaCha20Rng::from_seed(mixed).fill_bytes(&mut *pool);
    }
    for generator in &GENERATORS {
        generator.lock().left = 0;
    }
}

/// Fills `to` with random bytes.
pub fn fill(to: &mut [u8]) {
    for piece in to.chunks_mut(4096) {
        let mut generator = GENERATORS[percpu::cpu_id()].lock();
        if generator.left < piece.len() {
            generator.rng = Some(ChaCha20Rng::from_seed(seed()));
            generator.left = RESEED_BYTES;
        }
        generator.left -= piece.len();
        if let Some(rng) = &mut generator.rng {
            rng.fill_bytes(piece);
        }
    }
}

/// A random number below `bound`, which is not 0. For placing things; slightly biased for large bounds.
pub fn below(bound: u64) -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_le_bytes(bytes) % bound
}
