//! What is wrong with records that cannot be trusted.

use crate::digest::Digest;
use crate::format;
use crate::format::record::{CommitNumber, GenerationName, GenerationNumber};

/// A record that cannot be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its number.
    pub number: CommitNumber,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Its bytes are damaged.
    #[error(transparent)]
    Format(#[from] format::Error),
    /// It is not there, though later ones are.
    #[error("the record is missing, later ones are there")]
    Missing,
    /// It carries another number than its name.
    #[error("the record says that it is number {actual}")]
    Number {
        /// The number inside.
        actual: u64,
    },
    /// The record after it names another record as its predecessor.
    #[error("the record after it continues another one (expected {expected}, found {actual})")]
    Chain {
        /// The digest in the later record.
        expected: Digest,
        /// The digest of this record.
        actual: Digest,
    },
    /// It makes a generation visible whose number is not higher than all before: it holds all the
    /// same, but no writer made it.
    #[error("it makes {name} visible, and {last} was there before")]
    Generation {
        /// The generation.
        name: GenerationName,
        /// The highest before it.
        last: GenerationNumber,
    },
    /// It cannot be read.
    #[error("cannot be read: {reason}")]
    Unreadable {
        /// The storage's words.
        reason: String,
    },
}
