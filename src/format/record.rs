//! Commit records, objects `log/<20 digits>`: numbered, each with the digest of the one before.
//! See "Commit log" in `store-format.md`.

use super::manifest::check_label;
use super::{Error, frame, payload};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::limits::{GENERATION_MAX, LABEL_BYTES_MAX, RECORD_NAMES_MAX as NAMES_MAX};

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

/// A generation of a deployment, as records name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, bincode::Encode, bincode::Decode)]
pub struct GenerationName {
    /// The deployment.
    pub deployment: String,
    /// The number within it.
    pub generation: GenerationNumber,
}

impl std::fmt::Display for GenerationName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.deployment, self.generation)
    }
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
    /// Generations became invisible (kind 2).
    Forget(Vec<GenerationName>),
    /// Forgotten generations became visible again (kind 3).
    Undo(Vec<GenerationName>),
    /// A generation is kept whatever a retention policy says (kind 4).
    Pin(GenerationName),
    /// It is not any more (kind 5).
    Unpin(GenerationName),
    /// Nobody should begin to rely on these objects: they are to be removed (kind 9).
    Condemn {
        /// What this record judges by: every record up to this one, and nothing after it.
        basis: CommitNumber,
        /// The list of objects: [`super::removal::List`].
        list: Digest,
    },
    /// From here on nobody may rely on the objects of `list` (kind 10).
    Collect {
        /// The record that condemned them.
        condemned: CommitNumber,
        /// The list of objects, a part of the condemned ones: [`super::removal::List`].
        list: Digest,
    },
    /// Everything that a collection lists is gone (kind 11).
    Collected {
        /// The record of kind 10.
        collect: CommitNumber,
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
const KIND_FORGET: u16 = 2;
const KIND_UNDO: u16 = 3;
const KIND_PIN: u16 = 4;
const KIND_UNPIN: u16 = 5;
const KIND_CONDEMN: u16 = 9;
const KIND_COLLECT: u16 = 10;
const KIND_COLLECTED: u16 = 11;

/// Kinds below this must be known in order to write to the store: they may say that what a writer
/// would rely on is no longer there. A reader passes over all that it does not know.
pub const KINDS_OPTIONAL: u16 = 0x4000;

impl Event {
    /// Returns the kind and the body.
    fn parts(&self) -> (u16, Vec<u8>) {
        let names = |names: &Vec<GenerationName>| {
            assert!(names.len() <= NAMES_MAX, "bounded where records are made");
            payload::encode(names)
        };
        match self {
            Self::Promote { deployment, generation, manifest } => {
                assert!(deployment.len() <= LABEL_BYTES_MAX, "checked where names are parsed");
                (KIND_PROMOTE, payload::encode(&(deployment, generation, manifest)))
            }
            Self::Forget(list) => (KIND_FORGET, names(list)),
            Self::Undo(list) => (KIND_UNDO, names(list)),
            Self::Pin(name) => (KIND_PIN, payload::encode(name)),
            Self::Unpin(name) => (KIND_UNPIN, payload::encode(name)),
            Self::Condemn { basis, list } => (KIND_CONDEMN, payload::encode(&(basis, list))),
            Self::Collect { condemned, list } => {
                (KIND_COLLECT, payload::encode(&(condemned, list)))
            }
            Self::Collected { collect } => (KIND_COLLECTED, payload::encode(collect)),
            Self::Unknown { kind, body } => (*kind, body.clone()),
        }
    }

    fn decode(kind: u16, body: Vec<u8>) -> Result<Self, Error> {
        const WHAT: &str = frame::COMMIT.name;
        Ok(match kind {
            KIND_PROMOTE => {
                let (deployment, generation, manifest): (String, _, _) =
                    payload::decode(WHAT, &body)?;
                check_label(WHAT, &deployment)?;
                check_generation(generation)?;
                Self::Promote { deployment, generation, manifest }
            }
            KIND_FORGET => Self::Forget(decode_names(&body)?),
            KIND_UNDO => Self::Undo(decode_names(&body)?),
            KIND_PIN => Self::Pin(decode_name(&body)?),
            KIND_UNPIN => Self::Unpin(decode_name(&body)?),
            KIND_CONDEMN => {
                let (basis, list) = payload::decode(WHAT, &body)?;
                Self::Condemn { basis, list }
            }
            KIND_COLLECT => {
                let (condemned, list) = payload::decode(WHAT, &body)?;
                Self::Collect { condemned, list }
            }
            KIND_COLLECTED => Self::Collected { collect: payload::decode(WHAT, &body)? },
            kind => Self::Unknown { kind, body },
        })
    }
}

fn check_generation(number: GenerationNumber) -> Result<(), Error> {
    if (1..=GENERATION_MAX).contains(&number.0) {
        return Ok(());
    }
    let (what, field, allowed) = (frame::COMMIT.name, "number of a generation", "1 to 2^63 - 1");
    Err(Error::Field { what, field, actual: number.0, allowed })
}

fn check_name(name: &GenerationName) -> Result<(), Error> {
    check_label(frame::COMMIT.name, &name.deployment)?;
    check_generation(name.generation)
}

fn decode_name(body: &[u8]) -> Result<GenerationName, Error> {
    let name: GenerationName = payload::decode(frame::COMMIT.name, body)?;
    check_name(&name)?;
    Ok(name)
}

fn decode_names(body: &[u8]) -> Result<Vec<GenerationName>, Error> {
    let names: Vec<GenerationName> = payload::decode(frame::COMMIT.name, body)?;
    names.iter().try_for_each(check_name)?;
    if names.is_empty() || names.len() > NAMES_MAX {
        let (field, actual) = ("generations", names.len() as u64);
        let allowed = "1 to 65536";
        return Err(Error::Field { what: frame::COMMIT.name, field, actual, allowed });
    }
    Ok(names)
}

impl Record {
    /// Returns the record's frame.
    ///
    /// # Panics
    /// If the event names a deployment by more than [`LABEL_BYTES_MAX`] bytes, or more than
    /// [`NAMES_MAX`] generations: a bug of the caller.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = self.event.parts();
        let Self { number, previous, time, .. } = *self;
        frame::encode(frame::COMMIT, &Framed { number, previous, time, kind, body })
    }

    /// Decodes a record.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let framed: Framed = frame::decode(frame::COMMIT, bytes)?;
        let Framed { number, previous, time, kind, body } = framed;
        Ok(Self { number, previous, time, event: Event::decode(kind, body)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_unknown_kinds_are_kept() {
        let (deployment, generation) = ("orders".to_owned(), GenerationNumber(3));
        let name = GenerationName { deployment: deployment.clone(), generation };
        let (list, basis) = (Digest([7; 32]), CommitNumber(2));
        for event in [
            Event::Promote { deployment, generation, manifest: Digest([9; 32]) },
            Event::Forget(vec![name.clone(), name.clone()]),
            Event::Undo(vec![name.clone()]),
            Event::Pin(name.clone()),
            Event::Unpin(name),
            Event::Condemn { basis, list },
            Event::Collect { condemned: basis, list },
            Event::Collected { collect: basis },
            Event::Unknown { kind: 700, body: vec![1, 2] },
        ] {
            let previous = Digest([1; 32]);
            let record = Record { number: CommitNumber(4), previous, time: UnixNanos(-5), event };
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
    }

    #[test]
    fn a_record_that_forgets_nothing_or_a_wrong_name_is_refused() {
        let bad = |event| {
            let previous = Digest([1; 32]);
            let record = Record { number: CommitNumber(4), previous, time: UnixNanos(0), event };
            Record::decode(&record.encode()).is_err()
        };
        let name = |deployment: &str| GenerationName {
            deployment: deployment.into(),
            generation: GenerationNumber(1),
        };
        assert!(bad(Event::Forget(Vec::new())));
        assert!(bad(Event::Undo(vec![name("a"), name("a/b")])));
        assert!(bad(Event::Pin(name(""))) && bad(Event::Unpin(name("-a"))));
    }

    #[test]
    fn generations_have_numbers_that_can_be_named_and_followed() {
        let is_good = |number| {
            let (deployment, generation) = ("a".to_owned(), GenerationNumber(number));
            let promote = Event::Promote {
                deployment: deployment.clone(),
                generation,
                manifest: Digest([9; 32]),
            };
            let name = GenerationName { deployment, generation };
            let all = [promote, Event::Pin(name.clone()), Event::Undo(vec![name])].map(|event| {
                let (number, previous) = (CommitNumber(4), Digest([1; 32]));
                let record = Record { number, previous, time: UnixNanos(0), event };
                Record::decode(&record.encode()).is_ok()
            });
            assert!(all.iter().all(|good| *good == all[0]), "{number}: {all:?}");
            all[0]
        };
        assert!(is_good(1) && is_good(GENERATION_MAX));
        assert!(!is_good(0) && !is_good(GENERATION_MAX + 1) && !is_good(u64::MAX));
    }
}
