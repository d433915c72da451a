//! Digests of chunks, and whole-content checksums.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use strongroom::digest::{Checksums, Digest};

use crate::data::{MIB, noise};

pub fn all(criterion: &mut Criterion) {
    let bytes = noise(2, MIB);
    let mut group = criterion.benchmark_group("digests");
    for len in [4 << 10, 16 << 10, 64 << 10, MIB] {
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_with_input(BenchmarkId::new("blake3", len), &bytes[..len], |bencher, bytes| {
            bencher.iter(|| Digest::of(black_box(bytes)));
        });
    }
    for (name, with_sha256) in [("checksum blake3", false), ("checksum blake3 + sha256", true)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| Checksums::of(black_box(&bytes), with_sha256));
        });
    }
    group.finish();
}
