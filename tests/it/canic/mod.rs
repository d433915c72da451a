//! Interchange with canic-backup 0.68.2: the real crate is the judge.

mod hashes;
