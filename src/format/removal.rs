//! Lists of objects to be removed, objects `removals/<digest>` that commit records refer to. See
//! "Removal" in `store-format.md`.

use super::{Error, frame};
use crate::digest::Digest;
use crate::limits::REMOVAL_OBJECTS_MAX;

/// Names of objects, each kind strictly ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct List {
    /// Packs of chunks.
    pub packs: Vec<Digest>,
    /// Packs of list pages.
    pub pages: Vec<Digest>,
    /// Manifests.
    pub manifests: Vec<Digest>,
}

impl List {
    /// Returns how many objects are listed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.packs.len() + self.pages.len() + self.manifests.len()
    }

    /// Says whether nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the list's frame.
    ///
    /// # Panics
    /// If it is longer than [`REMOVAL_OBJECTS_MAX`] or not sorted: a bug of the caller.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.check().is_ok(), "sorted and bounded where lists are made");
        frame::encode(frame::REMOVAL, self)
    }

    /// Decodes a list.
    ///
    /// # Errors
    /// The bytes are damaged or newer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let list: Self = frame::decode(frame::REMOVAL, bytes)?;
        list.check()?;
        Ok(list)
    }

    fn check(&self) -> Result<(), Error> {
        let field = |field, actual, allowed| {
            Err(Error::Field { what: frame::REMOVAL.name, field, actual, allowed })
        };
        if self.len() > REMOVAL_OBJECTS_MAX {
            return field("objects", self.len() as u64, "at most 262144");
        }
        let names = [&self.packs, &self.pages, &self.manifests];
        match names.iter().position(|names| !names.is_sorted_by(|a, b| a < b)) {
            Some(kind) => field("names", kind as u64, "strictly ascending"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_survive_and_must_be_sorted() {
        let name = |byte| Digest([byte; 32]);
        let list =
            List { packs: vec![name(1), name(2)], pages: Vec::new(), manifests: vec![name(1)] };
        assert_eq!(List::decode(&list.encode()), Ok(list.clone()));
        assert_eq!((list.len(), list.is_empty()), (3, false));
        let twice = List { packs: vec![name(2), name(2)], ..List::default() };
        assert!(List::decode(&frame::encode(frame::REMOVAL, &twice)).is_err());
    }
}
