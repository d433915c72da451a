//! Commit records, objects `log/<20 digits>`: numbered, each with the digest of the one before.
//! See "Commit log" in `store-format.md`.

use super::{Error, frame, payload};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::limits::LABEL_BYTES_MAX;

/// The number of a commit record; the first is 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct CommitNumber(pub u64);

/// A generation's number within its deployment; the first is 1.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode,
)]
pub struct GenerationNumber(pub u64);

impl std::fmt::Display for GenerationNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "g{}", self.0)
    }
}

/// The record as it is framed: what happened is a kind and a body, so that a reader can pass over
/// kinds that it does not know.
#[derive(Clone, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
struct Framed {
    number: CommitNumber,
    previous: Digest,
    time: UnixNanos,
    kind: u16,
    body: Vec<u8>,
}

/// One record of the commit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number, equal to the one in its name.
    pub number: CommitNumber,
    /// The digest of the object of the record before; zero for the first.
    pub previous: Digest,
    /// When it was written, by the writer's clock. For people; order is by number.
    pub time: UnixNanos,
    /// What happened.
    pub event: Event,
}

/// What a commit record makes true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A generation became visible (kind 1).
    Promote {
        /// Its deployment.
        deployment: String,
        /// Its number within the deployment.
        generation: GenerationNumber,
        /// Its manifest.
        manifest: Digest,
    },
    /// A kind that this version does not know: kept, and passed over.
    Unknown {
        /// The kind.
        kind: u16,
        /// Its body.
        body: Vec<u8>,
    },
}

const KIND_PROMOTE: u16 = 1;

/// Kinds below this must be known in order to write to the store: they may say that what a writer
/// would rely on is no longer there. A reader passes over all that it does not know.
pub const KINDS_OPTIONAL: u16 = 0x4000;

impl Record {
    /// Returns the record's frame.
    ///
    /// # Panics
    /// If the event's deployment is longer than [`LABEL_BYTES_MAX`]: a bug of the caller.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match &self.event {
            Event::Promote { deployment, generation, manifest } => {
                assert!(deployment.len() <= LABEL_BYTES_MAX, "checked where names are parsed");
                (KIND_PROMOTE, payload::encode(&(deployment, generation, manifest)))
            }
            Event::Unknown { kind, body } => (*kind, body.clone()),
        };
        let Self { number, previous, time, .. } = *self;
        frame::encode(frame::COMMIT, &Framed { number, previous, time, kind, body })
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let framed: Framed = frame::decode(frame::COMMIT, bytes)?;
        let event = match framed.kind {
            KIND_PROMOTE => {
                let (deployment, generation, manifest): (String, _, _) =
                    payload::decode(frame::COMMIT.name, &framed.body)?;
                super::manifest::check_label(frame::COMMIT.name, &deployment)?;
                Event::Promote { deployment, generation, manifest }
            }
            kind => Event::Unknown { kind, body: framed.body },
        };
        let Framed { number, previous, time, .. } = framed;
        Ok(Self { number, previous, time, event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_unknown_kinds_are_kept() {
        let promote = Event::Promote {
            deployment: "orders".into(),
            generation: GenerationNumber(3),
            manifest: Digest([9; 32]),
        };
        for event in [promote, Event::Unknown { kind: 700, body: vec![1, 2] }] {
            let previous = Digest([1; 32]);
            let record = Record { number: CommitNumber(4), previous, time: UnixNanos(-5), event };
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }
}
