//! Import: a backup directory becomes a generation.

use std::path::Path;

use super::agree::relative_path;
use super::documents::Manifest;
use super::error::Error;
use super::facts::facts_of;
use super::read::Backup;
use crate::clock::UnixNanos;
use crate::digest::{Algorithm, hex};
use crate::format::manifest::{Artifact, Generation, Member};
use crate::fstree::{Destination, Kind};
use crate::log;
use crate::run::facts::{DeploymentFacts, Identity, MemberFacts};
use crate::store::{
    self, IngestOptions, IngestStats, MemberSource, Progress, Reference, Staged, Store, Which,
    parse_label,
};

/// How to import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Threads that read, hash and compress; 0 means one per processor.
    pub threads: usize,
}

/// A member that was taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedMember {
    /// Its identity, which is its name in the generation.
    pub member: String,
    /// Its role.
    pub role: Option<String>,
    /// The snapshot that its artifact is of.
    pub snapshot: String,
    /// Files in its artifact.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// SHA-256 of the artifact: what the journal says, and what was computed from the files.
    pub checksum: [u8; 32],
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// What names the backup: the id of canic-backup's run.
    pub backup: String,
    /// The generation that holds it.
    pub generation: log::Generation,
    /// Whether the generation was made now. If not, the newest one came from the same backup and
    /// has the same artifacts.
    pub created: bool,
    /// The members, in the order of the manifest.
    pub members: Vec<ImportedMember>,
    /// What was read and written.
    pub stats: IngestStats,
}

/// Takes a finished backup directory in as the next generation of `deployment`.
///
/// Everything is checked as canic-backup checks it, and every artifact's checksum is computed
/// anew. If the newest generation of the deployment came from the same backup and has the same
/// artifacts, no second one is made.
///
/// # Errors
/// Every [`Error`] but those about exports: the directory is not a finished, consistent backup, an
/// artifact is not what its journal says, the storage failed, or the work was interrupted. Nothing
/// becomes visible then.
pub fn import(
    store: &Store,
    dir: &Path,
    deployment: &str,
    options: &ImportOptions,
    progress: &Progress,
) -> Result<ImportReport, Error> {
    parse_label("deployment", deployment)?;
    let backup = Backup::read(dir)?;
    let facts = facts_of(&backup)?;
    let sources = sources(&backup.manifest, dir)?;
    let previous = store.previous_artifacts(deployment, &sources)?;
    let ingest = IngestOptions {
        algorithm: Algorithm::Sha256,
        // Whether the files are what the journal says is to be found out, not to be believed.
        reread: true,
        threads: options.threads,
        ..IngestOptions::default()
    };
    let staged = store.ingest(&sources, &previous, &ingest, progress)?;
    let members = check_artifacts(&backup, &facts, &staged)?;
    let backup_id = backup.manifest.backup_id.clone();
    if let Some(generation) = same_generation(store, deployment, &facts, &members)? {
        let stats = *staged.stats();
        return Ok(ImportReport { backup: backup_id, generation, created: false, members, stats });
    }
    let stats = *staged.stats();
    // Holds its lease until the generation is committed.
    let durable = staged.verify()?.promote()?;
    progress.check()?;
    let made = time_of(&backup.manifest).unwrap_or_else(UnixNanos::now);
    let member = |done: &store::DurableArtifact| Member {
        name: done.member.clone(),
        artifact: done.manifest,
    };
    let generation = store.commit_generation(&Generation {
        deployment: deployment.to_owned(),
        started: made,
        finished: made,
        members: durable.artifacts.iter().map(member).collect(),
        missing: Vec::new(),
        extensions: vec![facts.to_extension()],
    })?;
    Ok(ImportReport { backup: backup_id, generation, created: true, members, stats })
}

/// Returns where the artifacts are, each found without following a symlink.
fn sources(manifest: &Manifest, dir: &Path) -> Result<Vec<MemberSource>, Error> {
    let root = Destination::open(dir)?;
    let source = |member: &super::documents::Member| {
        let (id, stated) = (&member.canister_id, &member.source_snapshot.artifact_path);
        let named = || (id.clone(), stated.clone());
        let Some(path) = relative_path(stated) else {
            let (member, path) = named();
            return Err(Error::UnsafePath { member, path });
        };
        match root.stat(&path)?.map(|stat| stat.kind) {
            Some(Kind::Dir | Kind::File) => {}
            None => {
                let (member, path) = named();
                return Err(Error::NoArtifact { member, path });
            }
            Some(kind) => {
                let symlinks = u64::from(matches!(kind, Kind::Symlink { .. }));
                let specials = 1 - symlinks;
                return Err(Error::NotPlain { member: id.clone(), symlinks, specials });
            }
        }
        let path = dir.join(std::str::from_utf8(&path).expect("it came from text"));
        Ok(MemberSource { member: id.clone(), path })
    };
    manifest.deployment.members.iter().map(source).collect()
}

/// Compares what was read with what the journal says.
fn check_artifacts(
    backup: &Backup,
    facts: &DeploymentFacts,
    staged: &Staged<'_>,
) -> Result<Vec<ImportedMember>, Error> {
    if let Some((member, faults)) = staged.failed().first() {
        let reason = faults.first().map_or_else(String::new, ToString::to_string);
        return Err(Error::Unreadable { member: member.clone(), reason });
    }
    let snapshots: std::collections::HashMap<_, _> = backup
        .downloads
        .artifacts
        .iter()
        .map(|entry| (entry.canister_id.as_str(), entry))
        .collect();
    let check = |(artifact, known): (&Artifact, &MemberFacts)| {
        let member = artifact.member.clone();
        let counts = artifact.counts;
        if counts.symlinks + counts.specials > 0 {
            let (symlinks, specials) = (counts.symlinks, counts.specials);
            return Err(Error::NotPlain { member, symlinks, specials });
        }
        let entry = snapshots.get(member.as_str());
        let expected = entry.and_then(|entry| entry.checksum.clone()).unwrap_or_default();
        let actual = hex(&artifact.checksum);
        if actual != expected {
            return Err(Error::Checksum { member, expected, actual });
        }
        Ok(ImportedMember {
            member,
            role: known.role.clone(),
            snapshot: known.snapshot.as_ref().map_or_else(String::new, |found| found.id.clone()),
            files: counts.files,
            bytes: counts.bytes,
            checksum: artifact.checksum,
        })
    };
    staged.artifacts().zip(&facts.members).map(check).collect()
}

/// Returns the newest generation of the deployment if it is of this very backup.
fn same_generation(
    store: &Store,
    deployment: &str,
    facts: &DeploymentFacts,
    members: &[ImportedMember],
) -> Result<Option<log::Generation>, Error> {
    let latest = Reference { deployment: deployment.to_owned(), which: Which::Latest, path: None };
    let tree = match store.tree(&latest) {
        Ok(tree) => tree,
        Err(store::Error::UnknownDeployment { .. }) => return Ok(None),
        // One that cannot be read does not hold the backup.
        Err(error) if error.is_damage() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Ok(Some(known)) = DeploymentFacts::find(&tree.manifest.extensions) else {
        return Ok(None);
    };
    let held = tree
        .members
        .iter()
        .map(|held| (held.name.as_str(), held.artifact.algorithm.name(), held.artifact.checksum));
    let read = members.iter().map(|m| (m.member.as_str(), Algorithm::Sha256.name(), m.checksum));
    let artifacts_equal = sorted(held) == sorted(read);
    let same = artifacts_equal && is_same_backup(&known, facts);
    Ok(same.then_some(tree.generation))
}

/// Says whether facts are of one backup: what an export leaves out does not count.
fn is_same_backup(known: &DeploymentFacts, facts: &DeploymentFacts) -> bool {
    let key = |member: &MemberFacts| {
        let MemberFacts { id, role, parent, identity, module_hash, snapshot, .. } = member.clone();
        let fixed = identity == Identity::Fixed;
        (id, role, parent, fixed, module_hash, snapshot.map(|snapshot| snapshot.id))
    };
    known.run == facts.run
        && known.environment == facts.environment
        && known.root == facts.root
        && known.topology_hash == facts.topology_hash
        && sorted(known.members.iter().map(key)) == sorted(facts.members.iter().map(key))
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    items
}

/// Returns when the backup was made, if it says so the way canic-backup does: `unix:` and seconds.
fn time_of(manifest: &Manifest) -> Option<UnixNanos> {
    let seconds: i64 = manifest.created_at.strip_prefix("unix:")?.parse().ok()?;
    seconds.checked_mul(1_000_000_000).map(UnixNanos)
}
