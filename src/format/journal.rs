//! Journal records, objects `runs/<run>/<20 digits>`: what a run did, numbered, each with the digest
//! of the one before. See "Run journals" in `store-format.md`.
//!
//! The event is JSON of the run layer: people read it, and unknown fields in it are refused there.

use super::{Error, frame};
use crate::clock::UnixNanos;
use crate::digest::Digest;

/// Longest name of a run, in bytes.
pub const RUN_NAME_BYTES_MAX: usize = 64;

/// One record of a run's journal.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct JournalRecord {
    /// The run's name, equal to the one in the record's key.
    pub run: String,
    /// Its number, equal to the one in its key; the first is 1.
    pub number: u64,
    /// The digest of the object of the record before; zero for the first.
    pub previous: Digest,
    /// When it was written, by the runner's clock. For people, and for the time a preflight is
    /// valid; order is by number.
    pub time: UnixNanos,
    /// What happened, as JSON.
    pub event: Vec<u8>,
}

impl JournalRecord {
    /// Returns the record's frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(frame::JOURNAL, self)
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let record: Self = frame::decode(frame::JOURNAL, bytes)?;
        if is_run_name(&record.run) {
            return Ok(record);
        }
        let reason = format!("{:?} is not the name of a run", record.run);
        Err(Error::Payload { what: frame::JOURNAL.name, reason })
    }
}

/// The whole journal of a run that has ended, object `runs/<run>/ended`.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct EndedJournal {
    /// The objects of its records, in order.
    pub records: Vec<Vec<u8>>,
}

/// Most bytes of records that are put into one [`EndedJournal`].
pub const ENDED_BYTES_MAX: usize = crate::limits::RECORD_BYTES_MAX / 2;

impl EndedJournal {
    /// Returns the frame.
    ///
    /// # Panics
    /// If the records take more than [`ENDED_BYTES_MAX`]: a bug of the caller.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        frame::encode(frame::ENDED_JOURNAL, self)
    }

    /// Decodes an ended journal; its records are decoded by themselves.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        frame::decode(frame::ENDED_JOURNAL, bytes)
    }
}

/// Says whether `name` can name a run: `[a-z0-9-]`, not empty, at most [`RUN_NAME_BYTES_MAX`]
/// bytes, no dash in front.
#[must_use]
pub fn is_run_name(name: &str) -> bool {
    (1..=RUN_NAME_BYTES_MAX).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_wrong_names_do_not() {
        let record = JournalRecord {
            run: "20261123t120000z-0a1b2c3d".into(),
            number: 3,
            previous: Digest([7; 32]),
            time: UnixNanos(5),
            event: b"{}".to_vec(),
        };
        assert_eq!(JournalRecord::decode(&record.encode()), Ok(record.clone()));
        for run in ["", "-a", "A", "a/b", "a.b", &"a".repeat(65)] {
            let record = JournalRecord { run: run.into(), ..record.clone() };
            assert!(matches!(JournalRecord::decode(&record.encode()), Err(Error::Payload { .. })));
        }
    }
}
