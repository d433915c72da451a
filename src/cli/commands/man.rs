//! `man`: the manual, made from the same definition as the help.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man as Page;
use serde::Serialize;

use crate::cli::args::{Args, Man};
use crate::cli::context::Context;
use crate::cli::errors::Failure;
use crate::cli::exit::Exit;
use crate::cli::{json, output};

#[derive(Serialize)]
struct Report {
    pages: Vec<PageFields>,
}

#[derive(Serialize)]
struct PageFields {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    roff: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// The directory cannot be written to, or standard output failed.
pub fn run(args: &Man, context: &Context) -> Result<Exit, Failure> {
    let mut fields = Vec::new();
    let mut out = output::stdout()?;
    for page in pages() {
        let (name, mut roff) = (page.get_filename(), Vec::new());
        page.render(&mut roff)?;
        if let Some(dir) = &args.to {
            let file = write_page(dir, &name, &roff)
                .map_err(|error| Failure::failed(format!("write {}: {error}", dir.display())))?;
            fields.push(PageFields { name, file: Some(file), roff: None });
        } else if context.json {
            let roff = String::from_utf8_lossy(&roff).into_owned();
            fields.push(PageFields { name, file: None, roff: Some(roff) });
        } else {
            out.write_all(&roff)?;
        }
    }
    if context.json {
        json::print(&mut out, "man", &Report { pages: fields })?;
    }
    out.flush()?;
    Ok(Exit::DONE)
}

/// Returns the page of the command as a whole, and one for each command.
fn pages() -> Vec<Page> {
    let mut whole = Args::command();
    whole.build();
    let version = whole.get_version().unwrap_or_default().to_owned();
    let page = |command: clap::Command| {
        Page::new(command).source(format!("strongroom {version}")).manual("Strongroom")
    };
    let mut pages = vec![page(whole.clone())];
    let shown = |command: &clap::Command| {
        let commands = command.get_subcommands().filter(|command| !command.is_hide_set());
        commands.cloned().collect::<Vec<_>>()
    };
    for command in shown(&whole) {
        let below = shown(&command);
        pages.push(page(command));
        pages.extend(below.into_iter().map(page));
    }
    pages
}

fn write_page(dir: &Path, name: &str, roff: &[u8]) -> io::Result<String> {
    std::fs::create_dir_all(dir)?;
    let file = dir.join(name);
    std::fs::write(&file, roff)?;
    Ok(file.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let names: Vec<_> = pages().iter().map(Page::get_filename).collect();
        assert_eq!(names[0], "strongroom.1");
        for command in ["backup", "restore", "verify", "import", "import-canic", "man"] {
            assert!(names.contains(&format!("strongroom-{command}.1")), "{names:?}");
        }
    }

    #[test]
    fn pages_are_written_into_a_new_directory() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("man1");
        let file = write_page(&to, "a.1", b".TH").unwrap();
        assert_eq!(std::fs::read(file).unwrap(), b".TH");
    }
}
