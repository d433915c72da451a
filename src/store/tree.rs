//! Trees: looking at a visible generation: its members, their entries, the content of a file.

use std::io::Write;
use std::sync::Arc;

use super::chunks::{ChunkReader, Wanted};
use super::{Error, ListIter, Reference, Store};
use crate::digest::Digest;
use crate::format::manifest::{
    Artifact, Chunks, Content, Entry, Generation as GenerationManifest, Node,
};
use crate::format::page::ChunkRef;
use crate::fstree::compare_paths;
use crate::lease::Lease;
use crate::limits::UNIT_BYTES;
use crate::log;

/// A member of an opened generation.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its artifact's manifest.
    pub id: Digest,
    /// What the manifest says.
    pub artifact: Artifact,
}

/// An opened generation, or a part of it: what a reference points to.
#[derive(Clone, Debug)]
pub struct Tree {
    /// The generation.
    pub generation: log::Generation,
    /// Its manifest.
    pub manifest: GenerationManifest,
    /// Its members; those named by the reference.
    pub members: Vec<Member>,
    /// The path below the only member that the reference names; empty for all of it.
    pub path: Vec<u8>,
    /// Members whose manifest cannot be read, with the cause.
    pub unreadable: Vec<(String, String)>,
    /// While it is held, nothing that this needs is removed. Clones share it.
    #[expect(dead_code, reason = "held")]
    lease: Option<Arc<Lease>>,
}

impl Tree {
    /// Returns `name@gN`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}@{}", self.generation.deployment, self.generation.number)
    }
}

impl Store {
    /// Holds off the removal of everything that is visible, as long as it is held; `None` if that is
    /// not possible, which is no reason not to read.
    #[must_use]
    pub fn read_lease(&self) -> Option<Lease> {
        Lease::reader(self.backend())
    }

    /// Opens what `reference` points to. As long as the tree, or a clone of it, is there, nothing
    /// that it needs is removed, even if it is forgotten meanwhile.
    ///
    /// # Errors
    /// It does not exist, or its manifests cannot be read.
    pub fn tree(&self, reference: &Reference) -> Result<Tree, Error> {
        // Before the log is read: what it shows now stays.
        let lease = Lease::reader(self.backend());
        let generation = self.resolve(reference)?;
        if let Some(index) = self.index.get() {
            index.refresh(self.backend())?;
        }
        self.tree_of(generation, reference.path.as_deref(), lease)
    }

    fn tree_of(
        &self,
        generation: log::Generation,
        path: Option<&[u8]>,
        lease: Option<Lease>,
    ) -> Result<Tree, Error> {
        let manifest = self.generation(&generation.manifest)?;
        let (wanted, path) = match path {
            None => (None, &[][..]),
            Some(path) => match path.iter().position(|byte| *byte == b'/') {
                Some(at) => (Some(&path[..at]), &path[at + 1..]),
                None => (Some(path), &[][..]),
            },
        };
        let (mut members, mut unreadable) = (Vec::new(), Vec::new());
        for member in &manifest.members {
            if wanted.is_some_and(|wanted| wanted != member.name.as_bytes()) {
                continue;
            }
            match self.artifact(&member.artifact) {
                Ok(artifact) => {
                    let (name, id) = (member.name.clone(), member.artifact);
                    members.push(Member { name, id, artifact });
                }
                Err(error) if wanted.is_some() => return Err(error),
                Err(error) => unreadable.push((member.name.clone(), error.to_string())),
            }
        }
        if let (Some(wanted), true) = (wanted, members.is_empty()) {
            return Err(Error::UnknownMember {
                generation: format!("{}@{}", generation.deployment, generation.number),
                member: String::from_utf8_lossy(wanted).into_owned(),
                known: manifest.members.into_iter().map(|member| member.name).collect(),
            });
        }
        let path = path.to_vec();
        let lease = lease.map(Arc::new);
        Ok(Tree { generation, manifest, members, path, unreadable, lease })
    }

    /// Returns the entries of an artifact, in order of path.
    #[must_use]
    pub fn entries(&self, artifact: &Artifact) -> ListIter<'_, Entry> {
        ListIter::new(self, &artifact.entries)
    }

    /// Returns the entries at and below `path`, in order; none if there is no such path.
    ///
    /// # Errors
    /// A list page on the way cannot be read.
    pub fn entries_below<'s>(
        &'s self,
        artifact: &Artifact,
        path: &'s [u8],
    ) -> Result<impl Iterator<Item = Result<Entry, super::PageFault>> + use<'s>, Error> {
        let mut entries = self.entries(artifact);
        if !path.is_empty() {
            entries.skip_to(|key| compare_paths(key, path).is_lt())?;
        }
        Ok(entries.take_while(move |entry| match entry {
            Ok(entry) => is_at_or_below(&entry.path, path),
            Err(fault) => is_at_or_below(&fault.first, path),
        }))
    }

    /// Returns the entry at `path`.
    ///
    /// # Errors
    /// [`Error::UnknownPath`].
    pub fn entry(&self, member: &Member, path: &[u8]) -> Result<Entry, Error> {
        let unknown = || Error::UnknownPath {
            member: member.name.clone(),
            path: String::from_utf8_lossy(path).into_owned(),
        };
        let entry = self.entries_below(&member.artifact, path)?.next().ok_or_else(unknown)??;
        if entry.path == path { Ok(entry) } else { Err(unknown()) }
    }

    /// Returns the content of the regular file at `path`, following a hard link.
    ///
    /// # Errors
    /// [`Error::UnknownPath`], or [`Error::NotAFile`].
    pub fn content(&self, member: &Member, path: &[u8]) -> Result<Content, Error> {
        let mut entry = self.entry(member, path)?;
        if let Node::HardLink(target) = &entry.node {
            let target = target.clone();
            entry = self.entry(member, &target)?;
        }
        match entry.node {
            Node::File(content) => Ok(content),
            _ => Err(Error::NotAFile { path: String::from_utf8_lossy(path).into_owned() }),
        }
    }

    /// Returns the chunks and holes of a content, in order.
    #[must_use]
    pub fn chunks<'s>(&'s self, content: &Content) -> ChunkIter<'s> {
        match &content.chunks {
            Chunks::Inline(chunks) => ChunkIter::Inline(chunks.clone().into_iter()),
            Chunks::List(list) => ChunkIter::List(ListIter::new(self, list)),
        }
    }

    /// Writes a whole content to `out`, each chunk checked before it is written.
    ///
    /// # Errors
    /// A chunk or list page cannot be had, or `out` fails (as [`WriteError::Out`]).
    pub fn write_content(&self, content: &Content, out: &mut dyn Write) -> Result<(), WriteError> {
        let mut reader = ChunkReader::new(self, self.index()?.snapshot());
        let (mut buffer, mut wanted) = (vec![0; UNIT_BYTES], Vec::new());
        let mut filled = 0;
        let mut chunks = self.chunks(content).peekable();
        while let Some(chunk) = chunks.next() {
            let chunk = chunk.map_err(Error::from)?;
            if chunk.is_hole() {
                flush(&mut reader, &mut wanted, &mut buffer[..filled], out)?;
                filled = 0;
                write_zeros(chunk.bytes, out)?;
                continue;
            }
            wanted.push(Wanted { chunk, at: filled });
            filled += chunk.bytes as usize;
            let next = chunks.peek().and_then(|next| next.as_ref().ok()).map_or(0, |c| c.bytes);
            if filled as u64 + next > UNIT_BYTES as u64 {
                flush(&mut reader, &mut wanted, &mut buffer[..filled], out)?;
                filled = 0;
            }
        }
        flush(&mut reader, &mut wanted, &mut buffer[..filled], out)
    }
}

/// Why a content could not be written out.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The store's side.
    #[error(transparent)]
    Store(#[from] Error),
    /// The receiver's side.
    #[error("output: {0}")]
    Out(#[from] std::io::Error),
}

fn flush(
    reader: &mut ChunkReader<'_>,
    wanted: &mut Vec<Wanted>,
    buffer: &mut [u8],
    out: &mut dyn Write,
) -> Result<(), WriteError> {
    if let Some((_, fault)) = reader.read(wanted, buffer).into_iter().next() {
        return Err(Error::from(fault).into());
    }
    wanted.clear();
    Ok(out.write_all(buffer)?)
}

fn write_zeros(mut count: u64, out: &mut dyn Write) -> Result<(), std::io::Error> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    while count > 0 {
        let take = count.min(ZEROS.len() as u64);
        out.write_all(&ZEROS[..take as usize])?;
        count -= take;
    }
    Ok(())
}

/// The chunks of a content.
pub enum ChunkIter<'s> {
    /// Kept in the entry.
    Inline(std::vec::IntoIter<ChunkRef>),
    /// Kept in a list of their own.
    List(ListIter<'s, ChunkRef>),
}

impl Iterator for ChunkIter<'_> {
    type Item = Result<ChunkRef, super::PageFault>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Inline(chunks) => chunks.next().map(Ok),
            Self::List(chunks) => chunks.next(),
        }
    }
}

/// Says whether `path` is `root` or lies below it.
pub(super) fn is_at_or_below(path: &[u8], root: &[u8]) -> bool {
    match path.strip_prefix(root) {
        Some(rest) => root.is_empty() || rest.is_empty() || rest[0] == b'/',
        None => false,
    }
}
