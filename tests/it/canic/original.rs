//! Backups that the real crate makes through its public interface, and its verdict on directories.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use canic_backup::discovery::SnapshotTarget;
use canic_backup::execution::BackupExecutionJournal;
use canic_backup::manifest::IdentityMode;
use canic_backup::persistence::BackupLayout;
use canic_backup::plan::{
    AuthorityEvidence, AuthorityProofSource, BackupExecutionPreflightReceipts, BackupPlan,
    BackupPlanBuildInput, BackupScopeKind, ControlAuthority, ControlAuthorityReceipt,
    QuiescencePolicy, QuiescencePreflightReceipt, QuiescencePreflightTarget, SnapshotReadAuthority,
    SnapshotReadAuthorityReceipt, TopologyPreflightReceipt, TopologyPreflightTarget,
    build_backup_plan,
};
use canic_backup::registry::RegistryEntry;
use canic_backup::runner::{
    BackupRunnerCommandError, BackupRunnerConfig, BackupRunnerExecutor,
    BackupRunnerSnapshotReceipt, backup_run_execute_with_executor,
};
use canic_backup::snapshot::{
    SnapshotDownloadConfig, SnapshotDriver, SnapshotDriverError, SnapshotLifecycleMode,
    download_snapshots, topology_hash_for_targets,
};
use ic_principal::Principal;
use strongroom::digest::hex;

use crate::support::{Tree, noise, text};

/// Returns the `n`-th canister.
pub fn id(n: u8) -> String {
    Principal::from_slice(&[0, 0, 0, 0, 0, 0, 0, n, 1, 1]).to_text()
}

pub const ROOT: u8 = 1;
pub const APP: u8 = 2;
pub const WORKER: u8 = 3;
pub const LEDGER: u8 = 4;

/// A root with two children, of which one has a child of its own.
pub fn registry() -> Vec<RegistryEntry> {
    let entry = |n: u8, role: &str, parent: Option<u8>| RegistryEntry {
        pid: id(n),
        role: Some(role.to_owned()),
        kind: Some("singleton".to_owned()),
        parent_pid: parent.map(id),
        module_hash: Some(hex(&[n; 32])),
    };
    vec![
        entry(ROOT, "root", None),
        entry(APP, "app", Some(ROOT)),
        entry(WORKER, "worker", Some(APP)),
        entry(LEDGER, "ledger", Some(ROOT)),
    ]
}

pub fn topology(registry: &[RegistryEntry]) -> String {
    let target = |entry: &RegistryEntry| SnapshotTarget {
        canister_id: entry.pid.clone(),
        role: entry.role.clone(),
        parent_canister_id: entry.parent_pid.clone(),
        module_hash: entry.module_hash.clone(),
    };
    let targets: Vec<_> = registry.iter().map(target).collect();
    topology_hash_for_targets(&targets[0].canister_id, &targets).unwrap().hash
}

/// Fills a directory as `icp` fills one with a snapshot.
pub fn fill_with_snapshot(dir: &Path, n: u8) {
    let tree = Tree::at(dir);
    tree.file("metadata.json", format!("{{\"source\":\"{n}\"}}"));
    tree.file("wasm_module.bin", noise(u64::from(n), 40_000));
    tree.file("wasm_memory.bin", text(u64::from(n), 1_200_000));
    tree.file("stable_memory.bin", b"");
    tree.file(format!("wasm_chunk_store/{}.bin", hex(&[n; 32])), noise(9, 5000));
    tree.file("wasm_chunk_store-note", b"sorts behind");
    tree.file(".lock", b"");
    tree.dir("empty/inside");
}

/// Plays a network that does what it is told.
#[derive(Default)]
pub struct Network {
    /// What was downloaded where, so that tests can change it.
    pub downloads: HashMap<String, PathBuf>,
}

impl Network {
    fn download(&mut self, canister: &str, to: &Path) {
        let n = (1..=u8::MAX).find(|n| id(*n) == canister).unwrap();
        fill_with_snapshot(to, n);
        self.downloads.insert(canister.to_owned(), to.to_owned());
    }
}

pub fn snapshot_of(canister: &str) -> String {
    format!("snapshot-of-{canister}")
}

type Command<T> = Result<T, BackupRunnerCommandError>;

impl BackupRunnerExecutor for Network {
    fn preflight_receipts(
        &mut self,
        plan: &BackupPlan,
        preflight_id: &str,
        validated_at: &str,
        expires_at: &str,
    ) -> Command<BackupExecutionPreflightReceipts> {
        let own = str::to_owned;
        let control = |target: &canic_backup::plan::BackupTarget| ControlAuthorityReceipt {
            plan_id: plan.plan_id.clone(),
            preflight_id: own(preflight_id),
            target_canister_id: target.canister_id.clone(),
            authority: ControlAuthority::operator_controller(AuthorityEvidence::Proven),
            proof_source: AuthorityProofSource::ManagementStatus,
            validated_at: own(validated_at),
            expires_at: own(expires_at),
            message: None,
        };
        let read = |target: &canic_backup::plan::BackupTarget| SnapshotReadAuthorityReceipt {
            plan_id: plan.plan_id.clone(),
            preflight_id: own(preflight_id),
            target_canister_id: target.canister_id.clone(),
            authority: SnapshotReadAuthority::snapshot_visibility(AuthorityEvidence::Proven),
            proof_source: AuthorityProofSource::SnapshotReadCheck,
            validated_at: own(validated_at),
            expires_at: own(expires_at),
            message: None,
        };
        Ok(BackupExecutionPreflightReceipts {
            plan_id: plan.plan_id.clone(),
            preflight_id: own(preflight_id),
            validated_at: own(validated_at),
            expires_at: own(expires_at),
            topology: TopologyPreflightReceipt {
                plan_id: plan.plan_id.clone(),
                preflight_id: own(preflight_id),
                topology_hash_before_quiesce: plan.topology_hash_before_quiesce.clone(),
                topology_hash_at_preflight: plan.topology_hash_before_quiesce.clone(),
                targets: plan.targets.iter().map(TopologyPreflightTarget::from).collect(),
                validated_at: own(validated_at),
                expires_at: own(expires_at),
                message: None,
            },
            control_authority: plan.targets.iter().map(control).collect(),
            snapshot_read_authority: plan.targets.iter().map(read).collect(),
            quiescence: QuiescencePreflightReceipt {
                plan_id: plan.plan_id.clone(),
                preflight_id: own(preflight_id),
                quiescence_policy: plan.quiescence_policy.clone(),
                accepted: true,
                targets: plan.targets.iter().map(QuiescencePreflightTarget::from).collect(),
                validated_at: own(validated_at),
                expires_at: own(expires_at),
                message: None,
            },
        })
    }

    fn stop_canister(&mut self, _: &str) -> Command<()> {
        Ok(())
    }

    fn start_canister(&mut self, _: &str) -> Command<()> {
        Ok(())
    }

    fn create_snapshot(&mut self, canister_id: &str) -> Command<BackupRunnerSnapshotReceipt> {
        Ok(BackupRunnerSnapshotReceipt {
            snapshot_id: snapshot_of(canister_id),
            taken_at_timestamp: Some(1_778_709_681_897_818_005),
            total_size_bytes: Some(272_586_987),
        })
    }

    fn download_snapshot(&mut self, canister: &str, _: &str, to: &Path) -> Command<()> {
        self.download(canister, to);
        Ok(())
    }
}

impl SnapshotDriver for Network {
    fn registry_entries(&mut self, _: &str) -> Result<Vec<RegistryEntry>, SnapshotDriverError> {
        Ok(registry())
    }

    fn create_snapshot(&mut self, canister_id: &str) -> Result<String, SnapshotDriverError> {
        Ok(snapshot_of(canister_id))
    }

    fn stop_canister(&mut self, _: &str) -> Result<(), SnapshotDriverError> {
        Ok(())
    }

    fn start_canister(&mut self, _: &str) -> Result<(), SnapshotDriverError> {
        Ok(())
    }

    fn download_snapshot(
        &mut self,
        canister: &str,
        _: &str,
        to: &Path,
    ) -> Result<(), SnapshotDriverError> {
        self.download(canister, to);
        Ok(())
    }

    fn create_snapshot_command(&self, _: &str) -> String {
        String::new()
    }

    fn stop_canister_command(&self, _: &str) -> String {
        String::new()
    }

    fn start_canister_command(&self, _: &str) -> String {
        String::new()
    }

    fn download_snapshot_command(&self, _: &str, _: &str, _: &Path) -> String {
        String::new()
    }
}

/// What to back up.
pub struct Wanted {
    pub scope: BackupScopeKind,
    pub selected: Option<u8>,
    pub registry: Vec<RegistryEntry>,
}

impl Wanted {
    pub fn of(scope: BackupScopeKind, selected: Option<u8>) -> Self {
        Self { scope, selected, registry: registry() }
    }

    /// The root and all below it.
    pub fn everything() -> Self {
        Self::of(BackupScopeKind::MaintenanceRoot, Some(ROOT))
    }
}

/// Writes the plan and the journal of a run into `dir`.
pub fn plan(dir: &Path, wanted: &Wanted) {
    let layout = BackupLayout::new(dir.to_owned());
    let plan = build_backup_plan(BackupPlanBuildInput {
        plan_id: "plan-1".to_owned(),
        run_id: "run-1".to_owned(),
        fleet: "demo".to_owned(),
        network: "local".to_owned(),
        root_canister_id: id(ROOT),
        selected_canister_id: wanted.selected.map(id),
        selected_scope_kind: wanted.scope.clone(),
        include_descendants: wanted.scope != BackupScopeKind::Member,
        topology_hash_before_quiesce: topology(&wanted.registry),
        registry: &wanted.registry,
        control_authority: ControlAuthority::operator_controller(AuthorityEvidence::Declared),
        snapshot_read_authority: SnapshotReadAuthority::unknown(),
        quiescence_policy: QuiescencePolicy::RootCoordinated,
        identity_mode: IdentityMode::Fixed,
    })
    .unwrap();
    layout.write_backup_plan(&plan).unwrap();
    let journal = BackupExecutionJournal::from_plan(&plan).unwrap();
    layout.write_execution_journal(&journal).unwrap();
}

/// Runs a plan, at most so many operations of it, and says whether it is finished.
pub fn run(dir: &Path, max_steps: Option<usize>) -> bool {
    let config = BackupRunnerConfig {
        out: dir.to_owned(),
        max_steps,
        updated_at: Some("unix:1700000000".to_owned()),
        tool_name: "canic".to_owned(),
        tool_version: "0.68.2".to_owned(),
    };
    backup_run_execute_with_executor(&config, &mut Network::default()).unwrap().complete
}

/// Makes a finished backup in `dir`.
#[track_caller]
pub fn backup(dir: &Path, wanted: &Wanted) {
    std::fs::create_dir_all(dir).unwrap();
    plan(dir, wanted);
    assert!(run(dir, None));
    accept(dir);
}

/// Makes a backup without a plan: the plain download of snapshots.
pub fn download(dir: &Path, canister: u8, with_children: bool) {
    let config = SnapshotDownloadConfig {
        canister: id(canister),
        out: dir.to_owned(),
        root: Some(id(ROOT)),
        include_children: with_children,
        recursive: with_children,
        dry_run: false,
        lifecycle: SnapshotLifecycleMode::StopAndResume,
        backup_id: "download-1".to_owned(),
        created_at: "unix:1700000000".to_owned(),
        tool_name: "canic".to_owned(),
        tool_version: "0.68.2".to_owned(),
        environment: "local".to_owned(),
    };
    std::fs::create_dir_all(dir).unwrap();
    download_snapshots(&config, &mut Network::default()).unwrap();
    BackupLayout::new(dir.to_owned()).verify_integrity().unwrap();
}

/// The original's verdict on a directory.
pub fn judge(dir: &Path) -> Result<(), String> {
    let layout = BackupLayout::new(dir.to_owned());
    let verdict = layout.verify_integrity().map_err(|error| error.to_string())?;
    assert!(verdict.verified && verdict.durable_artifacts == verdict.manifest_members);
    let verdict = layout.verify_execution_integrity().map_err(|error| error.to_string())?;
    assert!(verdict.verified);
    Ok(())
}

#[track_caller]
pub fn accept(dir: &Path) {
    judge(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
}
