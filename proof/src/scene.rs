//! A small store with everything in it, and what it must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use strongroom::backend::LocalBackend;
use strongroom::store::{Entry, Progress, Reference, Scope, Store};

use crate::report::Row;
use crate::tool::Tool;

/// The deployment of all scenes.
pub const DEPLOYMENT: &str = "orders";
/// Its only member.
pub const MEMBER: &str = "files";

/// Files of a generation by their paths.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What a store may hold, generation by generation.
#[derive(Clone, Default)]
pub struct Expected {
    /// All generations that were ever begun, by number. One that was never acknowledged may be
    /// there or not, but not differ.
    pub generations: BTreeMap<u64, Files>,
    /// Those that must be there.
    pub acknowledged: BTreeSet<u64>,
}

impl Expected {
    /// Says what is wrong with a store; nothing if all is well.
    pub fn check(&self, store: &Store) -> Vec<String> {
        let mut wrong = Vec::new();
        match store.verify(Scope::Full, &[], &Progress::default()) {
            Ok(report) if report.is_clean() => {}
            Ok(report) => {
                wrong.push(format!("damage: {:?} {:?}", report.damaged, report.unreadable));
            }
            Err(error) => wrong.push(format!("cannot be verified: {error}")),
        }
        match visible(store) {
            Ok(visible) => wrong.extend(self.differences(&visible)),
            Err(error) => wrong.push(format!("cannot be read: {error:#}")),
        }
        wrong
    }

    fn differences(&self, visible: &BTreeMap<u64, Files>) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, files) in visible {
            match self.generations.get(number) {
                Some(expected) if expected == files => {}
                Some(_) => wrong.push(format!("g{number} holds something else")),
                None => wrong.push(format!("g{number} was never backed up")),
            }
        }
        for number in self.acknowledged.iter().filter(|number| !visible.contains_key(number)) {
            wrong.push(format!("g{number} was acknowledged and is not there"));
        }
        wrong
    }
}

/// Reads every visible generation of [`DEPLOYMENT`].
pub fn visible(store: &Store) -> anyhow::Result<BTreeMap<u64, Files>> {
    let mut found = BTreeMap::new();
    let log = store.log()?;
    if !log.damaged().is_empty() {
        bail!("damaged records: {:?}", log.damaged());
    }
    for generation in log.generations() {
        if generation.deployment == DEPLOYMENT {
            let number = generation.number.0;
            found.insert(number, read(store, number).with_context(|| format!("g{number}"))?);
        }
    }
    Ok(found)
}

/// Reads the files of one generation.
pub fn read(store: &Store, number: u64) -> anyhow::Result<Files> {
    let reference = Reference::parse(format!("{DEPLOYMENT}@g{number}").as_bytes())?;
    let tree = store.tree(&reference)?;
    let mut files = Files::new();
    for member in &tree.members {
        for entry in store.entries(&member.artifact) {
            let entry: Entry = entry?;
            if let Some(content) = entry.content() {
                let mut bytes = Vec::new();
                store.write_content(content, &mut bytes)?;
                files.insert(String::from_utf8_lossy(&entry.path).into_owned(), bytes);
            }
        }
    }
    Ok(files)
}

/// A source that changes from generation to generation as services do: an image whose pages change
/// in places, a file that grows, files that come and go, and some that stay.
pub struct Source {
    path: PathBuf,
    generation: u64,
}

impl Source {
    /// Makes the first state of the source below `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("source");
        fs::create_dir_all(path.join("of"))?;
        fs::write(path.join("stays"), noise(1, 5000))?;
        fs::write(path.join("stable_memory.bin"), text(2, 200_000))?;
        let mut source = Self { path, generation: 0 };
        source.change()?;
        Ok(source)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Changes it to the next state.
    pub fn change(&mut self) -> anyhow::Result<()> {
        self.generation += 1;
        let number = self.generation;
        let image = self.path.join("stable_memory.bin");
        let mut bytes = fs::read(&image)?;
        for place in 0..2 {
            let at = (place * 90_000 + number as usize * 777) % (bytes.len() - 40);
            bytes[at..at + 40].copy_from_slice(&noise(number, 40));
        }
        fs::write(image, bytes)?;
        fs::write(self.path.join("grows"), text(5, 3000 + 500 * number as usize))?;
        fs::write(self.path.join(format!("of/{number}")), noise(100 + number, 8000))?;
        if number > 2 {
            fs::remove_file(self.path.join(format!("of/{}", number - 2)))?;
        }
        Ok(())
    }

    /// Reads it as it is now.
    pub fn files(&self) -> anyhow::Result<Files> {
        files(&self.path)
    }
}

/// Reads the files of a source, or of what was restored.
pub fn files(source: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for folder in [source.to_owned(), source.join("of")] {
        for item in fs::read_dir(folder)? {
            let path = item?.path();
            if path.is_file() {
                let name = path.strip_prefix(source)?.to_string_lossy().into_owned();
                files.insert(name, fs::read(&path)?);
            }
        }
    }
    Ok(files)
}

/// A folder in memory if there is one: what is tried there is tried faster.
pub fn fast_dir() -> PathBuf {
    let shared = PathBuf::from("/dev/shm");
    if shared.is_dir() { shared } else { std::env::temp_dir() }
}

/// A store of some generations, made by the command, and what it holds.
pub fn store(tool: &Tool, dir: &Path, generations: u64) -> anyhow::Result<(Source, Expected)> {
    let mut source = Source::new(dir)?;
    let store = dir.join("store");
    tool.must(&store, &["init".as_ref()])?;
    let mut expected = Expected::default();
    for number in 1..=generations {
        if number > 1 {
            source.change()?;
        }
        back_up(tool, &store, &source)?;
        expected.generations.insert(number, source.files()?);
        expected.acknowledged.insert(number);
    }
    Ok((source, expected))
}

/// Backs the source up; it must succeed.
pub fn back_up(tool: &Tool, store: &Path, source: &Source) -> anyhow::Result<()> {
    let [name, reread, deployment] = ["--name", "--reread", DEPLOYMENT].map(OsStr::new);
    let mut member = OsString::from(format!("{MEMBER}="));
    member.push(source.path());
    tool.must(store, &["backup".as_ref(), name, deployment, reread, &member])?;
    Ok(())
}

/// Opens a store in a directory.
pub fn open(path: &Path) -> anyhow::Result<Store> {
    Ok(Store::open(Arc::new(LocalBackend::open(path)?))?)
}

/// Compares without any accident, and looks whether a comparison can fail.
pub fn prove(tool: &Tool) -> anyhow::Result<Row> {
    let mut row = Row::new("no accident");
    let dir = tempfile::tempdir()?;
    let (_, expected) = store(tool, dir.path(), 3)?;
    let opened = open(&dir.path().join("store"))?;
    expected.check(&opened).into_iter().for_each(|wrong| row.found(wrong));
    row.tried(3, "generations");
    let mut lost = expected.clone();
    lost.acknowledged.insert(4);
    let mut other = expected.clone();
    other.generations.entry(2).or_default().insert("stays".to_owned(), Vec::new());
    for (wrong, what) in [(lost, "lost"), (other, "different")] {
        if wrong.check(&opened).is_empty() {
            row.found(format!("a {what} generation is not noticed"));
        }
    }
    Ok(row)
}

/// Bytes that look random and always are the same.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

/// Bytes that compress as text does.
pub fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = noise(seed, 2 * len.div_ceil(4).max(1));
    words
        .iter()
        .flat_map(|byte| {
            [b"abcd", b"ef, ", b"ghij", b"kl\n ", b"mnop", b"q rs", b"tuvw"][usize::from(byte % 7)]
        })
        .copied()
        .take(len)
        .collect()
}
