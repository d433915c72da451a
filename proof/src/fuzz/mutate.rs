//! Changes of inputs: bits, numbers, lengths, splices. For runs without a fuzzer that sees which
//! code an input reaches; an input that is taken although it was changed is changed further.

use fastrand::Rng;

/// Longest input.
pub const INPUT_BYTES_MAX: usize = 1 << 20;

/// Bytes that look random and always are the same.
#[must_use]
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Changes an input in one to six places; `others` are inputs from which parts are taken.
pub fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    for _ in 0..1 << rng.u32(0..3) {
        one(input, others, rng);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn one(input: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut Rng) {
    let len = input.len();
    let at = rng.usize(0..=len);
    match rng.u32(0..100) {
        0..20 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << rng.u32(0..8);
            }
        }
        20..35 => {
            if let Some(byte) = input.get_mut(at) {
                *byte =
                    *rng.choice(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'-', b'9']).unwrap_or(&0);
            }
        }
        35..55 => number(input, at, rng),
        55..65 => digits(input, at, rng),
        65..73 => input.truncate(at),
        73..81 => drop(input.drain(at..(at + rng.usize(0..40)).min(len))),
        81..88 => {
            let end = (at + rng.usize(0..200)).min(len);
            let part = input[at..end].to_vec();
            insert(input, rng.usize(0..=len), &part);
        }
        88..96 => {
            let Some(other) = rng.choice(others) else { return };
            let from = rng.usize(0..=other.len());
            let to = (from + rng.usize(0..400)).min(other.len());
            if rng.bool() {
                insert(input, at, &other[from..to]);
            } else {
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
        96..99 => {
            let noise = noise(rng.u64(..), rng.usize(0..64));
            insert(input, at, &noise);
        }
        _ => grow(input, at, rng),
    }
}

fn insert(input: &mut Vec<u8>, at: usize, part: &[u8]) {
    if input.len() + part.len() <= INPUT_BYTES_MAX {
        input.splice(at..at, part.iter().copied());
    }
}

/// Overwrites a little-endian number by one that is extreme.
fn number(input: &mut [u8], at: usize, rng: &mut Rng) {
    let len = input.len() as u64;
    let extremes = [
        0,
        1,
        len.wrapping_sub(1),
        len,
        len + 1,
        u64::MAX,
        u64::MAX - 1,
        u64::MAX / 2,
        1 << 60,
        1 << rng.u32(0..64),
        (1 << rng.u32(0..64)) - 1,
        rng.u64(0..300),
    ];
    let value = rng.choice(extremes).unwrap_or(0).to_le_bytes();
    let width = 1 << rng.usize(0..4);
    if let Some(place) = input.get_mut(at..at + width) {
        place.copy_from_slice(&value[..width]);
    }
}

/// Replaces the first number in decimal digits from `at` on by one that is extreme.
fn digits(input: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let Some(start) = input[at..].iter().position(u8::is_ascii_digit) else { return };
    let start = at + start;
    let count = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let extremes: [&[u8]; 8] = [
        b"0",
        b"-1",
        b"18446744073709551615",
        b"18446744073709551616",
        b"-9223372036854775808",
        b"9223372036854775807",
        b"1e999",
        b"4294967296",
    ];
    let value = rng.choice(extremes).unwrap_or(b"0");
    input.splice(start..start + count, value.iter().copied());
}

/// Makes it very long: by a part of itself again and again, or by brackets.
fn grow(input: &mut Vec<u8>, at: usize, rng: &mut Rng) {
    let end = (at + rng.usize(1..100)).min(input.len());
    let mut part = input[at..end].to_vec();
    if part.is_empty() || rng.u32(0..4) == 0 {
        part = vec![*rng.choice(b"[{(\"\0 0.\n=").unwrap_or(&b'[')];
    }
    let room = INPUT_BYTES_MAX.saturating_sub(input.len());
    let wanted = if rng.u32(0..8) == 0 { room } else { room.min(20_000) };
    let many: Vec<u8> = part.iter().copied().cycle().take(wanted).collect();
    input.splice(at..at, many);
}
