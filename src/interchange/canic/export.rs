//! Export: a generation becomes a backup directory.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use super::documents::{DOWNLOADS, EXECUTION, MANIFEST, PLAN};
use super::error::{Error, Lack};
use super::publish::Publication;
use super::write::Content;
use crate::digest::{Algorithm, hex};
use crate::fstree::{self, Kind, WalkOptions};
use crate::limits::MIB;
use crate::run::facts::DeploymentFacts;
use crate::store::{
    self, Member, Node, Progress, Reference, RestoreOptions, RestoreReport, Store, Tree,
};

/// How to export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// Threads that read, decode and write; 0 means two per processor.
    pub threads: usize,
}

/// A member that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportedMember {
    /// Its identity, which is its directory's name.
    pub member: String,
    /// Files in its artifact.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// SHA-256 of the artifact, as it stands in the manifest.
    pub checksum: [u8; 32],
}

/// What an export did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// The generation, as `name@gN`.
    pub generation: String,
    /// What names the backup: the run that made the generation.
    pub backup: String,
    /// The members.
    pub members: Vec<ExportedMember>,
    /// Units that are subtrees, but written as `single`: canic-backup names members of a unit by
    /// their roles, and members outside of the unit have the same.
    pub loosened: Vec<String>,
    /// What was written.
    pub restored: RestoreReport,
}

/// Writes a generation as a backup directory that canic-backup 0.68.2 accepts. The directory `to`,
/// which is not there yet or empty, appears all at once, durable.
///
/// After an interruption, the same call goes on with what is in place.
///
/// # Errors
/// Every [`Error`] about exports: the generation lacks what canic-backup needs, the target is in
/// use, something could not be restored, or the work was interrupted. The target is as it was then.
pub fn export(
    store: &Store,
    reference: &Reference,
    to: &Path,
    options: &ExportOptions,
    progress: &Progress,
) -> Result<ExportReport, Error> {
    if reference.path.is_some() {
        return Err(Error::Part);
    }
    let tree = store.tree(reference)?;
    let generation = tree.name();
    let facts = facts_of(&tree)?;
    check_members(&tree, &facts)?;
    let content = Content {
        generation: &generation,
        deployment: &tree.generation.deployment,
        finished: tree.manifest.finished,
        facts: &facts,
    };
    // Before anything is written: what the files will say, but for the checksums.
    content.documents(|_| "0".repeat(64))?;
    for member in &tree.members {
        check_entries(store, member)?;
    }
    let place = Publication::begin(to)?;
    let restored = restore(store, &tree, &place, options.threads, progress)?;
    if let Some(first) = restored.failures.first() {
        let (path, reason) = (first.path.clone(), first.reason.clone());
        let damage = restored.failures.iter().any(|failure| failure.damage);
        place.abandon();
        return Err(Error::NotRestored { path, reason, count: restored.failures.len(), damage });
    }
    let members: Vec<_> =
        tree.members.par_iter().map(|m| exported(m, &place, progress)).collect::<Result<_, _>>()?;
    let checksums: HashMap<_, _> =
        members.iter().map(|done| (done.member.as_str(), hex(&done.checksum))).collect();
    let written = content.documents(|id| checksums.get(id).cloned().unwrap_or_default())?;
    place.write_json(PLAN, &written.plan)?;
    place.write_json(EXECUTION, &written.execution)?;
    place.write_json(DOWNLOADS, &written.downloads)?;
    place.write_json(MANIFEST, &written.manifest)?;
    progress.check()?;
    place.publish()?;
    let (backup, loosened) = (facts.run, written.loosened);
    Ok(ExportReport { generation, backup, members, loosened, restored })
}

fn facts_of(tree: &Tree) -> Result<DeploymentFacts, Error> {
    let generation = tree.name();
    match DeploymentFacts::find(&tree.manifest.extensions) {
        Ok(Some(facts)) => Ok(facts),
        Ok(None) => Err(Error::NoFacts { generation }),
        Err(source) => Err(Error::Facts { generation, source }),
    }
}

/// Checks that each member has an artifact and facts.
fn check_members(tree: &Tree, facts: &DeploymentFacts) -> Result<(), Error> {
    if let Some((member, reason)) = tree.unreadable.first() {
        return Err(Error::Damaged { member: member.clone(), reason: reason.clone() });
    }
    let lacks = |of: &str, lacks| Err(Error::Lacks { of: of.to_owned(), lacks });
    if let Some(missing) = tree.manifest.missing.first() {
        return lacks(&missing.name, Lack::Artifact);
    }
    let known: HashSet<_> = facts.members.iter().map(|member| &member.id).collect();
    let held: HashSet<_> = tree.members.iter().map(|member| &member.name).collect();
    if let Some(member) = tree.members.iter().find(|member| !known.contains(&member.name)) {
        return lacks(&member.name, Lack::MemberFacts);
    }
    match facts.members.iter().find(|member| !held.contains(&member.id)) {
        Some(member) => lacks(&member.id, Lack::Artifact),
        None => Ok(()),
    }
}

/// Checks that an artifact holds only what canic-backup's checksum says the same of as ours.
fn check_entries(store: &Store, member: &Member) -> Result<(), Error> {
    for entry in store.entries(&member.artifact) {
        let entry = entry.map_err(store::Error::from)?;
        let path = || String::from_utf8_lossy(&entry.path).into_owned();
        let lacks = match &entry.node {
            Node::Other(Kind::Symlink { .. }) => Lack::NoSymlinks(path()),
            _ if std::str::from_utf8(&entry.path).is_err() => Lack::Utf8(path()),
            _ => continue,
        };
        return Err(Error::Lacks { of: member.name.clone(), lacks });
    }
    Ok(())
}

fn restore(
    store: &Store,
    tree: &Tree,
    place: &Publication,
    threads: usize,
    progress: &Progress,
) -> Result<RestoreReport, Error> {
    let how = RestoreOptions { threads, ..RestoreOptions::default() };
    match store.restore(tree, place.path(), &how, progress) {
        // An earlier attempt had come further than this.
        Err(store::Error::TargetNotEmpty { .. }) => {
            place.clear()?;
            Ok(store.restore(tree, place.path(), &how, progress)?)
        }
        result => Ok(result?),
    }
}

fn exported(
    member: &Member,
    place: &Publication,
    progress: &Progress,
) -> Result<ExportedMember, Error> {
    let artifact = &member.artifact;
    let checksum = match artifact.algorithm {
        // Every file was compared with its own checksum while it was written.
        Algorithm::Sha256 => artifact.checksum,
        Algorithm::Blake3 => checksum_of(&place.path().join(&member.name), progress)?,
    };
    let (files, bytes) = (artifact.counts.files, artifact.counts.bytes);
    Ok(ExportedMember { member: member.name.clone(), files, bytes, checksum })
}

/// Computes the SHA-256 checksum of a directory, or of a single file: see "Directory checksum" in
/// `store-format.md`.
fn checksum_of(root: &Path, progress: &Progress) -> Result<[u8; 32], Error> {
    let source = fstree::Source::open(root)?;
    let mut whole = Sha256::new();
    let mut buffer = vec![0; MIB];
    for node in source.walk(WalkOptions::default()) {
        let node = node?;
        if node.stat.kind != Kind::File {
            continue;
        }
        let mut file = source.open_file(&node.path)?;
        let mut hasher = Sha256::new();
        loop {
            progress.check()?;
            let read = file.read(&mut buffer);
            match read.map_err(|error| source.error("read", &node.path, error))? {
                0 => break,
                bytes => hasher.update(&buffer[..bytes]),
            }
        }
        let checksum: [u8; 32] = hasher.finalize().into();
        if node.path.is_empty() {
            return Ok(checksum);
        }
        whole.update([&node.path[..], &[0], hex(&checksum).as_bytes(), b"\n"].concat());
    }
    Ok(whole.finalize().into())
}
