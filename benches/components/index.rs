//! Look-ups in an index of a million chunks, and merging its segments.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use strongroom::backend::MemoryBackend;
use strongroom::digest::Digest;
use strongroom::format::header::StoreId;
use strongroom::format::pack::{Content, HEAD_BYTES, Record};
use strongroom::format::segment::{Entry, PackEntry};
use strongroom::index::{Index, merge};
use strongroom::values::Encoding;

/// Chunks in the index: 64 GB of content in chunks of 64 KiB.
const CHUNKS: u64 = 1_000_000;
/// Look-ups in one measurement.
const LOOKUPS: u64 = 10_000;
/// As many as a store can have before they are merged.
const SEGMENTS: u64 = 12;
/// More than a store can have: these are merged.
const SEGMENTS_TO_MERGE: u64 = 16;

const STORE: StoreId = StoreId([7; 16]);

pub fn all(criterion: &mut Criterion) {
    let backend = MemoryBackend::new();
    let index = Index::open(&backend, STORE).expect("an empty index");
    fill(&index, &backend, SEGMENTS);
    let snapshot = index.snapshot();
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(LOOKUPS));
    // A large odd step visits the chunks in an order that the processor cannot guess.
    let wanted = |from: u64| {
        let ordinals = (0..LOOKUPS).map(|n| from + n * 7_919_993 % CHUNKS);
        ordinals.map(digest).collect::<Vec<_>>()
    };
    for (name, digests) in [("hit", wanted(0)), ("miss", wanted(CHUNKS))] {
        let found = || digests.iter().filter(|digest| snapshot.find(digest).is_some()).count();
        assert_eq!(found(), if name == "hit" { digests.len() } else { 0 });
        group.bench_function(name, |bencher| bencher.iter(|| black_box(found())));
    }
    group.throughput(Throughput::Elements(CHUNKS));
    group.bench_function("merge", |bencher| {
        let unmerged = || {
            let backend = MemoryBackend::new();
            let index = Index::open(&backend, STORE).expect("an empty index");
            fill(&index, &backend, SEGMENTS_TO_MERGE);
            (index, backend)
        };
        bencher.iter_batched(
            unmerged,
            |(index, backend)| {
                assert_ne!(merge(&index, &backend).expect("merged"), 0);
                (index, backend)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn digest(ordinal: u64) -> Digest {
    Digest::of(&ordinal.to_le_bytes())
}

fn fill(index: &Index, backend: &MemoryBackend, segments: u64) {
    for segment in 0..segments {
        let id = Digest::of(&[b"pack", &segment.to_le_bytes()[..]].concat());
        let pack = PackEntry { id, bytes: 24 << 20, content: Content::Chunks };
        let entries = (CHUNKS * segment / segments..CHUNKS * (segment + 1) / segments)
            .map(|ordinal| Entry { pack: 0, record: record(ordinal) })
            .collect();
        index.write_segment(backend, &[pack], entries).expect("a segment");
    }
}

fn record(ordinal: u64) -> Record {
    Record {
        digest: digest(ordinal),
        offset: HEAD_BYTES as u32,
        stored_bytes: 32 << 10,
        plain_bytes: 64 << 10,
        encoding: Encoding::Zstd,
        base: None,
    }
}
