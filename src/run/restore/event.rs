//! Events: what a restore's journal records, each with the receipt of what it says.

use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::run::event::{AuthorityReceipt, Completed};
use crate::run::facts::Snapshot;

/// What happened. State and receipt are one record, as in the journals of backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event", deny_unknown_fields)]
pub enum Event {
    /// The restore begins.
    RestorePlanned {
        /// What it is going to do.
        plan: Box<Plan>,
    },
    /// Store and service were asked, and the answers accepted.
    Validated {
        /// The answers.
        receipt: Validation,
    },
    /// Operations begin.
    Started {
        /// Their places in the plan.
        operations: Vec<u32>,
        /// For an upload, which begins alone: the snapshots that the member had before the first
        /// attempt, if the service lists them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Vec<String>>,
    },
    /// Operations are done.
    Completed {
        /// Each with what shows it.
        operations: Vec<Completed<Receipt>>,
    },
    /// An operation failed; it may be tried again.
    Failed {
        /// Its place in the plan.
        operation: u32,
        /// Why, with the end of what a command said; 64 KiB at most.
        reason: String,
    },
    /// Operations have nothing to do.
    Skipped {
        /// Their places in the plan.
        operations: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// What operations had done is not there any more: they are done again.
    Lost {
        /// Their places in the plan.
        operations: Vec<u32>,
        /// Why.
        reason: String,
    },
    /// Members that the restore had stopped were started again, because it failed or was
    /// interrupted before anything was loaded: the stops will be repeated.
    Restarted {
        /// The members that run again.
        members: Vec<String>,
        /// Members that could not be started, with the cause.
        failed: Vec<(String, String)>,
        /// Why the restore did not go on.
        cause: String,
    },
    /// All members run with what was restored.
    Restored {
        /// The last operation's place in the plan.
        operation: u32,
        /// Topology hash of the members, as they were asked for in the end.
        topology_hash: String,
        /// What the topology was compared with.
        topology: String,
    },
    /// Uploads were removed from the service, and staging from the disk.
    Cleaned {
        /// Member and snapshot.
        snapshots: Vec<(String, String)>,
        /// What could not be removed, with the cause.
        failed: Vec<(String, String)>,
    },
    /// The restore is given up.
    Abandoned {
        /// Why.
        reason: String,
    },
}

/// What shows that an operation is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub enum Receipt {
    /// The artifact is in the staging area; every chunk and every file was compared with its digest.
    Fetched {
        /// Where.
        path: String,
        /// Files.
        files: u64,
        /// Bytes of content.
        bytes: u64,
        /// What was compared with the evidence in the content.
        checks: Vec<String>,
    },
    /// The service has it.
    Uploaded {
        /// What the service calls it.
        snapshot: Snapshot,
        /// Other snapshots that appeared since the first attempt: those of attempts whose answer
        /// was lost, or somebody's. They are left alone.
        strays: Vec<String>,
    },
    /// The service says that the member is stopped.
    Stopped {
        /// Its code at that time, if the service says.
        module_hash: Option<String>,
    },
    /// The service has loaded the snapshot.
    Loaded {
        /// The member's code afterwards, if the service says.
        module_hash: Option<String>,
    },
    /// The service says that the member runs.
    Running {},
    /// The member runs, with the code that is expected.
    Checked {
        /// Its code, if the service says.
        module_hash: Option<String>,
    },
}

/// The answers before anything is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// The plan that they are for.
    pub plan: String,
    /// What the topology of the members was compared with.
    pub topology: String,
    /// The rights over each, in the plan's order.
    pub authorities: Vec<AuthorityReceipt>,
    /// Where each stands, in the plan's order.
    pub members: Vec<Found>,
    /// From when it is valid, in nanoseconds since 1970.
    pub valid_from: i64,
    /// Until when, exclusive.
    pub expires: i64,
}

/// A member that will be restored into, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Found {
    /// The member.
    pub member: String,
    /// Whether it runs, and has to run again if the restore fails early; `None` if the service has
    /// no status.
    pub running: Option<bool>,
    /// Its code, if the service says.
    pub module_hash: Option<String>,
}
