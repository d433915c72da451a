//! Interchange with canic-backup 0.68.2: the real crate is the judge.

mod commands;
mod document;
mod exporting;
mod hashes;
mod importing;
mod original;
mod refused;
