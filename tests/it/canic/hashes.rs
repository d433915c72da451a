//! Topology hashes and artifact checksums are canic-backup's, bit for bit.

use std::collections::HashSet;

use canic_backup::artifacts::ArtifactChecksum;
use canic_backup::discovery::SnapshotTarget;
use canic_backup::snapshot::topology_hash_for_targets;
use ic_principal::Principal;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use strongroom::digest::{Algorithm, hex};
use strongroom::run::inventory::{Inventory, Row};
use strongroom::run::topology::topology_hash;
use strongroom::store::{IngestOptions, Progress};

use crate::support::{MEMBER, Tree, fast_temp, memory_store, source};

/// What is known of a member before it has a place in a tree.
type Draft = (Vec<u8>, Option<String>, Option<[u8; 32]>, prop::sample::Index, bool);

fn drafts() -> impl Strategy<Value = Vec<Draft>> {
    let role = option::of("[a-z]{1,3}|[ -~é|=\n]{1,8}");
    let hash = option::of(any::<[u8; 32]>());
    vec((vec(any::<u8>(), 0..30), role, hash, any::<prop::sample::Index>(), any::<bool>()), 1..12)
}

/// Makes a tree with one root of distinct principals; some of them in capital letters.
fn rows(drafts: Vec<Draft>) -> Vec<Row> {
    let mut seen = HashSet::new();
    let mut rows: Vec<Row> = Vec::new();
    for (bytes, role, hash, parent, loud) in drafts {
        if !seen.insert(bytes.clone()) {
            continue;
        }
        let id = Principal::from_slice(&bytes).to_text();
        let id = if loud { id.to_uppercase() } else { id };
        let parent = (!rows.is_empty()).then(|| parent.get(&rows).id.clone());
        rows.push(Row { id, role, kind: None, parent, module_hash: hash.map(|hash| hex(&hash)) });
    }
    rows
}

fn target(row: &Row) -> SnapshotTarget {
    SnapshotTarget {
        canister_id: row.id.clone(),
        role: row.role.clone(),
        parent_canister_id: row.parent.clone(),
        module_hash: row.module_hash.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn topology_hashes_are_the_original_s(drafts in drafts()) {
        let inventory = Inventory::new(rows(drafts)).unwrap();
        let rows = inventory.rows();
        let targets: Vec<_> = rows.iter().map(target).collect();
        let expected = topology_hash_for_targets(&rows[0].id, &targets).unwrap();
        let found = topology_hash(rows);
        prop_assert_eq!(&found.hash, &expected.hash);
        prop_assert_eq!(found.algorithm, &expected.algorithm);
        prop_assert_eq!(found.input, &expected.input);
    }
}

/// Paths of files, some of which are directories above others: those are left out.
fn tree() -> impl Strategy<Value = (Vec<(String, Vec<u8>)>, Vec<String>)> {
    let name = || {
        prop_oneof![
            4 => "[ab]{1,2}|[ab][-./0 ~]?[ab]".prop_map(|name| name.replace('/', "-")),
            1 => "[^/\\x00]{1,20}",
            1 => Just(".lock".to_owned()),
        ]
    };
    let path = move || vec(name(), 1..4).prop_map(|names| names.join("/"));
    let files = vec((path(), vec(any::<u8>(), 0..50)), 0..12);
    (files, vec(path(), 0..3))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn checksums_of_artifacts_are_the_original_s((files, dirs) in tree()) {
        let dir = fast_temp();
        let root = Tree::create(dir.path().join("member"));
        for (path, bytes) in files {
            let at = root.below(&path);
            let made = at.parent().is_some_and(|above| std::fs::create_dir_all(above).is_ok());
            if made && !at.exists() {
                // A name may be too long or no name at all.
                let _ = std::fs::write(at, bytes);
            }
        }
        for path in dirs {
            let _ = std::fs::create_dir_all(root.below(&path));
        }
        let (_, store) = memory_store();
        let options = IngestOptions { algorithm: Algorithm::Sha256, ..IngestOptions::default() };
        let sources = [source(MEMBER, root.path())];
        let staged = store.ingest(&sources, &[None], &options, &Progress::default()).unwrap();
        let durable = staged.verify().unwrap().promote().unwrap();
        prop_assert!(durable.failed.is_empty(), "{:?}", durable.failed);
        let expected = ArtifactChecksum::from_path(root.path()).unwrap();
        prop_assert_eq!(hex(&durable.artifacts[0].checksum), expected.hash);
    }
}

#[test]
fn a_slash_sorts_below_everything_and_a_lock_counts() {
    let dir = fast_temp();
    let root = Tree::create(dir.path().join("member"));
    for path in ["a/b", "a-b", "a.b", "a", "a0/b"] {
        let _ = std::fs::create_dir_all(root.below(path).parent().unwrap());
        let _ = std::fs::write(root.below(path), path);
    }
    let bare = ArtifactChecksum::from_path(root.path()).unwrap();
    root.file(".lock", b"");
    let locked = ArtifactChecksum::from_path(root.path()).unwrap();
    assert_ne!(bare.hash, locked.hash);
    for (expected, without_lock) in [(locked, false), (bare, true)] {
        if without_lock {
            std::fs::remove_file(root.below(".lock")).unwrap();
        }
        let (_, store) = memory_store();
        let options = IngestOptions { algorithm: Algorithm::Sha256, ..IngestOptions::default() };
        let sources = [source(MEMBER, root.path())];
        let report = store.backup("d", &sources, &options, &Progress::default()).unwrap();
        assert_eq!(hex(&report.artifacts[0].checksum), expected.hash);
    }
}
