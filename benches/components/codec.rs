//! Encoding and decoding chunks of 64 KiB: alone, and against a base.

use std::hint::black_box;

use criterion::{BenchmarkGroup, Criterion, Throughput, measurement::WallTime};
use strongroom::codec::{Decoder, Encoder, Encoding, Level};

use crate::data::{noise, records};

const CHUNK_BYTES: usize = 64 << 10;

pub fn all(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    let (image, incompressible) = (records(3, CHUNK_BYTES), noise(3, CHUNK_BYTES));
    let levels = [("image", Level::IMAGE), ("paged", Level::PAGED), ("dense", Level::DENSE)];
    for (name, level) in levels {
        encode(&mut group, &format!("encode image, {name}"), &image, level);
        encode(&mut group, &format!("encode noise, {name}"), &incompressible, level);
    }
    decode(&mut group, "decode image", &image);
    delta(&mut group, &image);
    group.finish();
}

fn encode(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, plain: &[u8], level: Level) {
    let mut encoder = Encoder::new().expect("memory");
    let mut stored = Vec::with_capacity(CHUNK_BYTES);
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            stored.clear();
            encoder.encode(black_box(plain), level, &mut stored)
        });
    });
}

fn decode(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, plain: &[u8]) {
    let mut stored = Vec::new();
    let encoding = Encoder::new().expect("memory").encode(plain, Level::IMAGE, &mut stored);
    assert_eq!(encoding, Encoding::Zstd);
    let (mut decoder, mut out) = (Decoder::new().expect("memory"), vec![0; plain.len()]);
    group.bench_function(name, |bencher| {
        bencher.iter(|| decoder.decode(encoding, black_box(&stored), None, &mut out));
    });
}

/// A chunk in which one page of sixteen has changed.
fn delta(group: &mut BenchmarkGroup<'_, WallTime>, base: &[u8]) {
    let mut plain = base.to_vec();
    plain[20_480..24_576].copy_from_slice(&records(4, 4096));
    let (room, mut stored) = (CHUNK_BYTES / 2, Vec::new());
    let mut encoder = Encoder::new().expect("memory");
    assert!(encoder.encode_with_base(&plain, base, Level::DELTA, room, &mut stored));
    group.bench_function("encode delta", |bencher| {
        bencher.iter(|| {
            stored.clear();
            encoder.encode_with_base(black_box(&plain), base, Level::DELTA, room, &mut stored)
        });
    });
    let (mut decoder, mut out) = (Decoder::new().expect("memory"), vec![0; plain.len()]);
    group.bench_function("decode delta", |bencher| {
        bencher.iter(|| {
            decoder.decode(Encoding::ZstdWithBase, black_box(&stored), Some(base), &mut out)
        });
    });
}
