//! What a proof tried and found.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Most findings that are told.
const TOLD_MAX: usize = 20;

/// A row of the table.
pub struct Row {
    what: String,
    started: Instant,
    cases: Vec<(u64, String)>,
    findings: Vec<String>,
    findings_count: u64,
    skipped: Option<String>,
}

impl Row {
    /// Begins a row for one kind of accident.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            started: Instant::now(),
            cases: Vec::new(),
            findings: Vec::new(),
            findings_count: 0,
            skipped: None,
        }
    }

    /// Adds cases that were tried, such as `(5000, "kills")`. Those of one name are added up.
    pub fn tried(&mut self, count: u64, of: impl Into<String>) {
        let of = of.into();
        match self.cases.iter_mut().find(|(_, name)| *name == of) {
            Some((sum, _)) => *sum += count,
            None => self.cases.push((count, of)),
        }
    }

    /// Takes down something that was lost, wrong or worse.
    pub fn found(&mut self, finding: impl Into<String>) {
        self.findings_count += 1;
        if self.findings.len() < TOLD_MAX {
            let finding = finding.into();
            eprintln!("FOUND in {}: {finding}", self.what);
            self.findings.push(finding);
        }
    }

    /// Returns how many cases of one name were tried so far.
    pub fn count(&self, of: &str) -> u64 {
        self.cases.iter().find(|(_, name)| name == of).map_or(0, |(sum, _)| *sum)
    }

    /// Fails the proof if fewer cases of one name were tried than were promised.
    pub fn expect_at_least(&mut self, least: u64, of: &str) {
        let count = self.count(of);
        if count < least {
            self.found(format!("only {count} {of}, {least} were to be tried"));
        }
    }

    /// Says that it could not be tried here, and why.
    pub fn skip(mut self, why: impl Into<String>) -> Self {
        self.skipped = Some(why.into());
        self
    }

    /// Says whether everything was tried and nothing was found.
    pub fn is_proven(&self) -> bool {
        self.findings_count == 0
    }

    /// Prints the row, and appends it to the table.
    pub fn publish(&self, table: Option<&Path>) -> anyhow::Result<()> {
        let cases: Vec<_> =
            self.cases.iter().map(|(count, of)| format!("{} {of}", grouped(*count))).collect();
        let (tried, found) = match &self.skipped {
            Some(why) => (format!("SKIPPED: {why}"), "—".to_owned()),
            None => (cases.join(", "), self.findings_count.to_string()),
        };
        let seconds = self.started.elapsed().as_secs();
        let row = format!("| {} | {tried} | {found} | {seconds} s |", self.what);
        println!("{row}");
        if let Some(path) = table {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            writeln!(file, "{row}")?;
        }
        Ok(())
    }
}

fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
