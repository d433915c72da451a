//! Events: what a backup run's journal records, each with the receipt of what it says.

use serde::{Deserialize, Serialize};

use super::facts::Snapshot;
use super::plan::{AuthorityNeeded, Plan};

/// What happened. State and receipt are one record: nothing is ever true in one and not in the
/// other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event", deny_unknown_fields)]
pub enum Event {
    /// The run begins.
    Planned {
        /// What it is going to do.
        plan: Box<Plan>,
    },
    /// The members were asked, and the answers accepted: the four validations are done.
    Preflight {
        /// The answers.
        receipt: Preflight,
    },
    /// Operations begin.
    Started {
        /// Their places in the plan.
        operations: Vec<u32>,
        /// For a snapshot, which begins alone: the ones that the service had before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Vec<String>>,
    },
    /// Operations are done.
    Completed {
        /// Each with what shows it.
        operations: Vec<Completed>,
    },
    /// An operation failed; it may be tried again.
    Failed {
        /// Its place in the plan.
        operation: u32,
        /// Why.
        reason: String,
    },
    /// Operations have nothing to do.
    Skipped {
        /// Their places in the plan.
        operations: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// Downloads are not there any more: they are done again.
    Lost {
        /// Their places in the plan.
        operations: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// Members that the run had stopped were started again, because it failed or was interrupted
    /// before its own starts: stops and snapshots count no more and will be repeated.
    Restarted {
        /// The members that run again.
        members: Vec<String>,
        /// Members that could not be started, with the cause.
        failed: Vec<(String, String)>,
        /// Why the run did not go on.
        cause: String,
    },
    /// What became of attempts to make a member's snapshot that count no more and whose answers
    /// were lost: the service was asked what it has.
    Settled {
        /// The member.
        member: String,
        /// The one snapshot that has appeared since the first of these attempts; it is the run's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<Snapshot>,
        /// Snapshots that have appeared if there are several: whose they are is not known.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        strays: Vec<String>,
    },
    /// The generation is visible: all artifacts are durable.
    Durable {
        /// The finalizing operation's place in the plan.
        operation: u32,
        /// The generation's number.
        generation: u64,
        /// Its manifest, 64 hexadecimal digits.
        manifest: String,
    },
    /// Snapshots were removed from the service, and staging from the disk.
    Cleaned {
        /// Member and snapshot.
        snapshots: Vec<(String, String)>,
        /// What could not be removed, with the cause.
        failed: Vec<(String, String)>,
    },
    /// The run is given up; nothing of it became visible.
    Abandoned {
        /// Why.
        reason: String,
    },
}

/// An operation that is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completed<R = Receipt> {
    /// Its place in the plan.
    pub operation: u32,
    /// What shows it.
    pub receipt: R,
}

/// What shows that an operation is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Receipt {
    /// The service says that the member is stopped.
    Stopped {
        /// Its code at that time, if the service says.
        module_hash: Option<String>,
    },
    /// The snapshot; the artifact is `Created`.
    Created {
        /// What the service calls it.
        snapshot: Snapshot,
        /// Whether it was found after a lost answer.
        adopted: bool,
    },
    /// The service says that the member runs.
    Running {},
    /// The content is here; the artifact is `Downloaded`.
    Downloaded {
        /// Where: a directory of the staging area, or the place where it is read and stays.
        path: String,
        /// Whether that is in the staging area.
        staged: bool,
        /// What was compared with the evidence that the snapshot carries.
        checks: Vec<String>,
    },
    /// The content is stored and reads back; the artifact is `ChecksumVerified`.
    Verified {
        /// Its manifest, 64 hexadecimal digits.
        manifest: String,
        /// `blake3` or `sha256`.
        algorithm: String,
        /// Checksum of the staged bytes, equal to that of the bytes that read back.
        checksum: String,
        /// Files.
        files: u64,
        /// Bytes of content.
        bytes: u64,
        /// Bytes that were read for it.
        bytes_read: u64,
    },
}

/// The answers before anything is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preflight {
    /// The plan that they are for.
    pub plan: String,
    /// The topology hash, asked anew.
    pub topology_hash: String,
    /// One for each target, in the plan's order.
    pub authorities: Vec<AuthorityReceipt>,
    /// How the members are quieted, as the plan says and the runner accepts.
    pub quiescence: super::facts::Quiescence,
    /// From when it is valid, in nanoseconds since 1970.
    pub valid_from: i64,
    /// Until when, exclusive.
    pub expires: i64,
}

/// What is known of the rights over one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityReceipt {
    /// The member.
    pub member: String,
    /// The right to stop and start it.
    pub control: Proof,
    /// The right to read its snapshots.
    pub read: Proof,
}

impl AuthorityReceipt {
    /// Checks that there is one for each of `members`, in order, and as good as is needed.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check<'m>(
        receipts: &[Self],
        members: impl Iterator<Item = &'m str>,
        needed: AuthorityNeeded,
    ) -> Result<(), String> {
        if !receipts.iter().map(|receipt| receipt.member.as_str()).eq(members) {
            return Err("the preflight has other members than the plan".into());
        }
        let lacks = |proof: &Proof| {
            matches!(proof, Proof::Declared(_)) && needed == AuthorityNeeded::Proven
        };
        match receipts.iter().find(|one| lacks(&one.control) || lacks(&one.read)) {
            Some(weak) => Err(format!("the rights over {} are not proven", weak.member)),
            None => Ok(()),
        }
    }
}

/// How well something is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "evidence", content = "text", deny_unknown_fields)]
pub enum Proof {
    /// The service has shown it.
    Proven(String),
    /// The configuration says so.
    Declared(String),
    /// It is not needed: the service cannot do such a thing.
    NotNeeded(String),
}

/// How long a preflight is valid, in nanoseconds: 300 seconds, as canic-backup has it.
pub const PREFLIGHT_NANOS: i64 = 300 * 1_000_000_000;
