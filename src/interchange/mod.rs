//! Interchange: backup directories of other programs, taken in and given out.

pub mod canic;
