//! Where content is cut, and how fast zeros are found.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use strongroom::chunker::{Cutter, Params, is_zero};

use crate::data::{MIB, noise};

pub fn all(criterion: &mut Criterion) {
    let bytes = noise(1, 16 * MIB);
    let mut group = criterion.benchmark_group("chunkers");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (name, chunking) in
        [("fixed 64 KiB", Params::default().fixed()), ("cdc 16 KiB", Params::default().cdc())]
    {
        let cutter = Cutter::new(chunking);
        group.bench_function(name, |bencher| bencher.iter(|| count(&cutter, black_box(&bytes))));
    }
    let zeros = vec![0; 16 * MIB];
    let all_zero = |bytes: &[u8]| bytes.chunks(64 << 10).filter(|chunk| is_zero(chunk)).count();
    group.bench_function("zero test of zeros", |bencher| {
        bencher.iter(|| all_zero(black_box(&zeros)));
    });
    group.bench_function("zero test of noise", |bencher| {
        bencher.iter(|| all_zero(black_box(&bytes)));
    });
    group.finish();
}

/// Returns the number of chunks.
fn count(cutter: &Cutter, mut bytes: &[u8]) -> usize {
    let mut chunks = 0;
    while let Some(len) = cutter.next_len(bytes, true) {
        bytes = &bytes[len..];
        chunks += 1;
    }
    chunks
}
