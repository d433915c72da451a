//! Benchmarks of the parts, and of the whole on made-up data.
//!
//! ```text
//! cargo bench                    # all of them, about three minutes
//! cargo bench -- index           # those whose name contains `index`
//! ```
//!
//! Peers are compared by `benches/peers/run`. Look at these for what a change of one part does:
//! `cargo bench -- --save-baseline before`, then `cargo bench -- --baseline before`.

mod chunkers;
mod codec;
mod data;
mod digests;
mod end_to_end;
mod index;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

/// Few and short samples: differences of some percent show, and everything runs in minutes.
fn short() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .without_plots()
}

criterion_group! {
    name = components;
    config = short();
    targets = chunkers::all, digests::all, codec::all, index::all, end_to_end::all
}
criterion_main!(components);
