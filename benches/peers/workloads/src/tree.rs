//! Many small files like the source of packages, in consecutive versions.
//!
//! A file is a list of line numbers, and a line's text follows from its number alone: a version is
//! made by changing, inserting and removing numbers.

use crate::rng::Rng;
use crate::{Options, generation_dir, text, write_file};
use std::io;

/// Packages, each a member.
const PACKAGE_COUNT: u64 = 10;
/// Files of all packages at full scale.
const FILES_FULL: f64 = 75_000.0;
/// Share of the files that a version edits, removes, adds and renames.
const EDITED_SHARE: f64 = 0.15;
const REMOVED_SHARE: f64 = 0.02;
const ADDED_SHARE: f64 = 0.03;
const RENAMED_SHARE: f64 = 0.01;

/// Names of directories below a package's top.
const DIRECTORIES: [&str; 10] =
    ["core", "util", "internal", "locale", "icons", "codec", "theme", "query", "hooks", "node"];

/// One file: where it lies in its package, and its lines.
struct SourceFile {
    path: String,
    lines: Vec<u64>,
}

/// Writes all generations of all packages.
pub fn make(options: &Options) -> io::Result<()> {
    let files = ((FILES_FULL * options.scale) as u64 / PACKAGE_COUNT).max(8);
    for package in 0..PACKAGE_COUNT {
        let rng = &mut Rng::of(&[options.seed, package]);
        let name = format!("{}-{package}", text::word(rng));
        let mut tree: Vec<_> = (0..files).map(|_| new_file(rng)).collect();
        for generation in 1..=options.generations {
            if generation > 1 {
                step(&mut tree, &mut Rng::of(&[options.seed, package, generation]));
            }
            let dir = generation_dir(options, generation).join(&name);
            let about =
                format!("{{\n  \"name\": \"{name}\",\n  \"version\": \"1.{generation}.0\"\n}}\n");
            write_file(&dir.join("package.json"), about.as_bytes())?;
            for file in &tree {
                write_file(&dir.join(&file.path), render(file).as_bytes())?;
            }
        }
    }
    Ok(())
}

fn render(file: &SourceFile) -> String {
    let mut out = String::new();
    for line in &file.lines {
        text::source_line(*line, &mut out);
    }
    out
}

/// Makes a file; sizes are skewed as in packages: most files small, a few large.
fn new_file(rng: &mut Rng) -> SourceFile {
    let path = new_path(rng);
    let skew = rng.unit() * rng.unit() * 5.6;
    let lines = (3.2 * skew.exp() * skew.max(1.0)) as usize + 4;
    SourceFile { path, lines: (0..lines).map(|_| rng.word()).collect() }
}

/// Makes a path no other file has.
fn new_path(rng: &mut Rng) -> String {
    let mut path = String::from(["lib", "src", "esm", "types"][rng.index(4)]);
    for _ in 0..rng.below(3) {
        path.push('/');
        path.push_str(DIRECTORIES[rng.index(DIRECTORIES.len())]);
    }
    let extension = ["js", "d.ts", "js.map", "mjs"][rng.index(4)];
    let (name, unique) = (text::identifier(rng), rng.word() >> 40);
    format!("{path}/{name}-{unique:06x}.{extension}")
}

/// Makes the next version of a package.
fn step(tree: &mut Vec<SourceFile>, rng: &mut Rng) {
    let added = (tree.len() as f64 * ADDED_SHARE) as u64;
    tree.retain(|_| !rng.chance(REMOVED_SHARE));
    for file in tree.iter_mut() {
        if rng.chance(RENAMED_SHARE) {
            file.path = new_path(rng);
        }
        if rng.chance(EDITED_SHARE) {
            for _ in 0..=rng.below(6) {
                edit(&mut file.lines, rng);
            }
        }
    }
    tree.extend((0..added).map(|_| new_file(rng)));
}

/// Changes, inserts or removes a few lines at one place.
fn edit(lines: &mut Vec<u64>, rng: &mut Rng) {
    let at = rng.index(lines.len());
    match rng.below(4) {
        0 | 1 => lines[at] = rng.word(),
        2 => {
            let new: Vec<_> = (0..=rng.below(5)).map(|_| rng.word()).collect();
            lines.splice(at..at, new);
        }
        _ if lines.len() > 4 => {
            lines.remove(at);
        }
        _ => lines.push(rng.word()),
    }
}
