//! Plan: what a prune would do, and why. Nothing is changed.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::marks::{Marking, Marks, Purpose};
use super::retention::KeptBy;
use super::sparing::{Sparing, can_return};
use super::survey::Survey;
use super::{Due, Kept, PruneOptions, PrunePlan, Waiting, select};
use crate::clock::UnixNanos;
use crate::digest::Digest;
use crate::format::pack::Content;
use crate::format::record::{GenerationName, GenerationNumber};
use crate::format::segment::PackEntry;
use crate::index::Cover;
use crate::log::{Condemnation, Fate, Generation, Log};
use crate::store::history::{check_known, missing};
use crate::store::keeping::{Covered, Lists};
use crate::store::reach::walk_artifact;
use crate::store::{Error, MANIFESTS, Progress, Store};

/// What is known of the store when a plan is made.
pub(super) struct Known {
    pub log: Log,
    pub cover: Cover,
    /// Packs that are there and whole, and not being removed.
    pub packs: HashMap<Digest, PackEntry>,
    /// Lengths of packs that are there and cannot be read.
    pub faulty: HashMap<Digest, u64>,
    /// Manifests that are there, with their lengths.
    pub manifests: BTreeMap<Digest, u64>,
    /// Objects of open condemnations, by the number of their record.
    pub condemned: Vec<(Condemnation, crate::format::removal::List)>,
    pub now: UnixNanos,
}

/// Makes a plan.
pub(super) fn make(
    store: &Store,
    options: &PruneOptions,
    progress: &Progress,
) -> Result<PrunePlan, Error> {
    let plan = try_make(store, options, progress)?;
    if plan.lost_count == 0 {
        return Ok(plan);
    }
    // A pack may have what the index does not know: it must not go.
    store.recover_index();
    try_make(store, options, progress)
}

fn try_make(
    store: &Store,
    options: &PruneOptions,
    progress: &Progress,
) -> Result<PrunePlan, Error> {
    if let Some(retention) = &options.retention {
        retention.check()?;
    } else if options.forget.is_empty() && !options.collect_only {
        return Err(Error::KeepsNothing);
    }
    let known = Known::of(store)?;
    check_known(&known.log)?;
    if let Some(damaged) = known.log.damaged().first()
        && !options.accept_damaged_log
    {
        let what = format!("commit record {}", damaged.number.0);
        return Err(Error::NotKnown { what, reason: damaged.fault.to_string() });
    }
    let (kept, forgotten) = choose(&known.log, options, known.now)?;
    let index = store.index()?.snapshot();
    let mut roots = Roots::new(store, Marks::new(index), progress);
    roots.mark_needed(&known, options, &kept)?;
    roots.mark_explained(&known, &forgotten)?;
    let Roots { mut marks, needed, explained, missing, .. } = roots;
    let mut survey = Survey::of(&mut marks, &known.packs, progress)?;
    survey.lost_count += missing.1;
    survey.lost.extend(missing.0);
    let selection = select::select(&known, &survey, (&needed, &explained), options);
    let (due, waiting) = due(store, &known, (&survey, &needed, &forgotten), options)?;
    Ok(PrunePlan {
        position: known.log.position(),
        kept,
        forgotten,
        due,
        waiting,
        condemned: selection.condemned,
        unexplained_bytes: selection.unexplained_bytes,
        unused_bytes: selection.unused_bytes,
        unreadable: selection.unreadable,
        lost: survey.lost,
        lost_count: survey.lost_count,
        unfinished: known.log.state().collecting().filter(|open| open.is_certain).count() as u64,
        grace_nanos: options.grace_nanos,
        work: super::Work {
            marks,
            dead: selection.dead,
            rewrite: selection.rewrite,
            broken: selection.broken,
            manifests: selection.manifests,
            unexplained: selection.unexplained,
            stale: selection.stale,
        },
    })
}

impl Known {
    fn of(store: &Store) -> Result<Self, Error> {
        let index = store.fresh_index()?;
        if index.snapshot().segments().iter().any(|segment| segment.check().is_err()) {
            // Large segments are not checked when they are opened, and this one may point anywhere.
            store.rebuild_index(index)?;
        }
        let Covered { cover, log, removal } = store.cover(false, Lists::Wanted)?;
        let is_faulty: HashSet<_> = cover.faults.iter().map(|fault| fault.id).collect();
        let (mut packs, mut faulty) = (HashMap::new(), HashMap::new());
        for content in [Content::Chunks, Content::Pages] {
            store.backend().list(content.folder(), &mut |key, bytes| {
                let Ok(id) = key.name().parse::<Digest>() else { return };
                if is_faulty.contains(&id) {
                    faulty.insert(id, bytes);
                } else if !removal.packs.gone.contains(&id) {
                    packs.insert(id, PackEntry { id, bytes, content });
                }
            })?;
        }
        let mut manifests = BTreeMap::new();
        store.backend().list(MANIFESTS, &mut |key, bytes| {
            if let Ok(id) = key.name().parse::<Digest>()
                && !removal.manifests.contains(&id)
            {
                manifests.insert(id, bytes);
            }
        })?;
        let mut condemned = Vec::new();
        for condemnation in log.state().condemned() {
            // What cannot be read is condemned anew, if it is still to be.
            if let Ok(list) = store.removal_list(&condemnation.list) {
                condemned.push((*condemnation, list));
            }
        }
        Ok(Self { log, cover, packs, faulty, manifests, condemned, now: UnixNanos::now() })
    }
}

/// Decides which visible generations are kept, and why, and which are forgotten.
fn choose(
    log: &Log,
    options: &PruneOptions,
    now: UnixNanos,
) -> Result<(Vec<Kept>, Vec<Generation>), Error> {
    let (state, visible) = (log.state(), log.generations());
    let named: HashSet<_> = options.forget.iter().collect();
    for name in &options.forget {
        if !visible.iter().any(|generation| generation.name() == *name) {
            return Err(missing(log, name));
        }
        if state.pins().contains(name) {
            return Err(Error::Pinned { name: name.clone() });
        }
    }
    let mut by_deployment: BTreeMap<&str, Vec<Generation>> = BTreeMap::new();
    for generation in &visible {
        by_deployment.entry(&generation.deployment).or_default().push(generation.clone());
    }
    for deployment in &options.deployments {
        if !by_deployment.contains_key(deployment.as_str()) {
            let generation = GenerationNumber(0);
            return Err(missing(
                log,
                &GenerationName { deployment: deployment.clone(), generation },
            ));
        }
    }
    let (mut kept, mut forgotten) = (Vec::new(), Vec::new());
    for (deployment, generations) in by_deployment {
        let wanted = options.deployments.is_empty()
            || options.deployments.iter().any(|wanted| wanted == deployment);
        let reasons = match &options.retention {
            Some(retention) if wanted => retention.choose(&generations, now),
            _ => vec![vec![KeptBy::NoPolicy]; generations.len()],
        };
        for (generation, mut reasons) in generations.into_iter().zip(reasons) {
            let name = generation.name();
            if state.pins().contains(&name) {
                reasons.push(KeptBy::Pin);
            }
            if named.contains(&name) || reasons.is_empty() {
                forgotten.push(generation);
            } else {
                reasons.sort_unstable();
                kept.push(Kept { generation, reasons });
            }
        }
    }
    forgotten.sort_by_key(|generation| generation.commit);
    kept.sort_by_key(|kept| kept.generation.commit);
    Ok((kept, forgotten))
}

/// Marks from what must stay, and from what was forgotten.
struct Roots<'s> {
    store: &'s Store,
    progress: &'s Progress,
    marks: Marks,
    /// Manifests that must stay.
    needed: HashSet<Digest>,
    /// Manifests of what was forgotten.
    explained: HashSet<Digest>,
    /// Chunks that no pack holds; the first few, and their number.
    missing: (Vec<Digest>, u64),
}

impl<'s> Roots<'s> {
    fn new(store: &'s Store, marks: Marks, progress: &'s Progress) -> Self {
        let (needed, explained, missing) = (HashSet::new(), HashSet::new(), (Vec::new(), 0));
        Self { store, progress, marks, needed, explained, missing }
    }

    fn mark_needed(
        &mut self,
        known: &Known,
        options: &PruneOptions,
        kept: &[Kept],
    ) -> Result<(), Error> {
        for kept in kept {
            self.generation(&kept.generation.manifest, Purpose::Needed)?;
        }
        for root in &options.roots {
            self.artifact(root, Purpose::Needed)?;
        }
        if known.log.damaged().is_empty() {
            return Ok(());
        }
        // A record that cannot be read may have made any generation visible that no other has, or
        // brought back any that was forgotten before it.
        let state = known.log.state();
        let last = known.log.damaged().iter().map(|damaged| damaged.number).max();
        let mut promoted = HashSet::new();
        for (generation, fate) in state.promoted() {
            promoted.insert(generation.manifest);
            match fate {
                Fate::Forgotten { by } if Some(*by) < last => {
                    self.generation(&generation.manifest, Purpose::Needed)?;
                }
                // A collection spared it if it was brought back by a record that is damaged now;
                // otherwise its manifests are gone.
                Fate::Collected if known.manifests.contains_key(&generation.manifest) => {
                    match self.generation(&generation.manifest, Purpose::Needed) {
                        Ok(()) | Err(Error::NotKnown { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                _ => {}
            }
        }
        for id in known.manifests.keys().filter(|id| !promoted.contains(*id)) {
            // Those that are no manifests of generations are needed by one, or by nothing.
            if self.store.generation(id).is_ok() {
                self.generation(id, Purpose::Needed)?;
            }
        }
        Ok(())
    }

    /// Marks what forgotten generations needed: so it belongs to no backup at work. What cannot be
    /// read explains nothing, which only holds more back.
    fn mark_explained(&mut self, known: &Known, forgotten: &[Generation]) -> Result<(), Error> {
        let state = known.log.state();
        let before = state.promoted().iter().filter(|(_, fate)| *fate != Fate::Visible);
        let all = before.map(|(generation, _)| generation).chain(forgotten);
        for generation in all {
            self.progress.check()?;
            let explained = self.generation(&generation.manifest, Purpose::Explained);
            if let Err(Error::Interrupted) = explained {
                return explained;
            }
        }
        Ok(())
    }

    fn generation(&mut self, id: &Digest, purpose: Purpose) -> Result<(), Error> {
        self.set_of(purpose).insert(*id);
        let manifest = self.store.generation(id).map_err(|error| not_known(id, &error))?;
        for member in &manifest.members {
            self.artifact(&member.artifact, purpose)?;
        }
        Ok(())
    }

    fn set_of(&mut self, purpose: Purpose) -> &mut HashSet<Digest> {
        match purpose {
            Purpose::Needed => &mut self.needed,
            Purpose::Explained => &mut self.explained,
        }
    }

    fn artifact(&mut self, id: &Digest, purpose: Purpose) -> Result<(), Error> {
        self.progress.check()?;
        if !self.set_of(purpose).insert(*id) {
            return Ok(());
        }
        let artifact = self.store.artifact(id).map_err(|error| not_known(id, &error))?;
        let progress = self.progress;
        let is_stopped = || progress.is_interrupted();
        let mut marking = Marking::new(&mut self.marks, purpose, &is_stopped);
        walk_artifact(self.store, &artifact, &mut marking);
        let Marking { missing, missing_count, faults, .. } = marking;
        self.progress.item();
        self.progress.check()?;
        if purpose == Purpose::Needed {
            if let Some(fault) = faults.into_iter().next() {
                let (what, reason) = (format!("list page {}", fault.digest), fault.to_string());
                return Err(Error::NotKnown { what, reason });
            }
            self.missing.0.extend(missing);
            self.missing.1 += missing_count;
        }
        Ok(())
    }
}

fn not_known(id: &Digest, error: &Error) -> Error {
    Error::NotKnown { what: format!("manifest {id}"), reason: error.to_string() }
}

/// Says what of the open condemnations is due, and what of it is spared because something needs it
/// again or can still be brought back: what is forgotten now can.
fn due(
    store: &Store,
    known: &Known,
    (survey, needed, forgotten): (&Survey, &HashSet<Digest>, &[Generation]),
    options: &PruneOptions,
) -> Result<(Vec<Due>, Vec<Waiting>), Error> {
    let (mut due, mut waiting) = (Vec::new(), Vec::new());
    // Packs of those before: what is in two condemned packs must not go with both.
    let mut gone = HashSet::new();
    for (condemnation, list) in &known.condemned {
        let from = condemnation.time.0.saturating_add(options.grace_nanos);
        let length = |id: &Digest| known.packs.get(id).map_or(0, |pack| pack.bytes);
        let mut can_return = can_return(&known.log, condemnation.number);
        can_return.extend_from_slice(forgotten);
        let mut spared = Sparing::of_forgotten(store, list, &gone, &can_return)?;
        let is_needed = list
            .packs
            .iter()
            .chain(&list.pages)
            .filter(|id| survey.packs.get(id).is_some_and(|held| held.live_chunks > 0))
            .chain(list.manifests.iter().filter(|id| needed.contains(*id)));
        spared.extend(is_needed);
        let packs = list.packs.iter().chain(&list.pages).filter(|id| !spared.contains(*id));
        let manifests = list.manifests.iter().filter(|id| !spared.contains(*id));
        let bytes = packs.map(length).sum::<u64>()
            + manifests.filter_map(|id| known.manifests.get(id)).sum::<u64>();
        if from <= known.now.0 {
            let (number, objects) = (condemnation.number, (list.len() - spared.len()) as u64);
            let can_return = can_return.iter().map(Generation::name).collect();
            let packs = list.packs.iter().chain(&list.pages).filter(|id| !spared.contains(*id));
            gone.extend(packs.copied());
            due.push(Due { number, objects, bytes, spared, can_return });
        } else {
            waiting.push(Waiting { condemned: condemnation.time, due: UnixNanos(from), bytes });
        }
    }
    Ok((due, waiting))
}
