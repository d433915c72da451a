//! Prune: forgetting generations by a policy, and removing what nothing needs.
//!
//! ```text
//! plan     log, manifests, list pages → one bit for each index entry → which copies stay → packs
//! apply    forget → collect what is due → write mostly dead packs anew → condemn
//! ```
//!
//! Nothing is removed that a generation needs that is visible, or becomes visible while prune is at
//! work: see `docs/decisions/013-prune.md`. What is not known is not removed.

mod apply;
mod collect;
mod marks;
mod plan;
mod retention;
mod rewrite;
mod select;
mod sparing;
mod survey;

use std::collections::HashSet;

use super::{Error, Progress, Store};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::record::{CommitNumber, GenerationName};
use crate::format::segment::PackEntry;
use crate::log::{Generation, Position};

pub use retention::{KeptBy, Retention};

/// How long what was forgotten can be brought back, if nobody says otherwise: a day.
pub const GRACE_NANOS: i64 = 24 * 3600 * 1_000_000_000;
/// Most live bytes that are copied, if nobody says otherwise.
pub const REWRITE_BYTES: u64 = 4 << 30;

/// What a prune shall do.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// What to keep; `None` forgets nothing but what is named.
    pub retention: Option<Retention>,
    /// The deployments that the policy is for; all if there are none.
    pub deployments: Vec<String>,
    /// Generations that are forgotten whatever the policy says.
    pub forget: Vec<GenerationName>,
    /// Forget nothing, only go on with removing what was forgotten before.
    pub collect_only: bool,
    /// How long condemned objects stay, in nanoseconds. With 0 they are removed at once, and the
    /// store is taken alone for that: nobody can write to it meanwhile.
    pub grace_nanos: i64,
    /// Most live bytes that are copied out of packs that are mostly dead.
    pub max_rewrite_bytes: u64,
    /// Manifests of artifacts that are needed although no generation shows them: those of unfinished
    /// runs.
    pub roots: Vec<Digest>,
    /// Go on although the commit log is damaged. Then every generation stays that a damaged record
    /// may have made visible or brought back; pins that it may have made are lost.
    pub accept_damaged_log: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            retention: None,
            deployments: Vec::new(),
            forget: Vec::new(),
            collect_only: false,
            grace_nanos: GRACE_NANOS,
            max_rewrite_bytes: REWRITE_BYTES,
            roots: Vec::new(),
            accept_damaged_log: false,
        }
    }
}

/// A generation that is kept, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The generation.
    pub generation: Generation,
    /// What keeps it.
    pub reasons: Vec<KeptBy>,
}

/// What is condemned, to be removed after the grace period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condemned {
    /// Packs, those that are written anew included.
    pub packs: u64,
    /// Manifests.
    pub manifests: u64,
    /// Length of all of them, in bytes.
    pub bytes: u64,
    /// Of the packs, those whose live chunks are copied into new ones.
    pub rewritten_packs: u64,
    /// Bytes that are copied.
    pub rewritten_bytes: u64,
}

impl Condemned {
    /// Returns how many bytes the store is smaller when all of it is removed.
    #[must_use]
    pub fn freed_bytes(&self) -> u64 {
        self.bytes.saturating_sub(self.rewritten_bytes)
    }
}

/// Objects that were condemned by an earlier prune and whose grace period is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The record that condemned them.
    pub number: CommitNumber,
    /// How many are removed.
    pub objects: u64,
    /// Their length, in bytes.
    pub bytes: u64,
    /// Those that something needs again, or that something needs that can still be brought back.
    spared: HashSet<Digest>,
    /// Generations that can be brought back even when this is collected.
    can_return: Vec<GenerationName>,
}

/// Objects that were condemned by an earlier prune and have to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// When they were condemned.
    pub condemned: UnixNanos,
    /// When their grace period is over.
    pub due: UnixNanos,
    /// Their length, in bytes.
    pub bytes: u64,
}

/// What a prune would do. It can be shown, and then executed exactly.
#[derive(Clone, Debug)]
#[must_use = "a plan changes nothing until it is executed"]
pub struct PrunePlan {
    /// Where the commit log ended when the plan was made.
    pub position: Position,
    /// Generations that stay, oldest commit first.
    pub kept: Vec<Kept>,
    /// Generations that are forgotten, oldest commit first.
    pub forgotten: Vec<Generation>,
    /// What is removed now.
    pub due: Vec<Due>,
    /// What was condemned before and has to wait.
    pub waiting: Vec<Waiting>,
    /// What is condemned now.
    pub condemned: Condemned,
    /// Bytes of it that no generation explains, forgotten ones included: left by interrupted
    /// backups, or made by one at work. They are held back if a backup is at work then.
    pub unexplained_bytes: u64,
    /// Bytes that nothing needs, in packs that stay.
    pub unused_bytes: u64,
    /// Packs that cannot be read and therefore stay.
    pub unreadable: Vec<String>,
    /// Chunks that are needed and that no pack holds that can be read; the first few.
    pub lost: Vec<Digest>,
    /// How many there are.
    pub lost_count: u64,
    /// Collections of earlier prunes that were interrupted and are completed.
    pub unfinished: u64,
    /// The grace period, in nanoseconds.
    pub grace_nanos: i64,
    work: Work,
}

impl PrunePlan {
    /// Says whether executing it would change nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.forgotten.is_empty()
            && self.due.is_empty()
            && self.unfinished == 0
            && self.condemned == Condemned::default()
    }
}

/// What is to be done, object by object.
#[derive(Clone, Debug)]
struct Work {
    marks: marks::Marks,
    dead: Vec<PackEntry>,
    rewrite: Vec<PackEntry>,
    broken: Vec<PackEntry>,
    manifests: Vec<Digest>,
    unexplained: HashSet<Digest>,
    /// Packs that the index knows, that are not there and that nothing needs.
    stale: Vec<Digest>,
}

/// Why removing was put off to a later prune.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOff {
    /// Somebody reads from the store.
    Readers,
    /// Somebody writes to the store, and what no generation explains may be theirs.
    Writers,
    /// There was no room to write packs anew.
    Room,
}

/// What a prune did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Generations that were forgotten.
    pub forgotten: Vec<GenerationName>,
    /// What was condemned.
    pub condemned: Condemned,
    /// Objects that were removed.
    pub removed_objects: u64,
    /// Their length, in bytes.
    pub removed_bytes: u64,
    /// Objects that had been condemned and were spared, because something needs them again.
    pub spared: u64,
    /// What was put off.
    pub put_off: Vec<PutOff>,
    /// Packs that were not removed because what is in them, or what should replace it, cannot be
    /// read; and other things that people should look at.
    pub notes: Vec<String>,
}

impl Store {
    /// Plans a prune: what would be forgotten and removed, and why. Changes nothing.
    ///
    /// # Errors
    /// [`Error::KeepsNothing`] if there is no rule; [`Error::NotKnown`] if something cannot be read
    /// that says what is needed; a generation or deployment that is named is not there or is pinned;
    /// the work was interrupted.
    pub fn plan_prune(
        &self,
        options: &PruneOptions,
        progress: &Progress,
    ) -> Result<PrunePlan, Error> {
        plan::make(self, options, progress)
    }

    /// Executes a plan. If it is interrupted in any way, the store is whole, and the next prune goes
    /// on.
    ///
    /// # Errors
    /// [`Error::Moved`] if the store was changed since the plan was made; another prune is at work;
    /// with no grace period, somebody writes to the store; the storage failed; the work was
    /// interrupted.
    pub fn prune(&self, plan: &PrunePlan, progress: &Progress) -> Result<PruneReport, Error> {
        apply::run(self, plan, progress)
    }
}
