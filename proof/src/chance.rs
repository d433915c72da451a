//! Chance that can be told: numbers that follow from a seed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Numbers in a row that looks random.
pub struct Chance {
    seed: u64,
    drawn: u64,
}

impl Chance {
    /// Begins the row of a seed.
    pub fn of(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Returns a number that was not known before.
    pub fn seed() -> u64 {
        RandomState::new().build_hasher().finish()
    }

    /// Returns any number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.drawn += 1;
        let input = [self.seed.to_le_bytes(), self.drawn.to_le_bytes()].concat();
        let digest = blake3::hash(&input);
        let wide =
            u128::from(u64::from_le_bytes(digest.as_bytes()[..8].try_into().unwrap_or([0; 8])));
        ((wide * u128::from(end.max(1))) >> 64) as u64
    }

    /// Says yes once in `of` times.
    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    /// Returns any time below `end`.
    pub fn time(&mut self, end: Duration) -> Duration {
        Duration::from_nanos(self.below(end.as_nanos() as u64))
    }
}
