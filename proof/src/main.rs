//! Proves that a store keeps what it promises, with the real command and the real library: each
//! subcommand tries one kind of accident many times, and ends with 1 if one of them lost anything.
//!
//! | module | what |
//! |---|---|
//! | `crashes` | everything that a power cut may leave behind, simulated |
//! | `changes` | which system calls change what is on disk |
//! | `faults` | system calls that fail, full disks, disks that become read-only |
//! | `kills` | the command killed at every system call |
//! | `parallel` | many cases at once |
//! | `tracer` | a command whose system calls are seen, fail, or are its last |
//! | `stage` | a store before some work, and what must be there after an accident of it |
//! | `scene` | a small store with everything in it, and what it must hold |
//! | `tool` | the command, run as people run it |
//! | `fuzzing` | inputs that are changed and decoded; what is tried is the library of this package |
//! | `corpus` | the inputs that fuzzing begins with |
//! | `report` | what was tried and found, a row of a table each |
//! | `truth`, `chance`, `volume` | what several deployments must hold; moments; file systems to cut off |
//! | `power_cuts` | file systems lose their power |
//! | `processes`, `meetings` | many processes on one store, killed and stopped |
//! | `marks` | the memory that the plan of a prune takes |
//! | `damage`, `sample` | every bit of a small store with every kind of object |

mod chance;
mod changes;
mod corpus;
mod crashes;
mod damage;
mod faults;
mod fuzzing;
mod kills;
mod marks;
mod meetings;
mod parallel;
mod power_cuts;
mod processes;
mod report;
mod sample;
mod scene;
mod stage;
mod tool;
mod tracer;
mod truth;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use peak_alloc::PeakAlloc;

use report::Row;
use tool::Tool;

/// Counts what is allocated, for `fuzz`.
#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Tries accidents on a store, and says what they did.
#[derive(Parser)]
struct Args {
    /// The command to be tried.
    #[arg(long, global = true, default_value = "target/release/strongroom")]
    strongroom: PathBuf,
    /// A file to which the row of the table is appended.
    #[arg(long, global = true)]
    table: Option<PathBuf>,
    #[command(subcommand)]
    proof: Proof,
}

#[derive(Subcommand)]
enum Proof {
    /// Backs up, reads and compares without any accident, and sees what is made wrong on purpose.
    Scene,
    /// Builds what power cuts may leave behind, and recovers from each.
    Crashes {
        /// About how many.
        #[arg(long, default_value_t = 200_000)]
        states: u64,
    },
    /// Lets every system call that changes something fail in every way.
    Faults {
        /// Only every so manyth call.
        #[arg(long, default_value_t = 1)]
        step: u64,
    },
    /// Kills the command at every system call of a backup, a prune and a restore.
    Kills {
        /// How many at least; at all if that is less.
        #[arg(long, default_value_t = 5000)]
        kills: u64,
    },
    /// Cuts the power of file systems in the middle of backups, runs and prunes (as root).
    PowerCuts {
        /// How often.
        #[arg(long, default_value_t = 300)]
        cuts: u64,
        /// Repeats the moments of a proof; how far each command was then is another matter.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Decodes changed inputs of every kind, and builds and damages stores as inputs say.
    Fuzz(fuzzing::Options),
    /// Plans a prune of a store with very many chunks, and measures its memory.
    Marks {
        /// How many.
        #[arg(long, default_value_t = 10_000_000)]
        references: u64,
    },
    /// Flips every bit of a small store, cuts, zeroes, loses and swaps.
    Damage {
        /// Only every so manyth bit and length.
        #[arg(long, default_value_t = 1)]
        step: usize,
    },
    /// Lets writers, prunes, verifications and restores work on one store, and kills them.
    Processes {
        /// How long.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// How often a writer is stopped while a prune passes, and how often two writers meet.
        #[arg(long, default_value_t = 50)]
        rounds: u64,
        /// Repeats what chance decided; not what the processes made of it.
        #[arg(long)]
        seed: Option<u64>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = run(&args);
    match result.and_then(|row| row.publish(args.table.as_deref()).map(|()| row)) {
        Ok(row) if row.is_proven() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<Row> {
    if let Proof::Fuzz(options) = &args.proof
        && !options.write_corpus
    {
        return fuzzing::prove(options, &MEMORY);
    }
    let tool = Tool::new(&args.strongroom)?;
    match args.proof {
        Proof::Scene => scene::prove(&tool),
        Proof::Crashes { states } => crashes::prove(&tool, states),
        Proof::Faults { step } => faults::prove(&tool, step),
        Proof::Kills { kills } => kills::prove(&tool, kills),
        Proof::Marks { references } => marks::prove(&tool, references),
        Proof::Damage { step } => damage::prove(step),
        Proof::Processes { seconds, rounds, seed } => {
            processes::prove(&tool, seconds, rounds, seed)
        }
        Proof::PowerCuts { cuts, seed } => power_cuts::prove(&tool, cuts, seed),
        Proof::Fuzz(ref options) => corpus::write(&tool, options.corpus()),
    }
}
