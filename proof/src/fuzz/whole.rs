//! A whole store: the input says what is backed up, damaged, forgotten, collected and read.
//!
//! Whatever happens, nothing may panic, and what can be read is exactly what was backed up. As long
//! as nothing false has a checksum that fits, what cannot be read is found by `verify`, and prune
//! never makes something unreadable that could be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use strongroom::backend::{Backend, Key, MemoryBackend};
use strongroom::store::{
    GenerationName, GenerationNumber, IngestOptions, MemberSource, Progress, PruneOptions,
    Reference, RestoreOptions, Retention, Scope, Store, StoreConfig,
};
use tempfile::TempDir;

use super::seal;
use crate::fuzz::mutate::noise;

const DEPLOYMENT: &str = "orders";
/// Most steps of an input: each takes up to a few milliseconds.
const STEPS_MAX: usize = 24;
/// Most backups of an input.
const BACKUPS_MAX: usize = 6;
const FILE_BYTES_MAX: usize = 20_000;

type Files = BTreeMap<String, Vec<u8>>;

/// Bytes of the input, one after the other; zeros behind its end.
struct Bytes<'i>(&'i [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, end: usize) -> usize {
        let number = u32::from_le_bytes([self.byte(), self.byte(), self.byte(), 0]) as usize;
        number % end.max(1)
    }
}

struct World {
    dir: TempDir,
    backend: MemoryBackend,
    now: Files,
    /// All that was ever backed up under a number; after damage to the log one may come again.
    generations: BTreeMap<u64, Vec<Files>>,
    /// Those that must be there, as long as nothing is damaged.
    acknowledged: BTreeSet<u64>,
    backups: usize,
    is_damaged: bool,
    /// Something was changed and has a checksum that fits.
    is_forged: bool,
}

/// Runs the steps of an input.
///
/// # Panics
/// If a store is silently wrong.
pub fn store(input: &[u8]) -> bool {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let dir = dir.expect("a directory");
    fs::create_dir(dir.path().join("source")).expect("a directory");
    let backend = MemoryBackend::new();
    Store::create(Arc::new(backend.clone()), StoreConfig::default()).expect("a store");
    let mut world = World {
        dir,
        backend,
        now: Files::new(),
        generations: BTreeMap::new(),
        acknowledged: BTreeSet::new(),
        backups: 0,
        is_damaged: false,
        is_forged: false,
    };
    let mut bytes = Bytes(input);
    for _ in 0..STEPS_MAX {
        if bytes.0.is_empty() {
            break;
        }
        world.step(&mut bytes);
    }
    world.check();
    !world.generations.is_empty()
}

impl World {
    fn step(&mut self, bytes: &mut Bytes) {
        match bytes.byte() % 16 {
            0 | 1 => self.write(bytes),
            2 => self.edit(bytes),
            3 => self.delete(bytes),
            4 | 5 => self.backup(),
            6 => self.prune(bytes),
            7 => self.undo(bytes),
            8 => self.lose_index(),
            9 => self.check(),
            10 => self.restore(),
            11 => self.damage(bytes, |object, bytes| {
                let at = bytes.below(object.len());
                let mask = bytes.byte();
                if let Some(byte) = object.get_mut(at) {
                    *byte ^= mask;
                }
            }),
            12 => self.damage(bytes, |object, bytes| object.truncate(bytes.below(object.len()))),
            13 => self.forge(bytes),
            14 => self.lose(bytes),
            _ => self.put_or_swap(bytes),
        }
    }

    /// Changes something and makes its checksum right: whoever does this means harm.
    fn forge(&mut self, bytes: &mut Bytes) {
        self.is_forged = true;
        self.damage(bytes, |object, bytes| {
            let at = bytes.below(object.len());
            let value = bytes.byte();
            if let Some(byte) = object.get_mut(at) {
                *byte = value;
            }
            let is_pack = object.starts_with(b"SRPACK");
            if let Some(sealed) = if is_pack { seal::pack(object) } else { seal::end(object) } {
                *object = sealed;
            }
        });
    }

    fn set(&mut self, name: String, content: Vec<u8>) {
        fs::write(self.dir.path().join("source").join(&name), &content).expect("a file");
        self.now.insert(name, content);
    }

    fn write(&mut self, bytes: &mut Bytes) {
        let name = bytes.byte() % 5;
        let (kind, seed, len) = (bytes.byte(), bytes.byte(), bytes.below(FILE_BYTES_MAX));
        let content = match kind % 4 {
            0 => noise(u64::from(seed), len),
            1 => vec![0; len],
            _ => b"strongroom ".iter().copied().cycle().skip(usize::from(seed)).take(len).collect(),
        };
        let name = if name == 0 { "stable_memory.bin".to_owned() } else { format!("f{name}") };
        self.set(name, content);
    }

    fn edit(&mut self, bytes: &mut Bytes) {
        let which = bytes.below(self.now.len());
        let Some((name, content)) = self.now.iter().nth(which) else { return };
        let (name, mut content) = (name.clone(), content.clone());
        let (at, value) = (bytes.below(content.len()), bytes.byte());
        content.insert(at, value);
        self.set(name, content);
    }

    fn delete(&mut self, bytes: &mut Bytes) {
        let which = bytes.below(self.now.len());
        let Some(name) = self.now.keys().nth(which).cloned() else { return };
        fs::remove_file(self.dir.path().join("source").join(&name)).expect("a file");
        self.now.remove(&name);
    }

    fn open(&self) -> Option<Store> {
        match Store::open(Arc::new(self.backend.clone())) {
            Ok(store) => Some(store),
            Err(error) => {
                assert!(self.is_damaged, "it cannot be opened: {error}");
                None
            }
        }
    }

    fn backup(&mut self) {
        let Some(store) = self.open().filter(|_| self.backups < BACKUPS_MAX) else { return };
        self.backups += 1;
        let sources =
            [MemberSource { member: "files".to_owned(), path: self.dir.path().join("source") }];
        let options = IngestOptions { threads: 1, reread: true, ..IngestOptions::default() };
        match store.backup(DEPLOYMENT, &sources, &options, &Progress::default()) {
            Ok(report) => {
                let Some(generation) = report.generation else {
                    panic!("nothing was backed up: {:?}", report.failed)
                };
                let number = generation.number.0;
                self.generations.entry(number).or_default().push(self.now.clone());
                self.acknowledged.insert(number);
                if !self.is_damaged {
                    assert!(self.read(&store, number).is_ok(), "g{number} cannot be read");
                }
            }
            Err(error) => assert!(self.is_damaged, "no backup: {error}"),
        }
    }

    /// Reads a generation. What can be read is right.
    fn read(&self, store: &Store, number: u64) -> Result<(), String> {
        let files = read(store, number)?;
        let known = self.generations.get(&number);
        // A forged commit record may give a generation another number.
        let is_right = known.is_some_and(|known| known.contains(&files))
            || self.is_forged && self.generations.values().flatten().any(|known| *known == files);
        assert!(is_right, "g{number} is silently wrong: {:?}", files.keys());
        Ok(())
    }

    /// Returns those that can be read, and whether there are others that should be.
    fn readable(&self, store: &Store) -> (BTreeSet<u64>, Vec<String>) {
        let (mut readable, mut unreadable) = (BTreeSet::new(), Vec::new());
        let Ok(log) = store.log() else { return (readable, unreadable) };
        // A forged record may give one to another deployment.
        let own = log.generations().into_iter().filter(|found| found.deployment == DEPLOYMENT);
        for generation in own {
            match self.read(store, generation.number.0) {
                Ok(()) => drop(readable.insert(generation.number.0)),
                Err(error) => unreadable.push(format!("{}: {error}", generation.number)),
            }
        }
        (readable, unreadable)
    }

    /// Checks that the store is honest about itself.
    fn check(&self) {
        let Some(store) = self.open() else { return };
        let (readable, unreadable) = self.readable(&store);
        let report = store.verify(Scope::Full, &[], &Progress::default());
        let is_clean = report.as_ref().is_ok_and(strongroom::store::VerifyReport::is_clean);
        // Who gives something false a checksum that fits is not found out in every case.
        if !unreadable.is_empty() && is_clean && !self.is_forged {
            // Whoever looked may have made the index anew.
            let unreadable = self.open().map(|store| self.readable(&store).1).unwrap_or_default();
            assert!(unreadable.is_empty(), "verify finds nothing, and {unreadable:?}");
        }
        if !self.is_damaged {
            let report = report.expect("nothing is damaged");
            assert!(is_clean, "damage: {:?} {:?}", report.damaged, report.unreadable);
            assert!(self.acknowledged.is_subset(&readable), "a generation is gone");
        }
    }

    fn prune(&mut self, bytes: &mut Bytes) {
        let Some(store) = self.open() else { return };
        let keep = u32::from(bytes.byte() % 3);
        let how = bytes.byte();
        let options = PruneOptions {
            retention: Some(Retention { last: Some(1 + keep), ..Retention::none() }),
            grace_nanos: if how & 1 == 0 { 0 } else { 1 << 60 },
            max_rewrite_bytes: if how & 2 == 0 { u64::MAX } else { 0 },
            accept_damaged_log: how & 4 != 0,
            ..PruneOptions::default()
        };
        let (before, _) = self.readable(&store);
        let plan = match store.plan_prune(&options, &Progress::default()) {
            Ok(plan) => plan,
            Err(error) => return assert!(self.is_damaged, "no plan: {error}"),
        };
        for generation in &plan.forgotten {
            self.acknowledged.remove(&generation.number.0);
        }
        let kept: BTreeSet<_> = plan.kept.iter().map(|kept| kept.generation.number.0).collect();
        if let Err(error) = store.prune(&plan, &Progress::default()) {
            assert!(self.is_damaged, "no prune: {error}");
        }
        drop(store);
        let Some(store) = self.open() else { return };
        for number in before.intersection(&kept) {
            let read = self.read(&store, *number);
            // Prune believes what has the right checksum.
            assert!(
                read.is_ok() || self.is_forged,
                "prune took something from g{number}: {read:?}"
            );
        }
    }

    fn undo(&mut self, bytes: &mut Bytes) {
        let Some(store) = self.open() else { return };
        let number = 1 + bytes.below(BACKUPS_MAX) as u64;
        let name = GenerationName {
            deployment: DEPLOYMENT.to_owned(),
            generation: GenerationNumber(number),
        };
        if store.undo(&[name]).is_ok() {
            self.acknowledged.insert(number);
            let read = self.read(&store, number);
            assert!(read.is_ok() || self.is_damaged, "g{number} came back broken: {read:?}");
        }
    }

    /// The index can be made again from the packs: this is no damage.
    fn lose_index(&self) {
        for key in self.keys().iter().filter(|key| key.as_str().starts_with("index/")) {
            let _ = self.backend.remove_raw(key);
        }
    }

    fn restore(&self) {
        let Some(store) = self.open() else { return };
        let reference = Reference::parse(DEPLOYMENT.as_bytes()).expect("a reference");
        let Ok(tree) = store.tree(&reference) else { return };
        let to = self.dir.path().join("restored");
        let options = RestoreOptions { overwrite: true, threads: 1, ..RestoreOptions::default() };
        let Ok(report) = store.restore(&tree, &to, &options, &Progress::default()) else { return };
        let number = tree.generation.number.0;
        if report.failures.is_empty() && tree.unreadable.is_empty() {
            let is_right = |files: &Files| {
                let same = |(name, content): (&String, &Vec<u8>)| {
                    fs::read(to.join("files").join(name)).is_ok_and(|found| found == *content)
                };
                files.iter().all(same)
            };
            let mut known =
                self.generations.iter().filter(|one| self.is_forged || *one.0 == number);
            let is_known = known.any(|(_, known)| known.iter().any(is_right));
            assert!(is_known, "g{number} is restored wrong");
        } else {
            assert!(self.is_damaged, "g{number}: {:?}", report.failures);
        }
        let _ = fs::remove_dir_all(to);
    }

    fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::new();
        self.backend.list("", &mut |key, _| keys.push(key)).expect("memory");
        keys
    }

    fn key(&self, bytes: &mut Bytes) -> Option<Key> {
        let keys = self.keys();
        keys.get(bytes.below(keys.len())).cloned()
    }

    fn object(&self, key: &Key) -> Vec<u8> {
        self.backend.read(key, u64::MAX).map(|bytes| bytes.to_vec()).unwrap_or_default()
    }

    fn damage(&mut self, bytes: &mut Bytes, damage: impl FnOnce(&mut Vec<u8>, &mut Bytes)) {
        let Some(key) = self.key(bytes) else { return };
        let mut object = self.object(&key);
        damage(&mut object, bytes);
        self.backend.replace(&key, object);
        self.is_damaged = true;
    }

    fn lose(&mut self, bytes: &mut Bytes) {
        if let Some(key) = self.key(bytes) {
            let _ = self.backend.remove_raw(&key);
            self.is_damaged = true;
        }
    }

    /// Puts an object of the input's own under a name that the store looks at, or swaps two.
    fn put_or_swap(&mut self, bytes: &mut Bytes) {
        let (Some(one), Some(other)) = (self.key(bytes), self.key(bytes)) else { return };
        let (first, second) = (self.object(&one), self.object(&other));
        match bytes.byte() % 4 {
            0 => self.backend.replace(&other, first),
            1 => {
                self.backend.replace(&one, second);
                self.backend.replace(&other, first);
            }
            2 => {
                let number = [0, 7, 300, u64::MAX - 1, u64::MAX][bytes.below(5)];
                let key = Key::new(format!("log/{number:020}")).expect("a key");
                self.backend.replace(&key, first);
            }
            _ => {
                let folder = one.as_str().rsplit_once('/').map_or("index", |(folder, _)| folder);
                let name = strongroom::digest::Digest::of(&second);
                let key = Key::new(format!("{folder}/{name}")).expect("a key");
                self.backend.replace(&key, second);
            }
        }
        self.is_damaged = true;
    }
}

fn read(store: &Store, number: u64) -> Result<Files, String> {
    let reference = format!("{DEPLOYMENT}@g{number}");
    let reference = Reference::parse(reference.as_bytes()).map_err(|error| error.to_string())?;
    let tree = store.tree(&reference).map_err(|error| error.to_string())?;
    if let Some((_, reason)) = tree.unreadable.first() {
        return Err(reason.clone());
    }
    let mut files = Files::new();
    for member in &tree.members {
        for entry in store.entries(&member.artifact) {
            let entry = entry.map_err(|fault| fault.to_string())?;
            if let Some(content) = entry.content() {
                let mut bytes = Vec::new();
                store.write_content(content, &mut bytes).map_err(|error| error.to_string())?;
                files.insert(String::from_utf8_lossy(&entry.path).into_owned(), bytes);
            }
        }
    }
    Ok(files)
}
