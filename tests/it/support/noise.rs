//! Bytes that tests are made of: the same for the same seed, on every machine.

/// Returns `len` bytes that no compressor shortens.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Returns `len` bytes of log lines, which compress to about a fifth and hold no two equal
/// stretches of the length of a chunk.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    const WORDS: [&str; 8] =
        ["transfer", "account", "ledger", "accepted", "by", "canister", "with", "balance"];
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 80);
    while bytes.len() < len {
        let line: Vec<_> = (0..6).map(|_| WORDS[random.below(8)]).collect();
        bytes.extend_from_slice(
            format!("{:08} {}\n", random.below(100_000_000), line.join(" ")).as_bytes(),
        );
    }
    bytes.truncate(len);
    bytes
}

/// A small generator of numbers (splitmix64).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Returns `count` different numbers below `bound`, sorted.
    pub fn distinct(&mut self, count: usize, bound: usize) -> Vec<usize> {
        let mut drawn = std::collections::BTreeSet::new();
        while drawn.len() < count {
            drawn.insert(self.below(bound));
        }
        drawn.into_iter().collect()
    }
}
