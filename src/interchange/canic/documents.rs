//! The four files of a backup directory, field by field as canic-backup 0.68.2 has them. What is
//! not among the fields is refused.

#![expect(clippy::struct_field_names, reason = "they are the names of the fields in the files")]

use serde::{Deserialize, Serialize};

/// `backup-plan.json`.
pub(super) const PLAN: &str = "backup-plan.json";
/// `backup-execution-journal.json`.
pub(super) const EXECUTION: &str = "backup-execution-journal.json";
/// `download-journal.json`.
pub(super) const DOWNLOADS: &str = "download-journal.json";
/// `deployment-backup-manifest.json`.
pub(super) const MANIFEST: &str = "deployment-backup-manifest.json";

/// The version of manifest and journals.
pub(super) const VERSION: u16 = 1;
/// The only checksum algorithm.
pub(super) const SHA256: &str = "sha256";
/// The only kind of a check after a restore.
pub(super) const STATUS: &str = "status";

/// What is to be done, and to whom.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    pub plan_id: String,
    pub run_id: String,
    pub fleet: String,
    pub network: String,
    pub root_canister_id: String,
    pub selected_subtree_root: Option<String>,
    pub selected_scope_kind: ScopeKind,
    pub include_descendants: bool,
    pub root_included: bool,
    pub requires_root_controller: bool,
    pub snapshot_read_authority: ReadAuthority,
    pub quiescence_policy: QuiescencePolicy,
    pub topology_hash_before_quiesce: String,
    pub targets: Vec<Target>,
    pub phases: Vec<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ScopeKind {
    Member,
    Subtree,
    NonRootDeployment,
    MaintenanceRoot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum QuiescencePolicy {
    CrashConsistent,
    RootCoordinated,
    AppQuiesced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum IdentityMode {
    Fixed,
    Relocatable,
}

/// One member in a plan.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Target {
    pub canister_id: String,
    pub role: Option<String>,
    pub parent_canister_id: Option<String>,
    pub depth: u32,
    pub control_authority: ControlAuthority,
    pub snapshot_read_authority: ReadAuthority,
    pub identity_mode: IdentityMode,
    pub expected_module_hash: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Evidence {
    Proven,
    Declared,
    Unknown,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlAuthority {
    pub source: ControlSource,
    pub evidence: Evidence,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", deny_unknown_fields)]
pub(super) enum ControlSource {
    // With braces, because only then are other fields refused.
    Unknown {},
    RootController {},
    OperatorController {},
    AlternateController { controller: String, reason: String },
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadAuthority {
    pub source: ReadSource,
    pub evidence: Evidence,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ReadSource {
    Unknown,
    OperatorController,
    SnapshotVisibility,
    RootConfiguredRead,
    RootMediatedTransfer,
}

/// One operation of a plan.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Phase {
    pub operation_id: String,
    pub order: u32,
    pub kind: OperationKind,
    pub target_canister_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OperationKind {
    ValidateTopology,
    ValidateControlAuthority,
    ValidateSnapshotReadAuthority,
    ValidateQuiescencePolicy,
    Stop,
    CreateSnapshot,
    Start,
    DownloadSnapshot,
    VerifyArtifact,
    FinalizeManifest,
}

impl OperationKind {
    /// The four that come before anything is changed, in their order.
    pub const PREFLIGHT: [Self; 4] = [
        Self::ValidateTopology,
        Self::ValidateControlAuthority,
        Self::ValidateSnapshotReadAuthority,
        Self::ValidateQuiescencePolicy,
    ];

    pub fn is_preflight(self) -> bool {
        Self::PREFLIGHT.contains(&self)
    }
}

/// How far the run is.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Execution {
    pub journal_version: u16,
    pub plan_id: String,
    pub run_id: String,
    pub preflight_id: Option<String>,
    pub preflight_accepted: bool,
    pub restart_required: bool,
    pub operations: Vec<Operation>,
    pub operation_receipts: Vec<Receipt>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Operation {
    pub sequence: u64,
    pub operation_id: String,
    pub kind: OperationKind,
    pub target_canister_id: Option<String>,
    pub state: OperationState,
    pub state_updated_at: Option<String>,
    pub blocking_reasons: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum OperationState {
    Ready,
    Pending,
    Blocked,
    Completed,
    Failed,
    Skipped,
}

impl OperationState {
    /// Returns the name that stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Pending => "pending",
            Self::Blocked => "blocked",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receipt {
    pub plan_id: String,
    pub run_id: String,
    pub preflight_id: Option<String>,
    pub sequence: u64,
    pub operation_id: String,
    pub kind: OperationKind,
    pub target_canister_id: Option<String>,
    pub outcome: Outcome,
    pub updated_at: Option<String>,
    pub snapshot_id: Option<String>,
    #[serde(default)]
    pub snapshot_taken_at_timestamp: Option<u64>,
    #[serde(default)]
    pub snapshot_total_size_bytes: Option<u64>,
    pub artifact_path: Option<String>,
    pub checksum: Option<String>,
    pub failure_reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Completed,
    Failed,
    Skipped,
}

/// How far each artifact is.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Downloads {
    pub journal_version: u16,
    pub backup_id: String,
    #[serde(default)]
    pub discovery_topology_hash: Option<String>,
    #[serde(default)]
    pub pre_snapshot_topology_hash: Option<String>,
    #[serde(default)]
    pub operation_metrics: Metrics,
    pub artifacts: Vec<Download>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metrics {
    pub target_count: u64,
    pub snapshot_create_started: u64,
    pub snapshot_create_completed: u64,
    pub snapshot_download_started: u64,
    pub snapshot_download_completed: u64,
    pub checksum_verify_started: u64,
    pub checksum_verify_completed: u64,
    pub artifact_finalize_started: u64,
    pub artifact_finalize_completed: u64,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Download {
    pub canister_id: String,
    pub snapshot_id: String,
    pub state: DownloadState,
    pub temp_path: Option<String>,
    pub artifact_path: String,
    pub checksum_algorithm: String,
    pub checksum: Option<String>,
    pub updated_at: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum DownloadState {
    Created,
    Downloaded,
    ChecksumVerified,
    Durable,
}

impl DownloadState {
    /// Returns the name that stands in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "Created",
            Self::Downloaded => "Downloaded",
            Self::ChecksumVerified => "ChecksumVerified",
            Self::Durable => "Durable",
        }
    }
}

/// What the directory holds.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub manifest_version: u16,
    pub backup_id: String,
    pub created_at: String,
    pub tool: Tool,
    pub source: Source,
    pub consistency: Consistency,
    pub deployment: Deployment,
    pub verification: Verification,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    pub name: String,
    pub version: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    pub environment: String,
    pub root_canister: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Consistency {
    pub backup_units: Vec<BackupUnit>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackupUnit {
    pub unit_id: String,
    pub kind: UnitKind,
    pub roles: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum UnitKind {
    Single,
    Subtree,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Deployment {
    pub topology_hash_algorithm: String,
    pub topology_hash_input: String,
    pub discovery_topology_hash: String,
    pub pre_snapshot_topology_hash: String,
    pub topology_hash: String,
    pub members: Vec<Member>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub role: String,
    pub canister_id: String,
    pub parent_canister_id: Option<String>,
    pub subnet_canister_id: Option<String>,
    pub controller_hint: Option<String>,
    pub identity_mode: IdentityMode,
    pub verification_checks: Vec<Check>,
    pub source_snapshot: SourceSnapshot,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SourceSnapshot {
    pub snapshot_id: String,
    pub module_hash: Option<String>,
    pub code_version: Option<String>,
    pub artifact_path: String,
    pub checksum_algorithm: String,
    #[serde(default)]
    pub checksum: Option<String>,
}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verification {
    pub deployment_checks: Vec<Check>,
    pub member_checks: Vec<MemberChecks>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MemberChecks {
    pub role: String,
    pub checks: Vec<Check>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Check {
    pub kind: String,
    pub roles: Vec<String>,
}
