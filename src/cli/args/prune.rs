//! Arguments of `prune`, `pin`, `unpin` and `undo`.

use jiff::{Span, SpanRelativeTo};

use super::{Invalid, parse_bytes, parse_deployment, parse_reference, reference};
use crate::store::{GenerationName, Reference, Which};

/// Arguments of `prune`.
#[derive(Debug, clap::Args)]
pub struct Prune {
    /// Only these deployments [default: all]
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub deployments: Vec<String>,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    pub apply: bool,
    /// Keep the newest N generations
    #[arg(long, value_name = "N", help_heading = "What to keep of each deployment")]
    pub keep_last: Option<u32>,
    /// Keep the newest generation of each of the last N days that have one
    #[arg(long, value_name = "N", help_heading = "What to keep of each deployment")]
    pub keep_daily: Option<u32>,
    /// Keep the newest generation of each of the last N weeks that have one
    #[arg(long, value_name = "N", help_heading = "What to keep of each deployment")]
    pub keep_weekly: Option<u32>,
    /// Keep the newest generation of each of the last N months that have one
    #[arg(long, value_name = "N", help_heading = "What to keep of each deployment")]
    pub keep_monthly: Option<u32>,
    /// Keep the newest generation of each of the last N years that have one
    #[arg(long, value_name = "N", help_heading = "What to keep of each deployment")]
    pub keep_yearly: Option<u32>,
    /// Keep everything that was made within this span before the newest, such as 30d or 1y6mo
    #[arg(
        long,
        value_name = "SPAN",
        value_parser = parse_span,
        help_heading = "What to keep of each deployment"
    )]
    pub keep_within: Option<Span>,
    /// Where days begin, such as Europe/Zurich [default: the system's]
    #[arg(long, value_name = "NAME", help_heading = "What to keep of each deployment")]
    pub time_zone: Option<String>,
    /// Forget this generation, whatever is to be kept; may be repeated
    #[arg(long, value_name = "NAME@gN", value_parser = parse_generation)]
    pub forget: Vec<GenerationName>,
    /// Forget nothing, only remove what was forgotten before
    #[arg(long, conflicts_with_all = ["keep_last", "keep_daily", "keep_weekly", "keep_monthly",
        "keep_yearly", "keep_within", "forget"])]
    pub collect_only: bool,
    /// How long what nothing needs stays all the same, so that `undo` can bring it back
    #[arg(long, value_name = "SPAN", value_parser = parse_grace, default_value = "24h")]
    pub grace: i64,
    /// Copy at most so many bytes out of packs that are mostly unused
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "4G")]
    pub max_rewrite: u64,
    /// Go on although the commit log is damaged
    #[arg(long)]
    pub accept_damaged_log: bool,
}

/// Arguments of `pin` and `unpin`.
#[derive(Debug, clap::Args)]
pub struct Pin {
    /// The generation
    #[arg(value_name = "REF", value_parser = reference())]
    pub reference: Reference,
}

/// Arguments of `undo`.
#[derive(Debug, clap::Args)]
pub struct Undo {
    /// The generations [default: all that the last prune has forgotten]
    #[arg(value_name = "NAME@gN", value_parser = parse_generation)]
    pub generations: Vec<GenerationName>,
}

/// Parses the name of a generation, with its number.
fn parse_generation(text: &str) -> Result<GenerationName, Invalid> {
    match parse_reference(text.as_ref())? {
        Reference { deployment, which: Which::Number(generation), path: None } => {
            Ok(GenerationName { deployment, generation })
        }
        _ => Err(Invalid("a generation is named by its number, such as orders@g3".to_owned())),
    }
}

fn parse_span(text: &str) -> Result<Span, Invalid> {
    let span: Span = text.parse().map_err(|error: jiff::Error| Invalid(error.to_string()))?;
    if span.is_negative() || span.is_zero() {
        return Err(Invalid("a span of time is needed, such as 30d".to_owned()));
    }
    Ok(span)
}

/// Parses a grace period, in nanoseconds; `0` is none.
fn parse_grace(text: &str) -> Result<i64, Invalid> {
    if text == "0" {
        return Ok(0);
    }
    let needed = || Invalid("a span of time is needed, such as 24h or 7d, or 0".to_owned());
    let span: Span = text.parse().map_err(|_| needed())?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| needed())?;
    i64::try_from(duration.as_nanos()).ok().filter(|nanos| *nanos >= 0).ok_or_else(needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_generations_are_read_as_people_write_them() {
        assert_eq!(parse_grace("0").unwrap(), 0);
        assert_eq!(parse_grace("24h").unwrap(), crate::store::GRACE_NANOS);
        assert_eq!(parse_grace("2 days").unwrap(), 2 * crate::store::GRACE_NANOS);
        assert_eq!(parse_grace("90m").unwrap(), 5_400_000_000_000);
        for bad in ["", "24", "-1h", "1y", "soon"] {
            assert!(parse_grace(bad).is_err(), "{bad}");
        }
        assert!(parse_span("1y6mo").is_ok() && parse_span("30d").is_ok());
        assert!(parse_span("0d").is_err() && parse_span("-3d").is_err());
        assert_eq!(parse_generation("orders@g3").unwrap().to_string(), "orders@g3");
        for bad in ["orders", "orders@latest", "orders@g3:api", "@g1"] {
            assert!(parse_generation(bad).is_err(), "{bad}");
        }
    }
}
