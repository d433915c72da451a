//! Generations that no backup would write, made with the encoders of the format: manifests from
//! somebody who means harm, or with the times that a test needs.

use strongroom::backend::MemoryBackend;
use strongroom::clock::UnixNanos;
use strongroom::codec::Encoding;
use strongroom::digest::{Algorithm, Checksums, Digest};
use strongroom::format::manifest::{Artifact, Counts, Generation, Member};
use strongroom::format::pack::Content as PackContent;
use strongroom::format::page::{Item, ListRef, PageBuilder, PageRef};
use strongroom::fstree::{Kind, Time};
use strongroom::log::Log;
use strongroom::pack::PackBuilder;
use strongroom::store::{ChunkRef, Chunks, Content, Entry, Node, Store};
use strongroom::values::Chunking;

use super::{DEPLOYMENT, MEMBER};
use strongroom::backend::{Backend, Key};

/// Writes into a store what it is told to.
pub struct Forge<'a> {
    pub backend: &'a MemoryBackend,
    pub store: &'a Store,
}

impl Forge<'_> {
    /// Stores chunks or pages in a pack of their own.
    pub fn pack(&self, content: PackContent, bodies: &[&[u8]]) {
        let mut pack = PackBuilder::new(content, self.store.id(), Vec::new());
        for body in bodies {
            pack.push(Digest::of(body), body.len() as u32, Encoding::Raw, None, body);
        }
        let _ = pack.finish().publish(self.backend).unwrap();
    }

    /// Stores a chunk.
    pub fn chunk(&self, bytes: &[u8]) -> ChunkRef {
        self.pack(PackContent::Chunks, &[bytes]);
        ChunkRef { bytes: bytes.len() as u64, digest: Digest::of(bytes) }
    }

    /// Stores one page with all the items, whatever they are.
    pub fn page<T: Item>(&self, level: u8, items: &[T]) -> PageRef {
        let mut page = PageBuilder::new::<T>(level);
        for item in items {
            let _ = page.push(item);
        }
        let bytes = page.take();
        self.pack(PackContent::Pages, &[&bytes]);
        PageRef {
            digest: Digest::of(&bytes),
            items: items.len() as u64,
            bytes: items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes())),
            key: items.first().map_or_else(Vec::new, |item| item.key().to_vec()),
        }
    }

    /// Stores the entries as the list of an artifact.
    pub fn entries(&self, entries: &[Entry]) -> ListRef {
        ListRef { levels: 1, top: Some(self.page(0, entries)) }
    }

    /// Makes an artifact with this list visible as the next generation of [`DEPLOYMENT`].
    pub fn commit(&self, entries: ListRef) {
        let artifact = self.artifact(entries);
        self.commit_members(&[(MEMBER, self.manifest(&artifact.encode()))]);
    }

    pub fn artifact(&self, entries: ListRef) -> Artifact {
        Artifact {
            member: MEMBER.into(),
            source: b"/".to_vec(),
            started: UnixNanos(0),
            counts: Counts::default(),
            algorithm: Algorithm::Blake3,
            checksum: [0; 32],
            entries,
            extensions: Vec::new(),
        }
    }

    /// Makes members with these manifests visible.
    pub fn commit_members(&self, members: &[(&str, Digest)]) {
        let member = |(name, artifact): &(&str, Digest)| Member {
            name: (*name).to_owned(),
            artifact: *artifact,
        };
        let generation = Generation {
            deployment: DEPLOYMENT.into(),
            started: UnixNanos(0),
            finished: UnixNanos(0),
            members: members.iter().map(member).collect(),
            missing: Vec::new(),
            extensions: Vec::new(),
        };
        let id = self.manifest(&generation.encode());
        let mut log = Log::read(self.backend).unwrap();
        log.promote(self.backend, UnixNanos(0), DEPLOYMENT, id).unwrap();
    }

    /// Stores a manifest.
    pub fn manifest(&self, frame: &[u8]) -> Digest {
        let id = Digest::of(frame);
        let _ = self.backend.put(&Key::new(format!("manifests/{id}")).unwrap(), &[frame]).unwrap();
        id
    }
}

/// An entry with ordinary attributes.
pub fn entry_of(path: impl AsRef<[u8]>, node: Node) -> Entry {
    let time = Time { secs: 1_600_000_000, nanos: 0 };
    Entry {
        path: path.as_ref().to_vec(),
        node,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: time,
        ctime: time,
        inode: 1,
        xattrs: Vec::new(),
    }
}

pub fn dir(path: impl AsRef<[u8]>) -> Entry {
    entry_of(path, Node::Other(Kind::Dir))
}

pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    entry_of(path, Node::Other(Kind::Symlink { target: target.as_ref().to_vec() }))
}

/// A file of one chunk.
pub fn file(path: impl AsRef<[u8]>, chunk: ChunkRef) -> Entry {
    let checksums = Checksums { blake3: chunk.digest, sha256: None };
    let chunks = Chunks::Inline(vec![chunk]);
    let content = Content { bytes: chunk.bytes, chunking: Chunking::Whole, checksums, chunks };
    entry_of(path, Node::File(content))
}
