//! Memory images of eight canisters, as their snapshots hold them.
//!
//! `stable_memory.bin` is written by three B-trees of `ic-stable-structures` that share one
//! memory: records with sequential keys, an index in random order, and an event log that only
//! grows. `wasm_memory.bin` is a heap of 64 KiB regions of different kinds. From one generation to
//! the next the images change in place: a part of the key windows and heap regions is hot, and
//! inside them a part of the records; new records are appended.
//!
//! The B-trees work on memory and each generation is then written as a fresh file; the bytes are
//! the same as those of a file-backed memory.

use crate::heap::Heap;
use crate::rng::Rng;
use crate::text;
use crate::{Options, generation_dir, write_file};
use ic_stable_structures::memory_manager::{MemoryId, MemoryManager, VirtualMemory};
use ic_stable_structures::{BTreeMap, Memory, VectorMemory};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Shares of the members in the whole, in percent: ledgers are large, metrics small.
const MEMBER_SHARES: [u64; 8] = [20, 18, 16, 12, 12, 10, 7, 5];
/// Stable memory of all members at full scale, first generation.
const STABLE_BYTES_FULL: f64 = 1_800e6;
/// Wasm heaps of all members at full scale.
const HEAP_BYTES_FULL: f64 = 200e6;
/// Pages of 64 KiB in a bucket of the memory manager: its default, and the least for small images,
/// so that little of them is unused.
const BUCKET_PAGES: (u64, u64) = (128, 16);
/// Windows of keys that are hot or not: long ones, some MiB of records side by side, and short
/// ones in between. Of each: the most records, and the share that a generation touches.
const LONG_WINDOW: (u64, f64) = (10240, 0.48);
const SHORT_WINDOW: (u64, f64) = (64, 0.003);
/// Long windows that a member has at least, so that a small scale has some that are not hot.
const LONG_WINDOWS_MIN: u64 = 32;
/// Share of the records rewritten in a hot window.
const HOT_RECORD_SHARE: f64 = 0.1;
/// New records per generation, as a share of those there.
const GROWTH_SHARE: f64 = 0.004;

/// Number of the first canister; it decides the members' names.
const FIRST_CANISTER: u64 = 0x0180_0000;

type Region = VirtualMemory<VectorMemory>;

/// The stable memory of one canister.
struct Canister {
    memory: VectorMemory,
    records: BTreeMap<u64, Vec<u8>, Region>,
    by_owner: BTreeMap<[u8; 37], u64, Region>,
    events: BTreeMap<u64, Vec<u8>, Region>,
}

/// Writes all generations of all members, two members at a time.
pub fn make(options: &Options) -> io::Result<()> {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let worker = || -> io::Result<()> {
            loop {
                let member = next.fetch_add(1, Ordering::Relaxed);
                if member >= MEMBER_SHARES.len() {
                    return Ok(());
                }
                make_member(options, member)?;
            }
        };
        let workers = [scope.spawn(worker), scope.spawn(worker)];
        workers
            .into_iter()
            .try_for_each(|one| one.join().expect("a worker that makes members panicked"))
    })
}

/// Writes every generation of one member.
fn make_member(options: &Options, member: usize) -> io::Result<()> {
    let share = MEMBER_SHARES[member] as f64 / 100.0 * options.scale;
    let seed = [options.seed, member as u64];
    let mut rng = Rng::of(&seed);
    let mut canister = Canister::create((STABLE_BYTES_FULL * share) as u64, &mut rng);
    let mut heap = Heap::create((HEAP_BYTES_FULL * share) as usize, &mut rng);

    for generation in 1..=options.generations {
        if generation > 1 {
            let mut rng = Rng::of(&[seed[0], seed[1], generation]);
            canister.step(&mut rng);
            heap.step(&mut rng);
        }
        let dir =
            generation_dir(options, generation).join(canister_name(FIRST_CANISTER + member as u64));
        write_file(&dir.join("stable_memory.bin"), &canister.memory.borrow())?;
        write_file(&dir.join("wasm_memory.bin"), heap.bytes())?;
    }
    Ok(())
}

impl Canister {
    /// Makes a canister with records in at least `bytes` of memory.
    fn create(bytes: u64, rng: &mut Rng) -> Self {
        let memory = VectorMemory::default();
        let bucket_pages = (bytes >> 16).div_ceil(32).clamp(BUCKET_PAGES.1, BUCKET_PAGES.0);
        let manager = MemoryManager::init_with_bucket_size(memory.clone(), bucket_pages as u16);
        let region = |id| manager.get(MemoryId::new(id));
        let mut canister = Self {
            memory,
            records: BTreeMap::init(region(0)),
            by_owner: BTreeMap::init(region(1)),
            events: BTreeMap::init(region(2)),
        };
        while canister.memory.size() << 16 < bytes {
            canister.add_record(rng);
        }
        canister
    }

    /// Works as a canister does between two backups.
    fn step(&mut self, rng: &mut Rng) {
        let records = self.records.len();
        let long = LONG_WINDOW.0.min(records / LONG_WINDOWS_MIN);
        self.touch_windows(long.max(1), LONG_WINDOW.1, rng);
        self.touch_windows(SHORT_WINDOW.0, SHORT_WINDOW.1, rng);
        for _ in 0..(records as f64 * GROWTH_SHARE) as u64 {
            self.add_record(rng);
        }
    }

    /// Rewrites records in a share of all windows of keys.
    fn touch_windows(&mut self, window_records: u64, hot_share: f64, rng: &mut Rng) {
        let records = self.records.len();
        for window in 0..records.div_ceil(window_records) {
            if !rng.chance(hot_share) {
                continue;
            }
            let first = window * window_records;
            for id in first..records.min(first + window_records) {
                if rng.chance(HOT_RECORD_SHARE) {
                    self.touch_record(id, rng);
                }
            }
        }
    }

    fn add_record(&mut self, rng: &mut Rng) {
        let id = self.records.len();
        let mut owner = [0; 37];
        rng.fill(&mut owner[..29]);
        owner[29..].copy_from_slice(&id.to_be_bytes());
        self.records.insert(id, record(id, &owner[..29], rng));
        // Half of the records are found by their owner: the index is in random order.
        if rng.chance(0.5) {
            self.by_owner.insert(owner, id);
        }
        self.add_event(id, "create", rng);
    }

    /// Rewrites the balance, the time and the nonce of a record in place.
    fn touch_record(&mut self, id: u64, rng: &mut Rng) {
        let mut value = self.records.get(&id).expect("ids run from 0 without gaps");
        value[8..16].copy_from_slice(&rng.below(1 << 40).to_le_bytes());
        value[16..24].copy_from_slice(&(1_700_000_000_000 + rng.below(1 << 32)).to_le_bytes());
        rng.fill(&mut value[24..48]);
        self.records.insert(id, value);
        // One change in sixteen leaves an event, the others only a new balance.
        if rng.chance(1.0 / 16.0) {
            self.add_event(id, "update", rng);
        }
    }

    fn add_event(&mut self, id: u64, what: &str, rng: &mut Rng) {
        let mut line = format!("{{\"event\":\"{what}\",\"record\":{id},\"memo\":\"");
        text::sentence(rng, 24, &mut line);
        line.push_str("\",\"digest\":\"");
        let mut event = line.into_bytes();
        let end = event.len() + 32;
        event.resize(end, 0);
        rng.fill(&mut event[end - 32..]);
        self.events.insert(self.events.len(), event);
    }
}

/// Encodes one record: numbers, a nonce, the owner, and text with some fields that repeat.
fn record(id: u64, owner: &[u8], rng: &mut Rng) -> Vec<u8> {
    let mut value = Vec::with_capacity(512);
    value.extend_from_slice(&id.to_le_bytes());
    value.extend_from_slice(&rng.below(1 << 40).to_le_bytes());
    value.extend_from_slice(&(1_690_000_000_000 + id * 977).to_le_bytes());
    value.resize(48, 0);
    rng.fill(&mut value[24..48]);
    value.extend_from_slice(owner);
    let mut text = String::from("{\"kind\":\"transfer\",\"status\":\"settled\",\"memo\":\"");
    let memo_bytes = 20 + rng.index(60);
    text::sentence(rng, memo_bytes, &mut text);
    text.push_str("\"}");
    value.extend_from_slice(text.as_bytes());
    // What is signed, encrypted or compressed already.
    let start = value.len();
    value.resize(start + 64 + rng.index(144), 0);
    rng.fill(&mut value[start..]);
    value
}

/// Returns the textual id of the canister with this number.
fn canister_name(number: u64) -> String {
    let mut id = [0; 10];
    id[..8].copy_from_slice(&number.to_be_bytes());
    id[8..].copy_from_slice(&[1, 1]);
    textual_id(&id)
}

/// Writes an id as people do: base 32 of its CRC-32 and itself, in groups of five.
fn textual_id(id: &[u8]) -> String {
    let mut bytes = crc32(id).to_be_bytes().to_vec();
    bytes.extend_from_slice(id);

    let mut name = String::new();
    let (mut bits, mut bit_count, mut letters) = (0u32, 0, 0);
    let alphabet = b"abcdefghijklmnopqrstuvwxyz234567";
    for byte in bytes {
        bits = bits << 8 | u32::from(byte);
        bit_count += 8;
        while bit_count >= 5 {
            bit_count -= 5;
            if letters > 0 && letters % 5 == 0 {
                name.push('-');
            }
            name.push(alphabet[(bits >> bit_count & 31) as usize] as char);
            letters += 1;
        }
    }
    if bit_count > 0 {
        name.push(alphabet[(bits << (5 - bit_count) & 31) as usize] as char);
    }
    name
}

/// CRC-32 as zip and gzip use it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canister_names_carry_their_checksum() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(canister_name(2), "ryjl3-tyaaa-aaaaa-aaaba-cai");
    }
}
