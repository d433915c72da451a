//! `verify`: checks that what is stored is whole.

use std::io::{self, Write};

use serde::Serialize;

use super::split_name;
use crate::cli::args::{ReadValue, Verify, parse_read_value};
use crate::cli::context::Context;
use crate::cli::errors::{Failure, printed};
use crate::cli::exit::Exit;
use crate::cli::json;
use crate::cli::output::{self, note, printable};
use crate::cli::progress::Job;
use crate::store::{Affected, Damage, Error, Reference, Scope, VerifyReport};

#[derive(Serialize)]
struct Report<'r> {
    scope: &'static str,
    share: Option<f64>,
    generations: u64,
    objects_checked: u64,
    chunks_checked: u64,
    bytes_read: u64,
    seconds: f64,
    damaged: Vec<DamageFields<'r>>,
    unreadable: Vec<UnreadableFields<'r>>,
}

#[derive(Serialize)]
struct DamageFields<'r> {
    object: &'r str,
    kind: &'static str,
    reason: &'r str,
    affects: Vec<AffectedFields<'r>>,
    affects_more: u64,
}

#[derive(Serialize)]
struct AffectedFields<'r> {
    deployment: &'r str,
    generation: Option<u64>,
    path: &'r str,
}

#[derive(Serialize)]
struct UnreadableFields<'r> {
    object: &'r str,
    reason: &'r str,
}

/// Runs the command.
///
/// # Errors
/// A reference does not resolve, or the work was interrupted.
pub fn run(args: &Verify, context: &Context) -> Result<Exit, Failure> {
    let (scope, references) = scope_of(args)?;
    let store = context.open()?;
    let job = Job::start("verify", context.progress)?;
    let result = store.verify(scope, &references, &job.progress);
    let seconds = job.finish();
    let report = result.map_err(|error| match error {
        Error::Interrupted => {
            Failure::interrupted("verify: interrupted; nothing was found out about the rest")
        }
        error => Failure::store(context, "verify", error),
    })?;
    let result = output::stdout().and_then(|mut out| {
        if context.json {
            return json::print(&mut out, "verify", &json_report(scope, &report, seconds));
        }
        write_findings(&mut out, &report)?;
        if context.summary() {
            writeln!(out, "{}", summary(&report, seconds))?;
        }
        out.flush()
    });
    if !report.damaged.is_empty() && scope != Scope::Full {
        let full = context.command("verify --full");
        note(&format!("  hint: `{full}` finds every damaged chunk and all that it touches"));
    }
    printed(exit_of(&report), result)
}

/// Returns what is to be checked: the word after `--read` may be the first reference.
fn scope_of(args: &Verify) -> Result<(Scope, Vec<Reference>), Failure> {
    let mut references = args.references.clone();
    let scope = match &args.read {
        _ if args.structure => Scope::Structure,
        _ if args.full => Scope::Full,
        None | Some(None) => Scope::Read(1.0),
        Some(Some(word)) => match parse_read_value(word) {
            Ok(ReadValue::Share(share)) => Scope::Read(share),
            Ok(ReadValue::Reference(reference)) => {
                references.insert(0, reference);
                Scope::Read(1.0)
            }
            Err(invalid) => {
                let word = word.to_string_lossy();
                return Err(Failure::usage(format!("--read {word}: {invalid}")));
            }
        },
    };
    Ok((scope, references))
}

fn exit_of(report: &VerifyReport) -> Exit {
    if !report.damaged.is_empty() {
        Exit::DAMAGE
    } else if report.unreadable.is_empty() {
        Exit::DONE
    } else {
        Exit::FAILED
    }
}

fn json_report(scope: Scope, report: &VerifyReport, seconds: f64) -> Report<'_> {
    let (scope, share) = match scope {
        Scope::Structure => ("structure", None),
        Scope::Read(share) => ("read", Some(share)),
        Scope::Full => ("full", None),
    };
    Report {
        scope,
        share,
        generations: report.generations,
        objects_checked: report.objects_checked,
        chunks_checked: report.chunks_checked,
        bytes_read: report.bytes_read,
        seconds,
        damaged: report.damaged.iter().map(damage_fields).collect(),
        unreadable: report
            .unreadable
            .iter()
            .map(|found| UnreadableFields { object: &found.object, reason: &found.reason })
            .collect(),
    }
}

fn damage_fields(damage: &Damage) -> DamageFields<'_> {
    DamageFields {
        object: &damage.object,
        kind: damage.kind.name(),
        reason: &damage.reason,
        affects: damage.affects.iter().map(affected_fields).collect(),
        affects_more: damage.affects_more,
    }
}

fn affected_fields(affected: &Affected) -> AffectedFields<'_> {
    let (deployment, generation) = split_name(&affected.generation);
    AffectedFields { deployment, generation, path: &affected.path }
}

fn write_findings(out: &mut dyn Write, report: &VerifyReport) -> io::Result<()> {
    /// Paths shown for one damage.
    const SHOWN: usize = 10;
    for damage in &report.damaged {
        let Damage { object, reason, affects, .. } = damage;
        let kind = damage.kind.name();
        writeln!(out, "damaged {kind}: {}: {}", printable(object), printable(reason))?;
        for Affected { generation, path } in affects.iter().take(SHOWN) {
            let colon = if path.is_empty() { "" } else { ":" };
            writeln!(out, "  touches {generation}{colon}{}", printable(path))?;
        }
        let hidden = affects.len().saturating_sub(SHOWN) as u64;
        let more = hidden.saturating_add(damage.affects_more);
        if more > 0 {
            writeln!(out, "  and {} more", output::count(more))?;
        }
    }
    for found in &report.unreadable {
        let (object, reason) = (printable(&found.object), printable(&found.reason));
        writeln!(out, "cannot be read: {object}: {reason}")?;
    }
    Ok(())
}

fn summary(report: &VerifyReport, seconds: f64) -> String {
    let result = match (report.damaged.len() as u64, report.unreadable.len() as u64) {
        (0, 0) => "no damage found".to_owned(),
        (0, unreadable) => format!("{} could not be read", output::count(unreadable)),
        (damaged, 0) => format!("{} DAMAGED", output::count(damaged)),
        (damaged, unreadable) => format!(
            "{} DAMAGED, {} could not be read",
            output::count(damaged),
            output::count(unreadable)
        ),
    };
    format!(
        "{}: {}, {} read, {} decoded, in {}; {result}",
        output::counted(report.generations, "generation", "generations"),
        output::counted(report.objects_checked, "object", "objects"),
        output::bytes(report.bytes_read),
        output::counted(report.chunks_checked, "chunk", "chunks"),
        output::seconds(seconds),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Args, Command};
    use crate::store::{DamageKind, Unreadable};
    use clap::Parser;

    fn parsed(line: &str) -> Result<(Scope, Vec<Reference>), Failure> {
        let words = format!("strongroom verify {line}");
        let args = Args::try_parse_from(words.split_whitespace()).unwrap();
        let Command::Verify(args) = args.command else { panic!() };
        scope_of(&args)
    }

    #[test]
    fn a_share_may_be_left_out_before_a_reference() {
        for (line, scope, references) in [
            ("", Scope::Read(1.0), 0),
            ("--read", Scope::Read(1.0), 0),
            ("--read 10%", Scope::Read(0.1), 0),
            ("--read=0.5 orders", Scope::Read(0.5), 1),
            ("--read orders@g3 api", Scope::Read(1.0), 2),
            ("orders --read", Scope::Read(1.0), 1),
            ("--structure orders", Scope::Structure, 1),
            ("--full", Scope::Full, 0),
        ] {
            let (parsed, found) = parsed(line).unwrap();
            assert_eq!((parsed, found.len()), (scope, references), "{line}");
        }
        assert_eq!(parsed("--read 200%").unwrap_err().exit(), Exit::USAGE);
    }

    #[test]
    fn findings_are_told_with_what_they_touch() {
        let affected = |n| Affected { generation: "orders@g3".into(), path: format!("api/{n}") };
        let report = VerifyReport {
            damaged: vec![Damage {
                object: "packs/77".into(),
                kind: DamageKind::Pack,
                reason: "missing".into(),
                affects: (0..12).map(affected).collect(),
                affects_more: 5,
            }],
            unreadable: vec![Unreadable { object: "packs/78".into(), reason: "refused".into() }],
            ..VerifyReport::default()
        };
        let mut out = Vec::new();
        write_findings(&mut out, &report).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("damaged pack: packs/77: missing\n  touches orders@g3:api/0\n"));
        assert!(text.ends_with("  and 7 more\ncannot be read: packs/78: refused\n"), "{text}");
        assert_eq!(exit_of(&report), Exit::DAMAGE);
        let unreadable = VerifyReport { damaged: Vec::new(), ..report };
        assert_eq!(exit_of(&unreadable), Exit::FAILED);
    }
}
