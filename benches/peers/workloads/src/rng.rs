//! A small seeded random generator.
//!
//! Written out here, and not taken from a crate, so that a workload's bytes never change with a
//! dependency's version.

/// xoshiro256++ seeded through SplitMix64.
#[derive(Clone)]
pub struct Rng {
    state: [u64; 4],
}

/// Mixes one word, as SplitMix64 does after its increment.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// Makes the generator that belongs to a path of numbers, such as (seed, member, generation).
    pub fn of(path: &[u64]) -> Self {
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        for part in path {
            seed = mix(seed ^ mix(part.wrapping_add(0x9e37_79b9_7f4a_7c15)));
        }
        let mut state = [0; 4];
        for word in &mut state {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            *word = mix(seed);
        }
        Self { state }
    }

    /// Returns the next 64 random bits.
    pub fn word(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let shifted = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= shifted;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Returns a number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a bound of zero leaves no number");
        ((u128::from(self.word()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns an index into something of `len` items.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Returns a number from 0 (included) to 1 (excluded).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns true with the given probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Fills `out` with random bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let mut words = out.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.word().to_le_bytes());
        }
        let rest = words.into_remainder();
        let last = self.word().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}
