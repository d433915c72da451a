//! Transfer: snapshots are downloaded at the same time, up to a limit, and ingested in batches as
//! they come; each is read back before it counts.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rayon::prelude::*;

use super::{Error, Runner};
use crate::digest::{Digest, hex};
use crate::run::event::{Completed, Event, Receipt};
use crate::run::executor::{self, Call, Executor, Fetched};
use crate::run::facts::Snapshot;
use crate::run::inventory::Row;
use crate::run::plan::OperationKind as Kind;
use crate::run::staging;
use crate::run::state::ArtifactState;
use crate::store::{IngestStats, MemberSource, Store};

/// Most members that are ingested as one.
const BATCH_MEMBERS: usize = 256;
/// How often it is looked whether the user has interrupted.
const TICK: Duration = Duration::from_millis(50);

/// A download to be done.
struct Job {
    operation: u32,
    member: Row,
    snapshot: Option<Snapshot>,
    staging: PathBuf,
    call: Call,
}

/// A download that is done.
struct Done {
    operation: u32,
    member: Row,
    result: Result<(PathBuf, bool, Vec<String>), executor::Error>,
}

/// Content that is here and not yet stored.
struct Waiting {
    member: Row,
    path: PathBuf,
}

/// What is under way, and what came of it.
struct Desk {
    jobs: VecDeque<Job>,
    /// Downloads that were begun and have not answered.
    active: usize,
    waiting: Vec<Waiting>,
    failures: Vec<(String, String)>,
    sender: Sender<Done>,
    receiver: Receiver<Done>,
    /// Tells the downloads that are under way to end.
    stop: Arc<AtomicBool>,
}

impl Desk {
    fn is_done(&self, stopping: bool) -> bool {
        self.waiting.is_empty() && self.active == 0 && (self.jobs.is_empty() || stopping)
    }
}

impl Runner<'_> {
    /// Downloads, ingests and reads back whatever is not yet.
    pub(super) fn transfer(&mut self) -> Result<(), Error> {
        // Members that are read in place, or dumped, have to be stopped still.
        if self.course.state.is_before_starts()
            && self.course.service.has_control()
            && !self.is_as_it_was_left()?
        {
            return Ok(());
        }
        self.lose_missing()?;
        let mut desk = self.desk()?;
        std::thread::scope(|scope| {
            let ended = self.transfer_all(&mut desk, scope);
            // Whatever ended it, downloads that are under way are not waited for: they can be gone
            // on with.
            desk.stop.store(true, Ordering::Relaxed);
            ended
        })?;
        self.course.check()?;
        let failures = desk.failures;
        if failures.is_empty() { Ok(()) } else { Err(Error::Operations { failures }) }
    }

    /// Lists what is to be downloaded, and what waits to be stored.
    fn desk(&self) -> Result<Desk, Error> {
        let (sender, receiver) = channel();
        let stop = Arc::<AtomicBool>::default();
        let (mut waiting, mut jobs) = (Vec::new(), VecDeque::new());
        for (_, member) in self.course.open(Kind::VerifyArtifact) {
            match self.course.state.artifact(&member.id) {
                ArtifactState::Downloaded { path, .. } => {
                    waiting.push(Waiting { member, path: PathBuf::from(path) });
                }
                _ => jobs.push_back(self.job(member, &stop)?),
            }
        }
        Ok(Desk { jobs, active: 0, waiting, failures: Vec::new(), sender, receiver, stop })
    }

    fn transfer_all<'s>(
        &mut self,
        desk: &mut Desk,
        scope: &'s std::thread::Scope<'s, '_>,
    ) -> Result<(), Error>
    where
        Self: 's,
    {
        let executor = self.course.service.executor;
        loop {
            let stopping = self.course.progress.is_interrupted() || !desk.failures.is_empty();
            desk.stop.fetch_or(stopping, Ordering::Relaxed);
            while !stopping && desk.active < self.course.options.concurrency {
                let Some(job) = desk.jobs.pop_front() else { break };
                self.course.begin(vec![job.operation], None)?;
                let sender = desk.sender.clone();
                scope.spawn(move || fetch(executor, job, &sender));
                desk.active += 1;
            }
            if desk.active > 0 && desk.waiting.is_empty() {
                match desk.receiver.recv_timeout(TICK) {
                    Ok(done) => self.take(done, desk)?,
                    Err(_) => continue,
                }
            }
            while let Ok(done) = desk.receiver.try_recv() {
                self.take(done, desk)?;
            }
            if desk.is_done(stopping) {
                return Ok(());
            }
            let most = desk.waiting.len().min(BATCH_MEMBERS);
            let batch: Vec<_> = desk.waiting.drain(..most).collect();
            self.ingest(batch, &mut desk.failures)?;
        }
    }

    /// Downloads again what an earlier process had staged and is gone, as all of it is if the machine
    /// went down since: what was not synced may have been lost, and nothing would show it.
    fn lose_missing(&mut self) -> Result<(), Error> {
        self.course.staging.open_run(self.course.name())?;
        let open = self.course.open(Kind::VerifyArtifact).into_iter();
        let lost = open.filter_map(|(_, member)| {
            let ArtifactState::Downloaded { path, staged: true } =
                self.course.state.artifact(&member.id)
            else {
                return None;
            };
            let (operation, _) = self.course.state.of(Kind::DownloadSnapshot, &member.id)?;
            (!staging::is_there(Path::new(&path))).then_some(operation.sequence)
        });
        let operations: Vec<u32> = lost.collect();
        if operations.is_empty() {
            return Ok(());
        }
        let reason = "gone, or the machine was started anew since".into();
        self.course.record(Event::Lost { operations, reason })
    }

    fn job(&self, member: Row, stop: &Arc<AtomicBool>) -> Result<Job, Error> {
        let (operation, _) = self
            .course
            .state
            .of(Kind::DownloadSnapshot, &member.id)
            .ok_or_else(|| Error::Inventory(format!("{} has no download", member.id)))?;
        Ok(Job {
            operation: operation.sequence,
            snapshot: self.course.state.snapshot(&member.id).cloned(),
            staging: self.course.staging.member(self.course.name(), &member.id)?,
            call: Call { interrupted: Arc::clone(stop), ..self.course.service.call(&member.id) },
            // What is downloaded has to have the code that the member was stopped with.
            member: Row {
                module_hash: self.course.state.code(&member.id).map(str::to_owned),
                ..member
            },
        })
    }

    /// Records how a download ended.
    fn take(&mut self, done: Done, desk: &mut Desk) -> Result<(), Error> {
        let Done { operation, member, result } = done;
        desk.active -= 1;
        match result {
            Ok((path, staged, checks)) => {
                let text = path.to_string_lossy().into_owned();
                self.course
                    .complete(operation, Receipt::Downloaded { path: text, staged, checks })?;
                desk.waiting.push(Waiting { member, path });
            }
            // It was told to; what made that necessary is the failure.
            Err(executor::Error::Interrupted) if desk.stop.load(Ordering::Relaxed) => {
                let reason = "ended before its time, because the run does not go on";
                self.course.failed(operation, reason.into())?;
            }
            Err(error) => desk.failures.push(self.course.failed(operation, error.to_string())?),
        }
        Ok(())
    }

    /// Stores a batch and reads it back.
    fn ingest(
        &mut self,
        batch: Vec<Waiting>,
        failures: &mut Vec<(String, String)>,
    ) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut operations = Vec::with_capacity(batch.len());
        for one in &batch {
            let (operation, _) =
                self.course.state.of(Kind::VerifyArtifact, &one.member.id).ok_or_else(|| {
                    Error::Inventory(format!("{} is not verified", one.member.id))
                })?;
            operations.push(operation.sequence);
        }
        self.course.begin(operations.clone(), None)?;
        let sources: Vec<MemberSource> = batch
            .into_iter()
            .map(|one| MemberSource { member: one.member.id, path: one.path })
            .collect();
        let (stored, failed) = self.store_all(&sources)?;
        let of = |member: &str| sources.iter().position(|source| source.member == member);
        let completed = stored.into_iter().filter_map(|(member, receipt)| {
            Some(Completed { operation: operations[of(&member)?], receipt })
        });
        let completed: Vec<_> = completed.collect();
        if !completed.is_empty() {
            self.course.record(Event::Completed { operations: completed })?;
        }
        for (member, reason) in failed {
            if let Some(at) = of(&member) {
                failures.push(self.course.failed(operations[at], reason)?);
            }
        }
        Ok(())
    }

    /// Ingests sources, makes their artifacts durable and reads them back.
    #[expect(clippy::type_complexity, reason = "two lists, each by member")]
    fn store_all(
        &mut self,
        sources: &[MemberSource],
    ) -> Result<(Vec<(String, Receipt)>, Vec<(String, String)>), Error> {
        let store: &Store = self.course.store;
        let deployment = &self.course.state.plan.request.deployment;
        let previous = store.previous_artifacts(deployment, sources)?;
        let staged =
            store.ingest(sources, &previous, &self.course.options.ingest, self.course.progress)?;
        add(&mut self.stats, staged.stats());
        let durable = staged.verify()?.promote()?;
        let failed = durable.failed.iter().map(|(member, faults)| {
            let reason = faults.first().map_or_else(String::new, ToString::to_string);
            (member.clone(), reason)
        });
        let failed: Vec<_> = failed.collect();
        let progress = self.course.progress.part();
        let read = durable.artifacts.par_iter().map(|artifact| {
            let at = sources.iter().position(|source| source.member == artifact.member);
            let known = at.and_then(|at| previous[at].as_ref());
            let read = store.read_back(&artifact.manifest, known, &progress)?;
            if read.checksum != artifact.checksum {
                let (manifest, path) = (artifact.manifest, String::new());
                return Err(Error::Store(crate::store::Error::Artifact { manifest, path }));
            }
            let receipt = Receipt::Verified {
                manifest: artifact.manifest.to_hex(),
                algorithm: artifact.algorithm.name().to_owned(),
                checksum: hex(&artifact.checksum),
                files: artifact.counts.files,
                bytes: artifact.counts.bytes,
                bytes_read: artifact.summary.bytes_read,
            };
            Ok((artifact.member.clone(), receipt))
        });
        let stored = read.collect::<Result<Vec<_>, Error>>()?;
        self.read_back.extend(durable.artifacts.iter().map(|artifact| artifact.manifest.to_hex()));
        Ok((stored, failed))
    }

    /// Reads back artifacts that an earlier process of this run had verified: since then nobody has
    /// held a lease for them.
    pub(super) fn read_back_earlier(&mut self) -> Result<(), Error> {
        let manifests: Vec<String> = self.course.state.manifests().map(str::to_owned).collect();
        for manifest in manifests {
            if self.read_back.contains(&manifest) {
                continue;
            }
            let digest: Digest = manifest
                .parse()
                .map_err(|_| Error::Inventory(format!("{manifest} is no digest")))?;
            self.course.store.read_back(&digest, None, &self.course.progress.part())?;
            self.read_back.insert(manifest);
        }
        Ok(())
    }
}

fn fetch(executor: &dyn Executor, job: Job, sender: &Sender<Done>) {
    let Job { operation, member, snapshot, staging, call } = job;
    let work = AssertUnwindSafe(|| {
        let (path, staged) = match executor.download(&member, snapshot.as_ref(), &staging, &call)? {
            Fetched::Staged => (staging, true),
            Fetched::InPlace(path) => (path, false),
        };
        let checks = executor.check(&member, snapshot.as_ref(), &path)?;
        Ok((path, staged, checks))
    });
    // An executor of somebody else's may panic: without an answer the runner would wait for ever.
    let result = catch_unwind(work)
        .unwrap_or_else(|_| Err(executor::Error::Unknown("the executor panicked".to_owned())));
    // The runner receives until all have answered; if it has failed, its error is reported.
    let _ = sender.send(Done { operation, member, result });
}

fn add(sum: &mut IngestStats, one: &IngestStats) {
    sum.bytes_read += one.bytes_read;
    sum.bytes_new += one.bytes_new;
    sum.bytes_stored += one.bytes_stored;
    sum.chunks_new += one.chunks_new;
    sum.chunks_reused += one.chunks_reused;
    sum.chunks_in_place += one.chunks_in_place;
    sum.chunks_encoded += one.chunks_encoded;
    sum.chunks_delta += one.chunks_delta;
    sum.bytes_saved_by_deltas += one.bytes_saved_by_deltas;
    sum.packs_written += one.packs_written;
    sum.page_packs_written += one.page_packs_written;
}
