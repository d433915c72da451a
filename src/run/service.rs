//! Service: the members of a run at the service, as every kind of run handles them: told to stop and
//! to start, asked what came of it, and asked who may do so. A lost answer decides nothing: the
//! service is asked what it has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::error::Error;
use super::event::{AuthorityReceipt, Proof};
use super::executor::{self, Call, Evidence, Executor, State, Status};
use super::inventory::Row;
use super::plan::AuthorityNeeded;
use super::staging::MemberLock;
use crate::store::Progress;

/// What drives the members of a run, and the locks that say that they have work under way.
pub(super) struct Service<'a> {
    pub executor: &'a dyn Executor,
    pub progress: &'a Progress,
    /// How long a member may take to stop or start after the service was told.
    pub settle: Duration,
    /// How often it is asked meanwhile.
    pub poll: Duration,
    pub locks: HashMap<String, MemberLock>,
}

impl Service<'_> {
    /// Returns what every call to the executor about a member gets.
    pub fn call(&self, member: &str) -> Call {
        let lock = self.locks.get(member).cloned();
        Call { interrupted: self.progress.interrupt_flag(), lock, timeout: None }
    }

    /// Returns what a call gets that is made although the user has interrupted.
    pub fn last_call(&self, member: &str) -> Call {
        Call { lock: self.locks.get(member).cloned(), ..Call::new() }
    }

    /// Says whether members can be stopped and started.
    pub fn has_control(&self) -> bool {
        self.executor.capabilities().control
    }

    /// Asks for a member's status.
    pub fn status(&self, member: &Row) -> Result<Status, executor::Error> {
        self.executor.status(member, &self.call(&member.id))
    }

    /// Stops a member and waits until it is stopped.
    pub fn stop(&self, member: &Row) -> Result<Status, String> {
        let told = self.executor.stop(member, &self.call(&member.id));
        self.wait(member, State::Stopped, told)
    }

    /// Starts a member and waits until it runs.
    pub fn start(&self, member: &Row) -> Result<(), String> {
        let told = self.executor.start(member, &self.call(&member.id));
        self.wait(member, State::Running, told).map(drop)
    }

    /// Asks for a member's status until it is the wanted one. What the service answered when it was
    /// told counts only where its status does not say better.
    fn wait(
        &self,
        member: &Row,
        wanted: State,
        told: Result<(), executor::Error>,
    ) -> Result<Status, String> {
        if let Err(error @ (executor::Error::Refused(_) | executor::Error::Interrupted)) = told {
            return Err(error.to_string());
        }
        let since = Instant::now();
        loop {
            let last = match self.status(member) {
                Ok(status) if status.state == wanted => return Ok(status),
                Ok(status) => format!("it is {}", word(status.state)),
                Err(error) => format!("its status cannot be asked: {error}"),
            };
            let is_moving = last.ends_with(word(State::Stopping)) && wanted == State::Stopped;
            if let (Err(error), false) = (&told, is_moving) {
                return Err(format!("{error}; {last}"));
            }
            if since.elapsed() >= self.settle {
                let limit = self.settle.as_secs();
                return Err(format!("not {} after {limit} seconds: {last}", word(wanted)));
            }
            if self.progress.is_interrupted() {
                return Err(format!("interrupted while {last}"));
            }
            std::thread::sleep(self.poll);
        }
    }

    /// Starts all of `members`, whatever the user wants; returns those that run, and those that do
    /// not with the cause.
    pub fn start_again(&self, members: Vec<Row>) -> (Vec<String>, Vec<(String, String)>) {
        let (mut restarted, mut failed) = (Vec::new(), Vec::new());
        if self.has_control() {
            for member in members {
                match self.start_after_interruption(&member) {
                    Ok(()) => restarted.push(member.id),
                    Err(reason) => failed.push((member.id, reason)),
                }
            }
        }
        (restarted, failed)
    }

    /// The interruption that ended the run must not end this.
    fn start_after_interruption(&self, member: &Row) -> Result<(), String> {
        let call = self.last_call(&member.id);
        let told = self.executor.start(member, &call);
        let since = Instant::now();
        loop {
            let last = match self.executor.status(member, &call) {
                Ok(status) if status.state == State::Running => return Ok(()),
                Ok(status) => format!("it is {}", word(status.state)),
                Err(error) => format!("its status cannot be asked: {error}"),
            };
            match &told {
                Err(error) => return Err(format!("{error}; {last}")),
                Ok(()) if since.elapsed() >= self.settle => return Err(last),
                Ok(()) => std::thread::sleep(self.poll),
            }
        }
    }

    /// Asks for the rights over a member; those that `rights` leaves out are not needed.
    pub fn authority(
        &self,
        member: &Row,
        rights: &Rights,
        needed: AuthorityNeeded,
    ) -> Result<AuthorityReceipt, Error> {
        let authority = self.executor.authority(member, &self.call(&member.id))?;
        let proof = |right: Option<&'static str>, evidence: Evidence| {
            let Some(right) = right else {
                return Ok(Proof::NotNeeded("the run has no such step".into()));
            };
            let reason = match evidence {
                Evidence::Proven(text) => return Ok(Proof::Proven(text)),
                Evidence::Declared if needed == AuthorityNeeded::Declared => {
                    return Ok(Proof::Declared("by the configuration".into()));
                }
                Evidence::Declared => "is only declared".to_owned(),
                Evidence::NotProven(reason) => reason,
            };
            Err(Error::Authority { member: member.id.clone(), right, reason })
        };
        let control = proof(rights.control, authority.control)?;
        let read = proof(rights.read, authority.read)?;
        Ok(AuthorityReceipt { member: member.id.clone(), control, read })
    }

    /// Removes snapshots from the service, whatever the user wants; returns those that are gone as
    /// member and snapshot, and those that are not with the cause.
    #[expect(clippy::type_complexity, reason = "two lists, each by member")]
    pub fn delete(
        &self,
        snapshots: Vec<(Row, super::facts::Snapshot)>,
    ) -> (Vec<(String, String)>, Vec<(String, String)>) {
        let (mut removed, mut failed) = (Vec::new(), Vec::new());
        for (member, snapshot) in snapshots {
            let call = self.last_call(&member.id);
            let deleted = self.executor.delete(&member, &snapshot, &call);
            let is_gone = || {
                let still = self.executor.snapshots(&member, &call);
                still.is_ok_and(|all| all.iter().all(|one| one.id != snapshot.id))
            };
            match deleted {
                Err(error) if !is_gone() => {
                    let what = format!("snapshot {} of {}", snapshot.id, member.id);
                    failed.push((what, error.to_string()));
                }
                _ => removed.push((member.id, snapshot.id)),
            }
        }
        (removed, failed)
    }
}

/// Asks about each of `items`, up to `most` at the same time; the answers are in their order. After
/// a failure nothing more is asked.
pub(super) fn ask_each<T: Sync, R: Send>(
    items: &[T],
    most: usize,
    ask: impl Fn(&T) -> Result<R, Error> + Sync,
) -> Result<Vec<R>, Error> {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (sender, receiver) = channel();
    std::thread::scope(|scope| {
        for _ in 0..most.min(items.len()) {
            let (next, failed, ask, sender) = (&next, &failed, &ask, sender.clone());
            scope.spawn(move || {
                while !failed.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { break };
                    let answer = ask(item);
                    failed.fetch_or(answer.is_err(), Ordering::Relaxed);
                    // The receiver is there until all have ended.
                    let _ = sender.send((at, answer));
                }
            });
        }
    });
    drop(sender);
    let mut answers: Vec<_> = receiver.into_iter().collect();
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The rights that a run needs, in the words of errors.
pub(super) struct Rights {
    /// To stop and to start, and what else changes the member.
    pub control: Option<&'static str>,
    /// To read snapshots.
    pub read: Option<&'static str>,
}

/// Returns the word for a state.
pub(super) fn word(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Stopping => "stopping",
        State::Stopped => "stopped",
        State::Unknown => "in a state that the service does not tell",
    }
}
