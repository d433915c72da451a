//! Damage: whatever is flipped, cut off, zeroed, lost or swapped in a small store, either nothing
//! changes or it is said, and what does not need the damaged object is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::bail;
use strongroom::backend::{Key, MemoryBackend};
use strongroom::store::{Error, Progress, Scope, Store};

use crate::report::Row;
use crate::sample::{
    self, All, Objects, Said, backend_of, names, prune_all, read_all, runs_of, said,
};

/// Of so many cases one is also pruned: a number that has nothing in common with lengths.
const PRUNED_EVERY: usize = 97;
/// Of so many flipped bits that change nothing one is also verified.
const VERIFIED_EVERY: usize = 5;
const SECTOR_BYTES: usize = 512;

/// One damage. Objects are meant by their place.
#[derive(Clone, Copy, Debug)]
enum Case {
    Flip { object: usize, bit: usize },
    Cut { object: usize, bytes: usize },
    Zero { object: usize, sector: usize },
    Lose { object: usize },
    Swap { one: usize, other: usize },
}

impl Case {
    fn name(self) -> &'static str {
        match self {
            Self::Flip { .. } => "flipped bits",
            Self::Cut { .. } => "truncations",
            Self::Zero { .. } => "zeroed sectors",
            Self::Lose { .. } => "lost objects",
            Self::Swap { .. } => "swapped pairs",
        }
    }

    fn touched(self) -> Vec<usize> {
        match self {
            Self::Flip { object, .. }
            | Self::Cut { object, .. }
            | Self::Zero { object, .. }
            | Self::Lose { object } => vec![object],
            Self::Swap { one, other } => vec![one, other],
        }
    }
}

/// How a case ended.
enum Ending {
    /// Everything is as it was.
    Harmless,
    /// Something is damaged, and it is said.
    Found,
    /// The store is not opened, and it is said why.
    Refused,
    Wrong(String),
}

/// The store, and what is in it.
struct Sample {
    objects: Objects,
    generations: BTreeMap<String, All>,
    said: Said,
    runs: BTreeMap<String, Result<String, String>>,
    /// The generations that can be read without each object.
    without: Vec<BTreeSet<String>>,
    /// The last record of the log, and that of each journal: when it is lost, nothing tells.
    last: BTreeSet<usize>,
    /// What was being removed: it counts as gone.
    collected: Vec<Key>,
}

/// Tries every damage; with `step`, only every so manyth flipped bit and length.
pub fn prove(step: usize) -> anyhow::Result<Row> {
    let mut row = Row::new("damage");
    let sample = Sample::new()?;
    let bytes: usize = sample.objects.iter().map(|(_, bytes)| bytes.len()).sum();
    eprintln!("damage: {} objects of {bytes} bytes", sample.objects.len());
    let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (key, bytes) in &sample.objects {
        let kind = kinds.entry(key.as_str().split('/').next().unwrap_or_default()).or_default();
        *kind = (kind.0 + 1, kind.1 + bytes.len());
    }
    for (kind, (count, bytes)) in kinds {
        eprintln!("  {kind}: {count} of {bytes} bytes");
    }
    let cases = sample.cases(step.max(1));
    let endings = sample.try_all(&cases)?;
    for (case, (ending, was_pruned)) in endings {
        row.tried(1, case.name());
        row.tried(u64::from(was_pruned), "pruned afterwards");
        match ending {
            Ending::Harmless => row.tried(1, "harmless"),
            Ending::Found => row.tried(1, "found"),
            Ending::Refused => row.tried(1, "refused"),
            Ending::Wrong(what) => row.found(format!("{}: {what}", sample.tell(case))),
        }
    }
    row.tried(sample.objects.len() as u64, "objects");
    row.expect_at_least(sample.objects.len() as u64, "lost objects");
    row.expect_at_least((bytes / step.max(1)) as u64, "truncations");
    row.expect_at_least((bytes * 8 / step.max(1)) as u64, "flipped bits");
    Ok(row)
}

fn open(backend: &MemoryBackend) -> Result<Store, Error> {
    Store::open(Arc::new(backend.clone()))
}

impl Sample {
    fn new() -> anyhow::Result<Self> {
        let objects = sample::make()?;
        for kind in
            ["store", "packs/", "pages/", "index/", "manifests/", "log/", "removals/", "runs/"]
        {
            if !objects.iter().any(|(key, _)| key.as_str().starts_with(kind)) {
                bail!("the sample has no {kind}");
            }
        }
        let backend = backend_of(&objects);
        let store = open(&backend)?;
        let report = store.verify(Scope::Full, &[], &Progress::default())?;
        if !report.is_clean() {
            bail!("the sample is damaged: {:?} {:?}", report.damaged, report.unreadable);
        }
        let mut generations = BTreeMap::new();
        for name in names(&store)? {
            let all = read_all(&store, &name).map_err(anyhow::Error::msg)?;
            generations.insert(name, all);
        }
        let said = said(&store).map_err(anyhow::Error::msg)?;
        let runs = runs_of(&store).map_err(anyhow::Error::msg)?;
        let (last, collected) = (last_records(&objects), sample::collected(&store)?);
        let without = Vec::new();
        let mut sample = Self { objects, generations, said, runs, without, last, collected };
        for object in 0..sample.objects.len() {
            sample.without.push(sample.readable(&sample.damaged(Case::Lose { object })));
        }
        Ok(sample)
    }

    fn tell(&self, case: Case) -> String {
        let keys = case.touched().into_iter().map(|object| {
            let (key, bytes) = &self.objects[object];
            format!("{key} ({} bytes)", bytes.len())
        });
        format!("{case:?} {}", keys.collect::<Vec<_>>().join(" and "))
    }

    fn cases(&self, step: usize) -> Vec<Case> {
        let mut cases = Vec::new();
        for (object, (key, bytes)) in self.objects.iter().enumerate() {
            cases.push(Case::Lose { object });
            let cuts = (0..bytes.len()).step_by(step);
            cases.extend(cuts.map(|bytes| Case::Cut { object, bytes }));
            let sectors = bytes.chunks(SECTOR_BYTES).enumerate();
            let zeroed = sectors.filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
            cases.extend(zeroed.map(|(sector, _)| Case::Zero { object, sector }));
            cases.extend((0..bytes.len() * 8).step_by(step).map(|bit| Case::Flip { object, bit }));
            let kind = key.as_str().split('/').next();
            for (other, (second, others)) in self.objects.iter().enumerate().skip(object + 1) {
                if second.as_str().split('/').next() == kind && others != bytes {
                    cases.push(Case::Swap { one: object, other });
                }
            }
        }
        cases
    }

    /// Makes a copy with some damage.
    fn damaged(&self, case: Case) -> MemoryBackend {
        let mut objects = self.objects.clone();
        match case {
            Case::Flip { object, bit } => objects[object].1[bit / 8] ^= 1 << (bit % 8),
            Case::Cut { object, bytes } => objects[object].1.truncate(bytes),
            Case::Zero { object, sector } => {
                let sectors = objects[object].1.chunks_mut(SECTOR_BYTES);
                sectors.skip(sector).take(1).for_each(|sector| sector.fill(0));
            }
            Case::Lose { object } => drop(objects.remove(object)),
            Case::Swap { one, other } => {
                let bytes = std::mem::take(&mut objects[one].1);
                objects[one].1 = std::mem::replace(&mut objects[other].1, bytes);
            }
        }
        backend_of(&objects)
    }

    /// Returns the generations that can be read and are as they were.
    fn readable(&self, backend: &MemoryBackend) -> BTreeSet<String> {
        let Ok(store) = open(backend) else { return BTreeSet::new() };
        let is_same = |(name, all): &(&String, &All)| read_all(&store, name).as_ref() == Ok(*all);
        self.generations.iter().filter(is_same).map(|(name, _)| name.clone()).collect()
    }

    /// Tries all cases, with as many threads as there are processors. What the library does in
    /// parallel is done by one thread each: the cases are many enough.
    fn try_all(&self, cases: &[Case]) -> anyhow::Result<Vec<(Case, (Ending, bool))>> {
        let next = AtomicUsize::new(0);
        let work = &|| {
            let mut endings = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(case) = cases.get(number) else { return endings };
                endings.push((*case, self.try_case(number, *case)));
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..std::thread::available_parallelism()?.get())
                .map(|_| -> anyhow::Result<_> {
                    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
                    Ok(scope.spawn(move || alone.install(work)))
                })
                .collect::<Result<_, _>>()?;
            let mut endings = Vec::new();
            for thread in threads {
                endings.extend(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?);
            }
            Ok(endings)
        })
    }

    /// Tries one case. Says whether it was pruned, too.
    fn try_case(&self, number: usize, case: Case) -> (Ending, bool) {
        let ending = catch_unwind(AssertUnwindSafe(|| self.judge(case)));
        let ending = ending.unwrap_or_else(|_| Ending::Wrong("panicked".to_owned()));
        let is_rare = !matches!(case, Case::Flip { .. } | Case::Cut { .. });
        if !is_rare && !number.is_multiple_of(PRUNED_EVERY)
            || !matches!(ending, Ending::Found | Ending::Harmless)
        {
            return (ending, false);
        }
        match catch_unwind(AssertUnwindSafe(|| self.judge_prune(case))) {
            Ok(None) => (ending, true),
            Ok(Some(wrong)) => (Ending::Wrong(wrong), true),
            Err(_) => (Ending::Wrong("panicked when it was pruned".to_owned()), true),
        }
    }

    /// Says whether only journals of runs are touched: nobody else reads them.
    fn is_of_a_run(&self, case: Case) -> bool {
        case.touched().iter().all(|object| self.objects[*object].0.as_str().starts_with("runs/"))
    }

    fn judge(&self, case: Case) -> Ending {
        let is_frequent = matches!(case, Case::Flip { .. } | Case::Cut { .. });
        if is_frequent && self.is_of_a_run(case) {
            let store = match open(&self.damaged(case)) {
                Ok(store) => store,
                Err(error) => return Ending::Wrong(format!("cannot be opened: {error}")),
            };
            return match self.judge_runs(&store, case) {
                Ok(true) => Ending::Harmless,
                Ok(false) => Ending::Found,
                Err(wrong) => Ending::Wrong(wrong),
            };
        }
        self.judge_all(case)
    }

    fn judge_all(&self, case: Case) -> Ending {
        let backend = self.damaged(case);
        let store = match open(&backend) {
            Ok(store) => store,
            Err(error) if error.is_damage() || error.needs_newer() => return Ending::Refused,
            Err(Error::NotAStore { .. }) if matches!(case, Case::Lose { .. }) => {
                return Ending::Refused;
            }
            Err(error) => return Ending::Wrong(format!("cannot be opened: {error}")),
        };
        let touched = case.touched();
        let (mut is_same, mut unread) = (true, None);
        for (name, all) in &self.generations {
            match read_all(&store, name) {
                Ok(read) if read == *all => {}
                Ok(_) => return Ending::Wrong(format!("{name} is silently wrong")),
                Err(reason) => {
                    if touched.iter().all(|object| self.without[*object].contains(name)) {
                        return Ending::Wrong(format!("{name} does not need it: {reason}"));
                    }
                    is_same = false;
                    unread = Some(format!("{name}: {reason}"));
                }
            }
        }
        let end_is_lost = matches!(case, Case::Lose { object } if self.last.contains(&object));
        let is_said = said(&store).as_ref() == Ok(&self.said);
        if let (Case::Flip { bit, .. }, true, true) = (case, is_same, is_said)
            && bit % VERIFIED_EVERY != 0
        {
            return Ending::Harmless;
        }
        // On another copy: reading may have mended the index.
        let found = match open(&self.damaged(case)) {
            Ok(store) => match store.verify(Scope::Full, &[], &Progress::default()) {
                Ok(report) => !report.is_clean(),
                Err(_) => true,
            },
            Err(_) => true,
        };
        if let (Some(unread), false) = (unread, found) {
            return Ending::Wrong(format!("verify finds nothing, and reading says: {unread}"));
        }
        if !is_said && !found && !end_is_lost {
            return Ending::Wrong(format!("the log says something else: {:?}", said(&store)));
        }
        match self.judge_runs(&store, case) {
            Err(wrong) => Ending::Wrong(wrong),
            Ok(runs_are_same) if is_same && is_said && runs_are_same && !found => Ending::Harmless,
            Ok(_) => Ending::Found,
        }
    }

    /// Fails if a run is silently somewhere else than it was. Says whether all are as they were.
    fn judge_runs(&self, store: &Store, case: Case) -> Result<bool, String> {
        let Ok(runs) = runs_of(store) else { return Ok(false) };
        // A torn last record counts as not written.
        let torn = case.touched().into_iter().filter(|object| self.last.contains(object));
        let before: Vec<_> = torn
            .filter_map(|object| runs_of(&open(&self.damaged(Case::Lose { object })).ok()?).ok())
            .collect();
        let mut are_same = true;
        for (run, expected) in &self.runs {
            match runs.get(run) {
                Some(found) if found == expected => {}
                Some(Err(_)) => are_same = false,
                found if before.iter().any(|before| before.get(run) == found) => {
                    are_same = false;
                }
                Some(Ok(_)) => return Err(format!("the run {run} is silently somewhere else")),
                None => return Err(format!("the run {run} is silently gone")),
            }
        }
        Ok(are_same)
    }

    /// Prunes a damaged copy: what could be read before must still be there.
    fn judge_prune(&self, case: Case) -> Option<String> {
        let left = self.damaged(case);
        for key in &self.collected {
            drop(left.remove_raw(key));
        }
        let readable = self.readable(&left);
        for accept_damaged_log in [false, true] {
            let backend = self.damaged(case);
            for _ in 0..2 {
                let Ok(store) = open(&backend) else { break };
                // It may refuse.
                let _ = prune_all(&store, accept_damaged_log);
            }
            let left = self.readable(&backend);
            if let Some(lost) = readable.difference(&left).next() {
                return Some(format!(
                    "prune (damaged log accepted: {accept_damaged_log}) lost {lost}"
                ));
            }
        }
        None
    }
}

/// Returns the last record of the log and of each journal.
fn last_records(objects: &Objects) -> BTreeSet<usize> {
    let mut last = BTreeMap::new();
    for (object, (key, _)) in objects.iter().enumerate() {
        if let Some((folder, _)) = key.as_str().rsplit_once('/')
            && (folder == "log" || folder.starts_with("runs/"))
        {
            last.insert(folder.to_owned(), object);
        }
    }
    last.into_values().collect()
}
