//! Makes the workloads of the benchmark against peers, deterministically, into a directory.
//!
//! Every generation is a directory of its own, `gen1`, `gen2` and so on, with one directory per
//! member in it. The same arguments make the same bytes.

mod database;
mod heap;
mod memory;
mod random;
mod rng;
mod stats;
mod text;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

const USAGE: &str = "\
usage: peer-workloads WORKLOAD DIR [--scale small|full|NUMBER] [--generations N] [--seed N]
       peer-workloads stats DIR

WORKLOAD   memory    eight canisters' memory images, changed in place (5 generations)
           tree      many small files like source code, in versions (4)
           random    an incompressible file; 1% of its pages changed; an insertion (3)
           database  a SQLite file under updates (3)
stats      prints, as JSON, how much of each generation in DIR changed";

/// Scale of `--scale small`.
const SCALE_SMALL: f64 = 0.1;

/// What to make, and where.
pub struct Options {
    /// Directory that gets `gen1`, `gen2` and so on.
    pub dir: PathBuf,
    /// Size of the whole, 1.0 being full.
    pub scale: f64,
    /// How many generations.
    pub generations: u64,
    /// What all random numbers follow from.
    pub seed: u64,
}

type Make = fn(&Options) -> io::Result<()>;

/// Returns a workload's maker and its usual number of generations.
fn workload(name: &str) -> Option<(Make, u64)> {
    Some(match name {
        "memory" => (memory::make as Make, 5),
        "tree" => (tree::make as Make, 4),
        "random" => (random::make as Make, 3),
        "database" => (database::make as Make, 3),
        _ => return None,
    })
}

/// Parses the arguments that follow the workload's name; `None` means they make no sense.
fn parse(dir: &str, rest: &[String], generations: u64) -> Option<Options> {
    let mut options = Options { dir: dir.into(), scale: 1.0, generations, seed: 1 };
    let mut pairs = rest.chunks_exact(2);
    for pair in &mut pairs {
        let value = pair[1].as_str();
        match pair[0].as_str() {
            "--scale" => {
                options.scale = match value {
                    "full" => 1.0,
                    "small" => SCALE_SMALL,
                    number => number.parse().ok().filter(|scale| *scale > 0.0)?,
                }
            }
            "--generations" => options.generations = value.parse().ok().filter(|n| *n > 0)?,
            "--seed" => options.seed = value.parse().ok()?,
            _ => return None,
        }
    }
    pairs.remainder().is_empty().then_some(options)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.as_slice() {
        [name, dir] if name == "stats" => stats::print(Path::new(dir)),
        [name, dir, rest @ ..] => {
            let Some((make, options)) = workload(name)
                .and_then(|(make, generations)| Some((make, parse(dir, rest, generations)?)))
            else {
                eprintln!("{USAGE}");
                return ExitCode::from(2);
            };
            make(&options)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer-workloads: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the directory of a generation.
pub fn generation_dir(options: &Options, generation: u64) -> PathBuf {
    options.dir.join(format!("gen{generation}"))
}

/// Writes a file and the directories above it.
pub fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().expect("a path below the workload's directory");
    fs::create_dir_all(parent)?;
    fs::write(path, bytes)
}
