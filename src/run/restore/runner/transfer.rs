//! Transfer: artifacts come from the store one after the other, each read by all processors, and
//! are uploaded at the same time, up to a limit. What is uploaded leaves the staging area, so that
//! this needs room for a few members only.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::Runner;
use crate::format::manifest::Artifact;
use crate::fstree;
use crate::run::error::Error;
use crate::run::executor::{self, Call, Executor};
use crate::run::inventory::Row;
use crate::run::restore::event::{Event, Receipt};
use crate::run::restore::plan::{Member, OperationKind as Kind};
use crate::run::restore::source;
use crate::run::staging;
use crate::store::{self, Node, RestoreOptions, Tree};

/// An upload to be done.
struct Job {
    operation: u32,
    member: Row,
    staged: PathBuf,
    before: Option<Vec<String>>,
    call: Call,
}

/// An upload that is done.
struct Done {
    operation: u32,
    member: String,
    result: Result<Receipt, executor::Error>,
}

impl Runner<'_> {
    /// Fetches and uploads whatever is not yet.
    pub(super) fn transfer(&mut self) -> Result<(), Error> {
        self.course.staging.open_run(self.course.name())?;
        self.lose_staged()?;
        let mut open: VecDeque<Row> =
            self.course.open(Kind::Upload).into_iter().map(|(_, member)| member).collect();
        let mut failures = Vec::new();
        let (sender, receiver) = channel();
        let executor = self.course.service.executor;
        std::thread::scope(|scope| {
            let mut active = 0;
            let mut result = Ok(());
            loop {
                active -= self.take_ready(&receiver, &mut failures)?;
                let stopping = result.is_err()
                    || self.course.progress.is_interrupted()
                    || !failures.is_empty();
                if !stopping
                    && active < self.course.options.concurrency
                    && let Some(member) = open.pop_front()
                {
                    match self.job(member) {
                        Ok(job) => {
                            let sender = sender.clone();
                            scope.spawn(move || upload(executor, job, &sender));
                            active += 1;
                        }
                        // What is under way is waited for, so that its end is recorded.
                        Err(error) => result = Err(error),
                    }
                } else if active > 0 {
                    let done = receiver.recv().ok();
                    active -= 1;
                    self.take(done, &mut failures)?;
                } else {
                    return result;
                }
            }
        })?;
        self.course.check()?;
        if failures.is_empty() { Ok(()) } else { Err(Error::Operations { failures }) }
    }

    /// What was staged by an earlier attempt and not uploaded is fetched anew if it is not, byte for
    /// byte, what the store has.
    fn lose_staged(&mut self) -> Result<(), Error> {
        let ledger = self.course.state.ledger();
        let staged = self.course.open(Kind::Upload).into_iter().filter_map(|(_, member)| {
            let (operation, state) = ledger.of(Kind::Fetch, &member.id)?;
            state.is_done().then_some((operation.sequence, member.id))
        });
        let staged: Vec<(u32, String)> = staged.collect();
        let mut operations = Vec::new();
        for (operation, target) in staged {
            let (part, path) = self.part(&target)?;
            if !self.holds(&part.members[0].artifact, &path)? {
                operations.push(operation);
            }
        }
        if operations.is_empty() {
            return Ok(());
        }
        let reason = "gone, changed, or the machine was started anew since".into();
        self.course.record(Event::Lost { operations, reason })
    }

    /// Says whether what is staged is what an artifact holds: every file is read.
    fn holds(&self, artifact: &Artifact, path: &Path) -> Result<bool, Error> {
        let Ok(source) = fstree::Source::open(path) else { return Ok(false) };
        for entry in self.course.store.entries(artifact) {
            let entry = entry.map_err(store::Error::from)?;
            self.course.check()?;
            let same = match &entry.node {
                Node::File(content) => source.open_file(&entry.path).is_ok_and(|file| {
                    let mut hasher = blake3::Hasher::new();
                    hasher.update_reader(file).is_ok()
                        && hasher.count() == content.bytes
                        && hasher.finalize().as_bytes() == &content.checksums.blake3.0
                }),
                _ => staging::is_there(&path.join(OsStr::from_bytes(&entry.path))),
            };
            if !same {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the part of the generation that goes into a member, and its place in the staging
    /// area.
    fn part(&mut self, target: &str) -> Result<(Tree, PathBuf), Error> {
        let plan = &self.course.state.plan;
        let nothing = || Error::Inventory(format!("nothing goes into {target}"));
        let member = plan.member(target).ok_or_else(nothing)?;
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => source::open(self.course.store, plan)?,
        };
        let part = source::part(&tree, plan, member);
        self.tree = Some(tree);
        Ok((part?, self.staged(member)))
    }

    fn staged(&self, member: &Member) -> PathBuf {
        self.course.staging.run(self.course.name()).join(&member.source)
    }

    /// Fetches a member, if it is not staged, and begins its upload.
    fn job(&mut self, member: Row) -> Result<Job, Error> {
        let lacks = || Error::Inventory(format!("{} has no upload", member.id));
        let ledger = self.course.state.ledger();
        let (fetch, state) = ledger.of(Kind::Fetch, &member.id).ok_or_else(lacks)?;
        let (fetch, is_staged) = (fetch.sequence, state.is_done());
        let (upload, state) = ledger.of(Kind::Upload, &member.id).ok_or_else(lacks)?;
        let (upload, known, again) = (upload.sequence, state.before().cloned(), state.is_begun());
        self.course.check()?;
        let (part, staged) = self.part(&member.id)?;
        if !is_staged {
            self.course.begin(vec![fetch], None)?;
            match self.fetch(&member, &part, &staged) {
                Ok(receipt) => self.course.complete(fetch, receipt)?,
                Err(error) if error.is_interrupted() => return Err(error),
                Err(error) => {
                    self.course.failed(fetch, error.to_string())?;
                    return Err(error);
                }
            }
        }
        let before = if again { known } else { self.list(&member)? };
        self.course.begin(vec![upload], before.clone())?;
        let call = self.course.service.call(&member.id);
        Ok(Job { operation: upload, staged, before, call, member })
    }

    /// Brings an artifact into the staging area, and compares it with the evidence in it.
    fn fetch(&self, row: &Row, part: &Tree, staged: &Path) -> Result<Receipt, Error> {
        let staging = &self.course.staging;
        staging.discard(staged)?;
        let run = staging.run(self.course.name());
        let threads = self.course.options.ingest.threads;
        // The directory of the run holds other members, so it is not empty.
        let options = RestoreOptions { overwrite: true, threads, ..RestoreOptions::default() };
        let report = self.course.store.restore(part, &run, &options, self.course.progress)?;
        if let Some(failure) = report.failures.first() {
            let member = part.members[0].name.clone();
            let (path, reason) = (failure.path.clone(), failure.reason.clone());
            return Err(if failure.damage {
                Error::Damaged { member, path, reason }
            } else {
                Error::Member { member, reason: format!("staging {path}: {reason}") }
            });
        }
        staging.make_private(staged)?;
        let planned = self.course.state.plan.member(&row.id);
        let evidence = planned.and_then(|member| member.snapshot.as_ref());
        let checks = self.course.service.executor.check(row, evidence, staged)?;
        let path = staged.to_string_lossy().into_owned();
        Ok(Receipt::Fetched { path, files: report.files, bytes: report.bytes, checks })
    }

    /// Takes all uploads that are done by now; returns how many.
    fn take_ready(
        &mut self,
        receiver: &Receiver<Done>,
        failures: &mut Vec<(String, String)>,
    ) -> Result<usize, Error> {
        let mut count = 0;
        while let Ok(done) = receiver.try_recv() {
            self.take(Some(done), failures)?;
            count += 1;
        }
        Ok(count)
    }

    fn take(
        &mut self,
        done: Option<Done>,
        failures: &mut Vec<(String, String)>,
    ) -> Result<(), Error> {
        let Some(Done { operation, member, result }) = done else { return Ok(()) };
        match result {
            Ok(receipt) => {
                self.course.complete(operation, receipt)?;
                // It is at the service, and would be fetched again if it were not.
                if let Some(planned) = self.course.state.plan.member(&member) {
                    self.course.staging.discard(&self.staged(planned))?;
                }
            }
            Err(error) => failures.push(self.course.failed(operation, error.to_string())?),
        }
        Ok(())
    }
}

fn upload(executor: &dyn Executor, job: Job, sender: &Sender<Done>) {
    let Job { operation, member, staged, before, call } = job;
    let result = executor.upload(&member, &staged, &call).map(|snapshot| {
        let listed = executor.snapshots(&member, &call).unwrap_or_default();
        let is_stray = |id: &String| {
            *id != snapshot.id && before.as_ref().is_some_and(|before| !before.contains(id))
        };
        let strays = listed.into_iter().map(|snapshot| snapshot.id).filter(is_stray).collect();
        Receipt::Uploaded { snapshot, strays }
    });
    // The runner receives until all have answered; if it has failed, its error is reported.
    let _ = sender.send(Done { operation, member: member.id, result });
}
