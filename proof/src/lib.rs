//! What is fuzzed, for `strongroom-proof fuzz` and for the targets of cargo-fuzz in `fuzz/` alike.

pub mod fuzz;
