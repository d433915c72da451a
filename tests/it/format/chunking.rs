//! "Chunking": content is cut where the document says, by a cutter that was written from it.

use strongroom::chunker::Cutter;
use strongroom::values::{Chunking, Params};

use super::markdown;

/// MD5 (RFC 1321) of fewer than 2^29 bytes.
fn md5(bytes: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] =
        [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let mut padded = bytes.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(bytes.len() as u64 * 8).to_le_bytes());
    let mut state = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks(64) {
        let word = |n: usize| u32::from_le_bytes(block[n * 4..n * 4 + 4].try_into().unwrap());
        let [mut first, mut x, mut y, mut z] = state;
        for step in 0..64 {
            let (mixed, n) = match step / 16 {
                0 => ((x & y) | (!x & z), step),
                1 => ((z & x) | (!z & y), 5 * step + 1),
                2 => (x ^ y ^ z, 3 * step + 5),
                _ => (y ^ (x | !z), 7 * step),
            };
            let constant = ((step + 1) as f64).sin().abs() * 4_294_967_296.0;
            let sum =
                first.wrapping_add(mixed).wrapping_add(constant as u32).wrapping_add(word(n % 16));
            let rotated = sum.rotate_left(SHIFTS[step / 16][step % 4]);
            (first, z, y, x) = (z, y, x, x.wrapping_add(rotated));
        }
        for (sum, value) in state.iter_mut().zip([first, x, y, z]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut digest = [0; 16];
    for (place, word) in digest.chunks_mut(4).zip(state) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// "Content-defined cuts".
struct Cdc {
    gear: [u64; 256],
    min_bytes: usize,
    avg_bytes: usize,
    max_bytes: usize,
    strict: u64,
    relaxed: u64,
}

impl Cdc {
    fn new(min_bytes: usize, avg_bytes: usize, max_bytes: usize) -> Self {
        let table = markdown::table(&markdown::text(), "Content-defined cuts", "bits | mask");
        let mask = |bits: u32| {
            let row = table.rows.iter().find(|row| row[0] == bits.to_string()).unwrap();
            u64::from_str_radix(row[1].strip_prefix("0x").unwrap(), 16).unwrap()
        };
        let gear = std::array::from_fn(|byte| {
            let [first @ .., _, _, _, _, _, _, _, _] = md5(&[byte as u8; 64]);
            u64::from_be_bytes(first)
        });
        let bits = avg_bytes.ilog2();
        let (strict, relaxed) = (mask(bits + 1), mask(bits - 1));
        Self { gear, min_bytes, avg_bytes, max_bytes, strict, relaxed }
    }

    /// Returns the length of the next piece of what is left.
    fn next_len(&self, left: &[u8]) -> usize {
        if left.len() <= self.min_bytes {
            return left.len();
        }
        let end = left.len().min(self.max_bytes);
        let even = |number: usize| number - number % 2;
        let mut hash = 0u64;
        for (at, byte) in left.iter().enumerate().take(even(end)).skip(self.min_bytes) {
            hash = hash.wrapping_mul(2).wrapping_add(self.gear[usize::from(*byte)]);
            let is_strict = at < even(self.avg_bytes.min(end));
            if hash & if is_strict { self.strict } else { self.relaxed } == 0 {
                return at;
            }
        }
        end
    }
}

fn extended(of: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(of).finalize_xof().fill(&mut bytes);
    bytes
}

#[test]
fn content_is_cut_where_the_document_says() {
    let (mut pieces, mut shortest) = (0, usize::MAX);
    for (min, avg, max) in [(4096, 16_384, 65_536), (64, 256, 1024), (2048, 4096, 4098)] {
        let own = Cdc::new(min, avg, max);
        let [min_bytes, avg_bytes, max_bytes] = [min, avg, max].map(|bytes| bytes as u32);
        let cutter = Cutter::new(Chunking::Cdc { min_bytes, avg_bytes, max_bytes });
        for seed in 0..40u8 {
            // Noise, and text in which few values occur.
            let mut bytes = extended(&[seed], 300_000 / 16_384 * avg + usize::from(seed) * 977);
            if seed % 2 == 1 {
                for byte in &mut bytes {
                    *byte = b'a' + *byte % 3;
                }
            }
            let mut left = &bytes[..];
            while let Some(len) = cutter.next_len(left, true) {
                assert_eq!(own.next_len(left), len, "{min} {avg} {max}, {} left", left.len());
                left = &left[len..];
                pieces += 1;
                shortest = shortest.min(len);
            }
        }
    }
    assert!(pieces > 4000 && shortest < 64, "{pieces} pieces, the shortest of {shortest}");
}

#[test]
fn the_example_in_the_document_is_right() {
    let Params { cdc_min_bytes, cdc_avg_bytes, cdc_max_bytes, .. } = Params::default();
    let [min, avg, max] = [cdc_min_bytes, cdc_avg_bytes, cdc_max_bytes].map(|n| n as usize);
    let (own, bytes) = (Cdc::new(min, avg, max), extended(b"chunker", 200_000));
    let (mut lens, mut at) = (Vec::new(), 0);
    for _ in 0..4 {
        lens.push(own.next_len(&bytes[at..]));
        at += lens.last().unwrap();
    }
    let sentence = format!(
        "the text `chunker`, cut with {min}, {avg}, {max}, have {}, {}, {} and {} bytes",
        lens[0], lens[1], lens[2], lens[3]
    );
    assert!(markdown::text().contains(&sentence), "{sentence}");
}

#[test]
fn md5_is_md5() {
    let hex = |bytes: &[u8]| strongroom::digest::hex(&md5(bytes));
    assert_eq!(hex(b""), "d41d8cd98f00b204e9800998ecf8427e");
    assert_eq!(hex(b"message digest"), "f96b697d7cb7938d525a2f31aaf161d0");
    let digits = b"1234567890".repeat(8);
    assert_eq!(hex(&digits), "57edf4a22be3c955ac49da2e2107b67a");
}
