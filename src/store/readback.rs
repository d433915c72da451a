//! Read back: is what a manifest promises really there? Every chunk of an artifact is read, decoded
//! and digested, and the artifact's checksum is computed anew from the bytes.

use std::collections::HashSet;
use std::io::{self, Write};

use super::checksum::ArtifactChecksum;
use super::tree::WriteError;
use super::{Error, ListIter, Progress, Store};
use crate::digest::{Algorithm, ChecksumHasher, Digest};
use crate::format::manifest::{Artifact, Entry, Node};
use crate::fstree::compare_paths;

/// What an artifact reads back as; equal to what its manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// The artifact's member.
    pub member: String,
    /// The algorithm of `checksum`.
    pub algorithm: Algorithm,
    /// The artifact's checksum, computed from the bytes that were read.
    pub checksum: [u8; 32],
    /// Its files, hard links included.
    pub files: u64,
    /// Bytes read, holes included.
    pub bytes: u64,
}

impl Store {
    /// Reads an artifact back through the backend, whether or not a generation shows it, and
    /// compares every file's checksum and the artifact's own with the manifest.
    ///
    /// Files that `known`, an artifact that was read back before, has with the same content at the
    /// same path are not read again.
    ///
    /// # Errors
    /// Something is missing or damaged ([`Error::Artifact`] if all of it can be read and is not
    /// what the manifest says), or the work was interrupted.
    pub fn read_back(
        &self,
        manifest: &Digest,
        known: Option<&Artifact>,
        progress: &Progress,
    ) -> Result<ReadBack, Error> {
        let artifact = self.artifact(manifest)?;
        let differs = |path: &[u8]| Error::Artifact {
            manifest: *manifest,
            path: String::from_utf8_lossy(path).into_owned(),
        };
        let with_sha256 = artifact.algorithm == Algorithm::Sha256;
        // Files with several names are few; the checksums of the others need not be kept.
        let mut linked = HashSet::new();
        for entry in self.entries(&artifact) {
            if let Node::HardLink(target) = entry?.node {
                linked.insert(target);
            }
        }
        let mut whole = ArtifactChecksum::new(artifact.algorithm);
        let (mut files, mut bytes) = (0, 0);
        let mut known = known.map(|artifact| self.entries(artifact).peekable());
        for entry in self.entries(&artifact) {
            let entry = entry?;
            progress.check()?;
            let Node::File(content) = &entry.node else {
                files += u64::from(matches!(entry.node, Node::HardLink(_)));
                whole.add(&entry, false);
                continue;
            };
            if known.as_mut().is_some_and(|known| has_same(known, &entry)) {
                files += 1;
                whole.add(&entry, linked.contains(&entry.path));
                continue;
            }
            let with_sha256 = with_sha256 || content.checksums.sha256.is_some();
            let mut sink = Hashing { hasher: ChecksumHasher::new(with_sha256), bytes: 0, progress };
            match self.write_content(content, &mut sink) {
                Err(WriteError::Store(error)) => return Err(error),
                Err(WriteError::Out(_)) => return Err(Error::Interrupted),
                Ok(()) => {}
            }
            files += 1;
            bytes += sink.bytes;
            let found = sink.hasher.finish();
            let expected = &content.checksums;
            let equal = found.blake3 == expected.blake3
                && (expected.sha256.is_none() || found.sha256 == expected.sha256);
            if !equal || sink.bytes != content.bytes {
                return Err(differs(&entry.path));
            }
            whole.add_with(&entry, Some(&found), linked.contains(&entry.path));
        }
        let checksum = whole.finish();
        if checksum != artifact.checksum {
            return Err(differs(b""));
        }
        let (member, algorithm) = (artifact.member, artifact.algorithm);
        Ok(ReadBack { member, algorithm, checksum, files, bytes })
    }
}

/// Says whether the artifact whose entries are `known` has this file, with the same content;
/// entries come in order.
fn has_same(known: &mut std::iter::Peekable<ListIter<'_, Entry>>, entry: &Entry) -> bool {
    while let Some(other) = known.peek() {
        match other {
            Ok(other) => match compare_paths(&other.path, &entry.path) {
                std::cmp::Ordering::Less => drop(known.next()),
                std::cmp::Ordering::Equal => return other.node == entry.node,
                std::cmp::Ordering::Greater => return false,
            },
            // What cannot be read vouches for nothing.
            Err(_) => drop(known.next()),
        }
    }
    false
}

/// Hashes what is written to it; fails when the work is interrupted.
struct Hashing<'p> {
    hasher: ChecksumHasher,
    bytes: u64,
    progress: &'p Progress,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.progress.is_interrupted() {
            return Err(io::Error::other("interrupted"));
        }
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.progress.add(bytes.len() as u64);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
