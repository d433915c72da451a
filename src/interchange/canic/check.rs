//! The rules of canic-backup for each of its files by itself.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;

use ic_principal::Principal;

use super::agree::relative_path;
use super::documents::{
    Check, ControlSource, DOWNLOADS, Deployment, Download, DownloadState, Downloads, EXECUTION,
    Execution, MANIFEST, Manifest, Member, Operation, OperationKind, OperationState, Outcome, PLAN,
    Phase, Plan, Receipt, SHA256, STATUS, ScopeKind, Target, UnitKind, VERSION, Verification,
};
use super::error::{Error, Fault};
use super::facts::unit_members;

/// A field of a file, for errors.
struct Fields(&'static str);

impl Fields {
    fn fail<T>(&self, field: impl Display, fault: Fault) -> Result<T, Error> {
        Err(Error::Field { file: self.0, field: field.to_string(), fault })
    }

    fn require(&self, holds: bool, field: impl Display, fault: Fault) -> Result<(), Error> {
        if holds { Ok(()) } else { self.fail(field, fault) }
    }

    fn text(&self, field: impl Display, value: &str) -> Result<(), Error> {
        self.require(!value.trim().is_empty(), field, Fault::Empty)
    }

    fn optional_text(&self, field: impl Display, value: Option<&str>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.text(field, value))
    }

    fn principal(&self, field: impl Display, value: &str) -> Result<(), Error> {
        let fault = || Fault::NoPrincipal(value.to_owned());
        if is_principal(value) { Ok(()) } else { self.fail(field, fault()) }
    }

    fn optional_principal(&self, field: impl Display, value: Option<&str>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.principal(field, value))
    }

    fn hash(&self, field: impl Display, value: &str) -> Result<(), Error> {
        let is_hash = value.len() == 64 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        self.require(is_hash, field, Fault::NoHash(value.to_owned()))
    }

    fn optional_hash(&self, field: impl Display, value: Option<&str>) -> Result<(), Error> {
        value.map_or(Ok(()), |value| self.hash(field, value))
    }

    fn algorithm(&self, field: impl Display, value: &str) -> Result<(), Error> {
        self.require(value == SHA256, field, Fault::Algorithm(value.to_owned()))
    }

    fn version(&self, field: &str, version: u16) -> Result<(), Error> {
        self.require(version == VERSION, field, Fault::Version(version))
    }

    fn not_empty<T>(&self, field: impl Display, items: &[T]) -> Result<(), Error> {
        self.require(!items.is_empty(), field, Fault::Empty)
    }

    fn unique<'a>(
        &self,
        field: impl Display,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), Error> {
        let mut seen = HashSet::new();
        match values.into_iter().find(|value| !seen.insert(*value)) {
            Some(twice) => self.fail(field, Fault::Twice(twice.to_owned())),
            None => Ok(()),
        }
    }
}

/// Says whether a text is a principal.
pub(super) fn is_principal(text: &str) -> bool {
    Principal::from_text(text).is_ok()
}

/// Checks a manifest.
pub(super) fn manifest(manifest: &Manifest) -> Result<(), Error> {
    let fields = Fields(MANIFEST);
    fields.version("manifest_version", manifest.manifest_version)?;
    fields.text("backup_id", &manifest.backup_id)?;
    fields.text("created_at", &manifest.created_at)?;
    fields.text("tool.name", &manifest.tool.name)?;
    fields.text("tool.version", &manifest.tool.version)?;
    fields.text("source.environment", &manifest.source.environment)?;
    fields.principal("source.root_canister", &manifest.source.root_canister)?;
    deployment(&fields, &manifest.deployment)?;
    let roles: HashSet<_> = manifest.deployment.members.iter().map(|m| m.role.as_str()).collect();
    units(&fields, manifest, &roles)?;
    verification(&fields, manifest, &roles)
}

fn deployment(fields: &Fields, deployment: &Deployment) -> Result<(), Error> {
    fields.algorithm("deployment.topology_hash_algorithm", &deployment.topology_hash_algorithm)?;
    fields.text("deployment.topology_hash_input", &deployment.topology_hash_input)?;
    let accepted = &deployment.topology_hash;
    fields.hash("deployment.topology_hash", accepted)?;
    for (field, hash) in [
        ("discovery_topology_hash", &deployment.discovery_topology_hash),
        ("pre_snapshot_topology_hash", &deployment.pre_snapshot_topology_hash),
    ] {
        if hash != accepted {
            return Err(Error::Disagree {
                what: "the topology hash".to_owned(),
                first_file: "deployment.topology_hash",
                first: accepted.clone(),
                second_file: field,
                second: hash.clone(),
            });
        }
    }
    fields.not_empty("deployment.members", &deployment.members)?;
    for (at, one) in deployment.members.iter().enumerate() {
        member(fields, &format!("deployment.members[{at}]"), one)?;
    }
    let ids = deployment.members.iter().map(|member| member.canister_id.as_str());
    fields.unique("deployment.members", ids)
}

fn member(fields: &Fields, at: &str, member: &Member) -> Result<(), Error> {
    fields.text(format!("{at}.role"), &member.role)?;
    fields.principal(format!("{at}.canister_id"), &member.canister_id)?;
    for (field, id) in [
        ("parent_canister_id", &member.parent_canister_id),
        ("subnet_canister_id", &member.subnet_canister_id),
        ("controller_hint", &member.controller_hint),
    ] {
        fields.optional_principal(format!("{at}.{field}"), id.as_deref())?;
    }
    fields.not_empty(format!("{at}.verification_checks"), &member.verification_checks)?;
    let snapshot = &member.source_snapshot;
    fields.text(format!("{at}.source_snapshot.snapshot_id"), &snapshot.snapshot_id)?;
    let module_hash = snapshot.module_hash.as_deref();
    fields.optional_text(format!("{at}.source_snapshot.module_hash"), module_hash)?;
    let code_version = snapshot.code_version.as_deref();
    fields.optional_text(format!("{at}.source_snapshot.code_version"), code_version)?;
    fields.text(format!("{at}.source_snapshot.artifact_path"), &snapshot.artifact_path)?;
    let algorithm = format!("{at}.source_snapshot.checksum_algorithm");
    fields.algorithm(algorithm, &snapshot.checksum_algorithm)?;
    fields.optional_hash(format!("{at}.source_snapshot.checksum"), snapshot.checksum.as_deref())
}

fn units(fields: &Fields, manifest: &Manifest, roles: &HashSet<&str>) -> Result<(), Error> {
    let units = &manifest.consistency.backup_units;
    fields.not_empty("consistency.backup_units", units)?;
    fields.unique("consistency.backup_units", units.iter().map(|unit| unit.unit_id.as_str()))?;
    let mut covered = HashSet::new();
    for (at, unit) in units.iter().enumerate() {
        let at = format!("consistency.backup_units[{at}]");
        fields.text(format!("{at}.unit_id"), &unit.unit_id)?;
        fields.not_empty(format!("{at}.roles"), &unit.roles)?;
        fields.unique(format!("{at}.roles"), unit.roles.iter().map(String::as_str))?;
        known_roles(fields, &at, &unit.roles, roles)?;
        covered.extend(unit.roles.iter().map(String::as_str));
    }
    if let Some(role) = roles.iter().find(|role| !covered.contains(*role)) {
        return fields.fail("consistency.backup_units", Fault::NoUnit((*role).to_owned()));
    }
    let members = &manifest.deployment.members;
    let children = children(members);
    for (unit, inside) in units.iter().zip(unit_members(manifest)?) {
        if unit.kind == UnitKind::Subtree
            && let Some(fault) = subtree_fault(members, &children, &inside)
        {
            return fields.fail(format_args!("unit {:?}", unit.unit_id), fault);
        }
    }
    Ok(())
}

/// Returns the places of the children of each member.
pub(super) fn children(members: &[Member]) -> HashMap<&str, Vec<usize>> {
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, member) in members.iter().enumerate() {
        if let Some(parent) = &member.parent_canister_id {
            children.entry(parent).or_default().push(at);
        }
    }
    children
}

/// Says what keeps members from being a subtree: one root, and no child left out.
pub(super) fn subtree_fault(
    members: &[Member],
    children: &HashMap<&str, Vec<usize>>,
    inside: &[usize],
) -> Option<Fault> {
    let ids: HashSet<_> = inside.iter().map(|at| members[*at].canister_id.as_str()).collect();
    let is_inside = |id: &Option<String>| id.as_deref().is_some_and(|id| ids.contains(id));
    let roots = inside.iter().filter(|at| !is_inside(&members[**at].parent_canister_id)).count();
    if roots != 1 {
        return Some(Fault::Roots(roots));
    }
    let below = ids.iter().filter_map(|id| children.get(id)).flatten();
    let mut below = below.map(|child| members[*child].canister_id.as_str());
    below.find(|id| !ids.contains(id)).map(|id| Fault::LacksChild(id.to_owned()))
}

fn known_roles(
    fields: &Fields,
    at: impl Display,
    found: &[String],
    known: &HashSet<&str>,
) -> Result<(), Error> {
    match found.iter().find(|role| !known.contains(role.as_str())) {
        Some(role) => fields.fail(at, Fault::UnknownRole(role.clone())),
        None => Ok(()),
    }
}

fn verification(fields: &Fields, manifest: &Manifest, roles: &HashSet<&str>) -> Result<(), Error> {
    let Verification { deployment_checks, member_checks } = &manifest.verification;
    let at = "verification.member_checks";
    for group in member_checks {
        fields.not_empty(at, &group.checks)?;
    }
    let by_role = member_checks.iter().map(|group| group.role.as_str());
    fields.unique(at, by_role.clone())?;
    if let Some(role) = by_role.into_iter().find(|role| !roles.contains(role)) {
        return fields.fail(at, Fault::UnknownRole(role.to_owned()));
    }
    let members = &manifest.deployment.members;
    let of_members = members.iter().flat_map(|member| &member.verification_checks);
    let of_groups = member_checks.iter().flat_map(|group| &group.checks);
    for Check { kind, roles: found } in deployment_checks.iter().chain(of_members).chain(of_groups)
    {
        let at = "verification.check";
        fields.require(kind == STATUS, at, Fault::CheckKind(kind.clone()))?;
        fields.unique(at, found.iter().map(String::as_str))?;
        known_roles(fields, at, found, roles)?;
    }
    Ok(())
}

/// Checks a journal of downloads; says nothing about whether it is finished.
pub(super) fn downloads(journal: &Downloads) -> Result<(), Error> {
    let fields = Fields(DOWNLOADS);
    fields.version("journal_version", journal.journal_version)?;
    fields.text("backup_id", &journal.backup_id)?;
    let hash = journal.discovery_topology_hash.as_deref();
    fields.optional_hash("discovery_topology_hash", hash)?;
    let hash = journal.pre_snapshot_topology_hash.as_deref();
    fields.optional_hash("pre_snapshot_topology_hash", hash)?;
    fields.not_empty("artifacts", &journal.artifacts)?;
    let mut seen = HashSet::new();
    for (at, entry) in journal.artifacts.iter().enumerate() {
        download(&fields, &format!("artifacts[{at}]"), entry)?;
        let new = seen.insert((&entry.canister_id, &entry.snapshot_id));
        fields.require(new, "artifacts", Fault::Twice(entry.canister_id.clone()))?;
    }
    Ok(())
}

fn download(fields: &Fields, at: &str, entry: &Download) -> Result<(), Error> {
    fields.principal(format!("{at}.canister_id"), &entry.canister_id)?;
    fields.text(format!("{at}.snapshot_id"), &entry.snapshot_id)?;
    fields.text(format!("{at}.updated_at"), &entry.updated_at)?;
    fields.algorithm(format!("{at}.checksum_algorithm"), &entry.checksum_algorithm)?;
    let path = &entry.artifact_path;
    let is_safe = relative_path(path).is_some();
    fields.require(is_safe, format!("{at}.artifact_path"), Fault::UnsafePath(path.clone()))?;
    if matches!(entry.state, DownloadState::Downloaded | DownloadState::ChecksumVerified) {
        let temp_path = entry.temp_path.as_deref().unwrap_or_default();
        fields.text(format!("{at}.temp_path"), temp_path)?;
    }
    if matches!(entry.state, DownloadState::ChecksumVerified | DownloadState::Durable) {
        let checksum = entry.checksum.as_deref().unwrap_or_default();
        fields.hash(format!("{at}.checksum"), checksum)?;
    }
    Ok(())
}

/// Checks a plan.
pub(super) fn plan(plan: &Plan) -> Result<(), Error> {
    let fields = Fields(PLAN);
    fields.text("plan_id", &plan.plan_id)?;
    fields.text("run_id", &plan.run_id)?;
    fields.text("fleet", &plan.fleet)?;
    fields.text("network", &plan.network)?;
    fields.principal("root_canister_id", &plan.root_canister_id)?;
    let selected = plan.selected_subtree_root.as_deref();
    fields.optional_principal("selected_subtree_root", selected)?;
    fields.text("topology_hash_before_quiesce", &plan.topology_hash_before_quiesce)?;
    let maintenance = plan.selected_scope_kind == ScopeKind::MaintenanceRoot;
    fields.require(plan.root_included == maintenance, "root_included", Fault::Scope)?;
    fields.not_empty("targets", &plan.targets)?;
    let mut targets = HashSet::new();
    for (at, one) in plan.targets.iter().enumerate() {
        target(&fields, &format!("targets[{at}]"), one)?;
        let id = one.canister_id.as_str();
        fields.require(targets.insert(id), "targets", Fault::Twice(id.to_owned()))?;
        let allowed = plan.root_included || id != plan.root_canister_id;
        fields.require(allowed, format_args!("targets[{at}]"), Fault::Scope)?;
    }
    let field = "selected_subtree_root";
    match (plan.selected_scope_kind, selected) {
        (ScopeKind::NonRootDeployment, None) => {}
        (ScopeKind::NonRootDeployment, Some(_)) | (_, None) => {
            return fields.fail(field, Fault::Scope);
        }
        (_, Some(id)) => {
            fields.require(targets.contains(id), field, Fault::UnknownTarget(id.to_owned()))?;
        }
    }
    phases(&fields, &plan.phases, &targets)
}

fn target(fields: &Fields, at: &str, target: &Target) -> Result<(), Error> {
    fields.principal(format!("{at}.canister_id"), &target.canister_id)?;
    let parent = target.parent_canister_id.as_deref();
    fields.optional_principal(format!("{at}.parent_canister_id"), parent)?;
    fields.optional_text(format!("{at}.role"), target.role.as_deref())?;
    let module_hash = target.expected_module_hash.as_deref();
    fields.optional_text(format!("{at}.expected_module_hash"), module_hash)?;
    if let ControlSource::AlternateController { controller, reason } =
        &target.control_authority.source
    {
        fields.principal(format!("{at}.control_authority.controller"), controller)?;
        fields.text(format!("{at}.control_authority.reason"), reason)?;
    }
    Ok(())
}

fn phases(fields: &Fields, phases: &[Phase], targets: &HashSet<&str>) -> Result<(), Error> {
    for (at, phase) in phases.iter().enumerate() {
        let name = format!("phases[{at}]");
        fields.text(format!("{name}.operation_id"), &phase.operation_id)?;
        let (actual, expected) = (u64::from(phase.order), at as u64);
        let fault = Fault::Order { actual, expected };
        fields.require(actual == expected, format!("{name}.order"), fault)?;
        if let Some(id) = &phase.target_canister_id {
            let known = targets.contains(id.as_str());
            fields.require(known, name, Fault::UnknownTarget(id.clone()))?;
        }
    }
    fields.unique("phases", phases.iter().map(|phase| phase.operation_id.as_str()))?;
    let place = |kind| phases.iter().position(|phase| phase.kind == kind);
    let places: Option<Vec<_>> = OperationKind::PREFLIGHT.into_iter().map(place).collect();
    let checked = places.and_then(|places| places.into_iter().max());
    let changes = |phase: &Phase| {
        use OperationKind::{CreateSnapshot, DownloadSnapshot, Start, Stop};
        matches!(phase.kind, Stop | CreateSnapshot | Start | DownloadSnapshot)
    };
    let in_order = checked.is_some_and(|end| !phases[..end].iter().any(changes));
    fields.require(in_order, "phases", Fault::Preflight)
}

/// Checks the journal of a run, and that the run is finished.
pub(super) fn execution(journal: &Execution) -> Result<(), Error> {
    let fields = Fields(EXECUTION);
    fields.version("journal_version", journal.journal_version)?;
    fields.text("plan_id", &journal.plan_id)?;
    fields.text("run_id", &journal.run_id)?;
    for (at, operation) in journal.operations.iter().enumerate() {
        let name = format!("operations[{at}]");
        let (actual, expected) = (operation.sequence, at as u64);
        let fault = Fault::Order { actual, expected };
        fields.require(actual == expected, format!("{name}.sequence"), fault)?;
        finished(&fields, &name, operation)?;
    }
    fields.require(journal.preflight_accepted, "preflight_accepted", Fault::NotDerived)?;
    fields.text("preflight_id", journal.preflight_id.as_deref().unwrap_or_default())?;
    // Every start is done or was not needed.
    fields.require(!journal.restart_required, "restart_required", Fault::NotDerived)?;
    let mut latest: HashMap<u64, &Receipt> = HashMap::new();
    for (at, one) in journal.operation_receipts.iter().enumerate() {
        receipt(&fields, &format!("operation_receipts[{at}]"), one, journal)?;
        latest.insert(one.sequence, one);
    }
    for (at, operation) in journal.operations.iter().enumerate() {
        let expected = match operation.state {
            OperationState::Skipped => Outcome::Skipped,
            _ => Outcome::Completed,
        };
        let matches = latest.get(&operation.sequence).is_some_and(|receipt| {
            receipt.outcome == expected && receipt.updated_at == operation.state_updated_at
        });
        let has_receipt = operation.kind.is_preflight() || matches;
        fields.require(has_receipt, format_args!("operations[{at}]"), Fault::NoReceipt)?;
    }
    Ok(())
}

fn finished(fields: &Fields, name: &str, operation: &Operation) -> Result<(), Error> {
    fields.text(format!("{name}.operation_id"), &operation.operation_id)?;
    let target = operation.target_canister_id.as_deref();
    fields.optional_text(format!("{name}.target_canister_id"), target)?;
    if !matches!(operation.state, OperationState::Completed | OperationState::Skipped) {
        return Err(Error::Unfinished {
            file: EXECUTION,
            what: operation.operation_id.clone(),
            state: operation.state.name(),
        });
    }
    let updated_at = operation.state_updated_at.as_deref().unwrap_or_default();
    fields.text(format!("{name}.state_updated_at"), updated_at)?;
    let field = format_args!("{name}.blocking_reasons");
    fields.require(operation.blocking_reasons.is_empty(), field, Fault::Reasons)
}

fn receipt(
    fields: &Fields,
    name: &str,
    receipt: &Receipt,
    journal: &Execution,
) -> Result<(), Error> {
    let operation =
        usize::try_from(receipt.sequence).ok().and_then(|at| journal.operations.get(at));
    let matches = operation.is_some_and(|operation| {
        receipt.plan_id == journal.plan_id
            && receipt.run_id == journal.run_id
            && receipt.operation_id == operation.operation_id
            && receipt.kind == operation.kind
            && receipt.target_canister_id == operation.target_canister_id
            && (receipt.kind.is_preflight() || receipt.preflight_id == journal.preflight_id)
    });
    fields.require(matches, name, Fault::Receipt)?;
    fields.text(format!("{name}.updated_at"), receipt.updated_at.as_deref().unwrap_or_default())?;
    for (field, value) in [
        ("snapshot_id", &receipt.snapshot_id),
        ("artifact_path", &receipt.artifact_path),
        ("checksum", &receipt.checksum),
    ] {
        fields.optional_text(format!("{name}.{field}"), value.as_deref())?;
    }
    let evidence = match (receipt.outcome, receipt.kind) {
        (Outcome::Failed, _) => ("failure_reason", &receipt.failure_reason),
        (Outcome::Completed, OperationKind::CreateSnapshot) => {
            ("snapshot_id", &receipt.snapshot_id)
        }
        (Outcome::Completed, OperationKind::DownloadSnapshot) => {
            ("artifact_path", &receipt.artifact_path)
        }
        (Outcome::Completed, OperationKind::VerifyArtifact) => ("checksum", &receipt.checksum),
        _ => return Ok(()),
    };
    let (field, value) = evidence;
    fields.text(format!("{name}.{field}"), value.as_deref().unwrap_or_default())
}
