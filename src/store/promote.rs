//! Promotion: from staged artifacts to a visible generation. The states are types that carry their
//! evidence; an unfinished promotion does not compile away silently.
//!
//! ```text
//! Staged      packs, list pages and index durable
//! Verified    every new pack read back through the backend and found equal to its name
//! Durable     manifests durable
//! generation  one commit record (I1: acknowledged only now)
//! ```

use rayon::prelude::*;

use super::fence::{Baseline, Fence};
use super::ingest::{
    Collected, IngestOptions, IngestStats, MemberSource, MemberSummary, SourceFault,
};
use super::{Error, Progress, Store, manifest_key};
use crate::backend::Backend;
use crate::clock::UnixNanos;
use crate::digest::{Algorithm, Digest};
use crate::format::manifest::{Artifact, Counts, Generation, Member, Missing};
use crate::format::segment::PackEntry;
use crate::lease::Lease;
use crate::limits::{EXTENSION_BYTES_MAX, EXTENSIONS_MAX, MEMBERS_MAX, MIB};
use crate::log::{self, Log};
use crate::pack;

/// Artifacts whose chunks and list pages are durable.
#[derive(Debug)]
#[must_use = "staged artifacts are not visible until they are verified, promoted and committed"]
pub struct Staged<'s> {
    store: &'s Store,
    lease: Lease,
    baseline: Baseline,
    started: UnixNanos,
    algorithm: Algorithm,
    artifacts: Vec<(Artifact, MemberSummary)>,
    failed: Vec<(String, Vec<SourceFault>)>,
    packs: Vec<PackEntry>,
    stats: IngestStats,
}

impl<'s> Staged<'s> {
    pub(super) fn new(
        store: &'s Store,
        lease: Lease,
        baseline: Baseline,
        started: UnixNanos,
        algorithm: Algorithm,
        collected: Collected,
    ) -> Self {
        let (mut artifacts, mut failed) = (Vec::new(), Vec::new());
        for member in collected.members {
            match member.result {
                Ok(artifact) => artifacts.push((artifact, member.summary)),
                Err(faults) => failed.push((member.member, faults)),
            }
        }
        let Collected { packs, stats, .. } = collected;
        Self { store, lease, baseline, started, algorithm, artifacts, failed, packs, stats }
    }

    /// Returns members that failed, with their faults.
    #[must_use]
    pub fn failed(&self) -> &[(String, Vec<SourceFault>)] {
        &self.failed
    }

    /// Returns the artifacts that could be read, in the order of their sources. Their manifests are
    /// not stored yet.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        self.artifacts.iter().map(|(artifact, _)| artifact)
    }

    /// Returns what was done.
    #[must_use]
    pub fn stats(&self) -> &IngestStats {
        &self.stats
    }

    /// Reads every new pack back through the backend and compares it with its name. (Its chunks
    /// were decoded and compared before they went into it.)
    ///
    /// # Errors
    /// [`Error::ReadBack`], or the storage failed.
    pub fn verify(self) -> Result<Verified<'s>, Error> {
        let backend = self.store.backend();
        self.packs.par_iter().try_for_each(|entry| read_pack_back(backend, entry))?;
        Ok(Verified { staged: self })
    }
}

/// Reads a pack and compares it with its name.
pub(super) fn read_pack_back(backend: &dyn Backend, entry: &PackEntry) -> Result<(), Error> {
    let key = pack::key(entry.content, &entry.id);
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; MIB];
    let mut at = 0;
    while at < entry.bytes {
        let len = (entry.bytes - at).min(MIB as u64) as usize;
        backend.read_at(&key, at, &mut buffer[..len])?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    let actual = Digest(*hasher.finalize().as_bytes());
    if actual == entry.id { Ok(()) } else { Err(Error::ReadBack { key, actual }) }
}

/// Artifacts that read back as they were written.
#[derive(Debug)]
#[must_use = "verified artifacts are not visible until they are promoted and committed"]
pub struct Verified<'s> {
    staged: Staged<'s>,
}

/// Evidence that an artifact is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurableArtifact {
    /// Its member.
    pub member: String,
    /// Its manifest.
    pub manifest: Digest,
    /// The algorithm of `checksum`.
    pub algorithm: Algorithm,
    /// The artifact's checksum.
    pub checksum: [u8; 32],
    /// Counts over its entries.
    pub counts: Counts,
    /// What was read for it.
    pub summary: MemberSummary,
}

/// Artifacts whose manifests are durable; the lease is held until they are committed.
#[derive(Debug)]
#[must_use = "durable artifacts are not visible until they are committed"]
pub struct Durable {
    /// The artifacts.
    pub artifacts: Vec<DurableArtifact>,
    /// Members that failed, with their faults.
    pub failed: Vec<(String, Vec<SourceFault>)>,
    /// When reading began.
    pub started: UnixNanos,
    stats: IngestStats,
    baseline: Baseline,
    _lease: Lease,
}

impl Verified<'_> {
    /// Makes the manifests durable.
    ///
    /// # Errors
    /// The storage failed.
    pub fn promote(self) -> Result<Durable, Error> {
        let Staged {
            store, lease, baseline, started, algorithm, artifacts, failed, mut stats, ..
        } = self.staged;
        let mut durable = Vec::with_capacity(artifacts.len());
        for (artifact, summary) in artifacts {
            let (manifest, bytes) = put_manifest(store, &artifact.encode())?;
            stats.bytes_stored += bytes;
            durable.push(DurableArtifact {
                member: artifact.member,
                manifest,
                algorithm,
                checksum: artifact.checksum,
                counts: artifact.counts,
                summary,
            });
        }
        Ok(Durable { artifacts: durable, failed, started, stats, baseline, _lease: lease })
    }
}

fn put_manifest(store: &Store, frame: &[u8]) -> Result<(Digest, u64), Error> {
    let id = Digest::of(frame);
    let put = store.backend().put(&manifest_key(&id), &[frame])?;
    let written = if put == crate::backend::Put::Created { frame.len() as u64 } else { 0 };
    Ok((id, written))
}

/// How often a backup is tried if a whole prune passes each time.
const BACKUP_ATTEMPTS: usize = 5;

/// What a backup did.
#[derive(Debug)]
pub struct BackupReport {
    /// The generation that became visible; `None` if every member failed.
    pub generation: Option<log::Generation>,
    /// Its artifacts.
    pub artifacts: Vec<DurableArtifact>,
    /// Members that failed, with their faults.
    pub failed: Vec<(String, Vec<SourceFault>)>,
    /// What was read and written.
    pub stats: IngestStats,
}

impl Store {
    /// Makes the artifacts visible as the next generation of `deployment`, with one commit record.
    /// It is durable when this returns.
    ///
    /// # Errors
    /// [`Error::TakenAway`] if prune removed something that the artifacts need before they were
    /// committed; the storage failed. Nothing became visible, or all of it did.
    pub fn commit(&self, deployment: &str, durable: Durable) -> Result<BackupReport, Error> {
        super::parse_label("deployment", deployment)?;
        let Durable { artifacts, failed, started, mut stats, baseline, _lease } = durable;
        if artifacts.is_empty() {
            return Ok(BackupReport { generation: None, artifacts, failed, stats });
        }
        // All reasons together stay far below what a manifest can hold.
        let reason_bytes = if failed.len() > 1000 { 100 } else { 500 };
        let reason = |faults: &[SourceFault]| {
            faults.first().map_or_else(String::new, |fault| {
                let mut text = fault.to_string();
                text.truncate(text.floor_char_boundary(reason_bytes));
                text
            })
        };
        let manifest = Generation {
            deployment: deployment.to_owned(),
            started,
            finished: UnixNanos::now(),
            members: artifacts
                .iter()
                .map(|done| Member { name: done.member.clone(), artifact: done.manifest })
                .collect(),
            missing: failed
                .iter()
                .map(|(name, faults)| Missing { name: name.clone(), reason: reason(faults) })
                .collect(),
            extensions: Vec::new(),
        };
        let (generation, bytes) = self.publish(&manifest, baseline)?;
        stats.bytes_stored += bytes;
        Ok(BackupReport { generation: Some(generation), artifacts, failed, stats })
    }

    /// Makes artifacts that were promoted one by one, perhaps by several processes, visible as the
    /// next generation of `manifest.deployment`. It is durable when this returns.
    ///
    /// The caller knows that the artifacts are whole: it holds a lease since they were promoted, or
    /// has read them back ([`Store::read_back`]).
    ///
    /// # Errors
    /// A name is none, there are no members or too many, an artifact's manifest cannot be read or is
    /// of another member, or the storage failed; nothing became visible, or all of it did.
    pub fn commit_generation(&self, manifest: &Generation) -> Result<log::Generation, Error> {
        super::parse_label("deployment", &manifest.deployment)?;
        let _lease = self.writer()?;
        let extensions = &manifest.extensions;
        let bytes: usize = extensions.iter().map(|one| one.name.len() + one.value.len()).sum();
        if extensions.len() > EXTENSIONS_MAX || bytes > EXTENSION_BYTES_MAX {
            return Err(Error::Extensions { count: extensions.len(), bytes });
        }
        let names = manifest.members.iter().map(|member| member.name.as_str());
        check_members(names.chain(manifest.missing.iter().map(|missing| missing.name.as_str())))?;
        for member in &manifest.members {
            let artifact = self.artifact(&member.artifact)?;
            if artifact.member != member.name {
                let (manifest, expected) = (member.artifact, member.name.clone());
                return Err(Error::OtherMember { manifest, expected, actual: artifact.member });
            }
        }
        Ok(self.publish(manifest, Baseline::NONE)?.0)
    }

    /// Writes the manifest and the commit record; returns the bytes of the manifest, 0 if it was
    /// there.
    fn publish(
        &self,
        manifest: &Generation,
        baseline: Baseline,
    ) -> Result<(log::Generation, u64), Error> {
        let (id, bytes) = put_manifest(self, &manifest.encode())?;
        let manifests = manifest.members.iter().map(|member| member.artifact).chain([id]);
        let mut fence = Fence::new(self, baseline, manifests.collect());
        let mut log = self.log()?;
        let now = UnixNanos::now();
        let look = |log: &Log| fence.look(log);
        Ok((log.promote_if(self.backend(), now, &manifest.deployment, id, look)?, bytes))
    }

    /// Backs up the sources as the next generation of `deployment`: ingest, verify, promote and
    /// commit in one.
    ///
    /// # Errors
    /// The storage failed or the work was interrupted. Members whose sources failed are in the
    /// report; the generation holds the others.
    pub fn backup(
        &self,
        deployment: &str,
        sources: &[MemberSource],
        options: &IngestOptions,
        progress: &Progress,
    ) -> Result<BackupReport, Error> {
        super::parse_label("deployment", deployment)?;
        check_members(sources.iter().map(|source| source.member.as_str()))?;
        for _ in 1..BACKUP_ATTEMPTS {
            match self.try_backup(deployment, sources, options, progress) {
                // What was stored is found again; what was taken away is stored again.
                Err(Error::TakenAway { .. }) => {}
                result => return result,
            }
        }
        self.try_backup(deployment, sources, options, progress)
    }

    fn try_backup(
        &self,
        deployment: &str,
        sources: &[MemberSource],
        options: &IngestOptions,
        progress: &Progress,
    ) -> Result<BackupReport, Error> {
        let baseline = self.baseline()?;
        let previous = self.previous_artifacts(deployment, sources)?;
        let staged = self.ingest_since(baseline, sources, &previous, options, progress)?;
        let verified = staged.verify()?;
        progress.check()?;
        self.commit(deployment, verified.promote()?)
    }

    /// Returns each member's artifact in the newest generation that has one that can be read.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn previous_artifacts(
        &self,
        deployment: &str,
        sources: &[MemberSource],
    ) -> Result<Vec<Option<Artifact>>, Error> {
        /// Older generations than these are not searched for a member that the newest lacks.
        const GENERATIONS_SEARCHED: usize = 30;
        let mut previous: Vec<Option<Artifact>> = vec![None; sources.len()];
        let mut generations = self.log()?.generations();
        generations.retain(|generation| generation.deployment == deployment);
        for generation in generations.iter().rev().take(GENERATIONS_SEARCHED) {
            if previous.iter().all(Option::is_some) {
                break;
            }
            let Ok(manifest) = self.generation(&generation.manifest) else { continue };
            for (source, found) in sources.iter().zip(&mut previous) {
                let member = manifest.members.iter().find(|member| member.name == source.member);
                if let (None, Some(member)) = (&found, member) {
                    *found = self.artifact(&member.artifact).ok();
                }
            }
        }
        Ok(previous)
    }
}

fn check_members<'a>(members: impl Iterator<Item = &'a str>) -> Result<(), Error> {
    let mut seen = std::collections::HashSet::new();
    for member in members {
        super::parse_label("member", member)?;
        if !seen.insert(member) {
            return Err(Error::DuplicateMember { member: member.to_owned() });
        }
    }
    if seen.is_empty() || seen.len() > MEMBERS_MAX {
        return Err(Error::Members { count: seen.len() });
    }
    Ok(())
}
