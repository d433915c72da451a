//! Artifacts that are promoted one by one, read back, and made visible together.

use strongroom::digest::{Algorithm, Digest};
use strongroom::format::manifest::{Artifact, Generation, Member};
use strongroom::store::{Entry, Error, Extension, IngestOptions, Node, Progress};

use crate::support::{
    DEPLOYMENT, Forge, Tree, backup, keys, memory_store, noise, open, previous, source, temp,
};

fn options(algorithm: Algorithm) -> IngestOptions {
    IngestOptions { algorithm, ..IngestOptions::default() }
}

fn manifest(members: Vec<Member>) -> Generation {
    let now = strongroom::clock::UnixNanos::now();
    Generation {
        deployment: DEPLOYMENT.into(),
        started: now,
        finished: now,
        members,
        missing: vec![],
        extensions: vec![],
    }
}

#[test]
fn artifacts_promoted_by_several_processes_become_one_generation() {
    let dir = temp();
    let (backend, store) = memory_store();
    let mut members = Vec::new();
    for (name, algorithm) in [("a", Algorithm::Blake3), ("b", Algorithm::Sha256)] {
        let tree = Tree::create(dir.path().join(name));
        tree.fill_with_every_kind(3);
        tree.file("large", noise(9, 3 << 20));
        let sources = [source(name, tree.path())];
        let staged = store.ingest(&sources, &[None], &options(algorithm), &Progress::default());
        let durable = staged.unwrap().verify().unwrap().promote().unwrap();
        let artifact = &durable.artifacts[0];
        let read = store.read_back(&artifact.manifest, None, &Progress::default()).unwrap();
        assert_eq!((read.algorithm, read.checksum), (algorithm, artifact.checksum));
        assert_eq!((read.files, read.bytes), (artifact.counts.files, artifact.counts.bytes));
        members.push(Member { name: name.into(), artifact: artifact.manifest });
    }
    assert_eq!(open(backend.clone()).log().unwrap().generations(), []);
    let made = open(backend.clone()).commit_generation(&manifest(members.clone())).unwrap();
    assert_eq!(made.number.0, 1);

    members[1].name = "c".into();
    let other = store.commit_generation(&manifest(members.clone())).unwrap_err();
    assert!(matches!(other, Error::OtherMember { .. }), "{other}");
    members[1].name = "a".into();
    let twice = store.commit_generation(&manifest(members)).unwrap_err();
    assert!(matches!(twice, Error::DuplicateMember { .. }), "{twice}");
    assert!(matches!(store.commit_generation(&manifest(vec![])), Err(Error::Members { .. })));
    let mut large = manifest(vec![]);
    large.extensions.push(Extension { name: "x".into(), value: vec![0; 17 << 20] });
    assert!(matches!(store.commit_generation(&large), Err(Error::Extensions { .. })));
    assert_eq!(open(backend).log().unwrap().generations().len(), 1);
}

#[test]
fn an_artifact_whose_chunks_are_lost_does_not_read_back() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("file", noise(1, 100_000));
    let (backend, store) = memory_store();
    let sources = [source("a", tree.path())];
    let staged = store.ingest(&sources, &[None], &options(Algorithm::Blake3), &Progress::default());
    let durable = staged.unwrap().verify().unwrap().promote().unwrap();
    for key in keys(&backend, "packs") {
        let _ = backend.remove_raw(&key);
    }
    let error = open(backend).read_back(&durable.artifacts[0].manifest, None, &Progress::default());
    assert!(error.unwrap_err().is_damage());
}

#[test]
fn an_artifact_whose_checksums_are_not_those_of_its_content_does_not_read_back() {
    let dir = temp();
    let tree = Tree::create(dir.path().join("source"));
    tree.file("file", noise(1, 100_000));
    let (backend, store) = memory_store();
    backup(&store, tree.path());
    let whole = previous(&store, tree.path());
    let entries: Vec<Entry> = store.entries(&whole).map(Result::unwrap).collect();
    let forge = Forge { backend: &backend, store: &store };
    let mut lying = entries.clone();
    for entry in &mut lying {
        if let Node::File(content) = &mut entry.node {
            content.checksums.blake3 = Digest([7; 32]);
        }
    }
    let of_file = Artifact { entries: forge.entries(&lying), ..whole.clone() };
    let of_all = Artifact { checksum: [7; 32], ..whole.clone() };
    let read_back = |artifact: &Artifact| {
        let id = forge.manifest(&artifact.encode());
        open(backend.clone()).read_back(&id, None, &Progress::default())
    };
    assert!(read_back(&whole).is_ok());
    for artifact in [of_file, of_all] {
        assert!(matches!(read_back(&artifact), Err(Error::Artifact { .. })));
    }
}
