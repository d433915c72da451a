//! The house rules that a compiler does not hold: which module uses which, how long files and
//! functions are, and what stands only where it may.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module with the others that its code (tests apart) may name by a `crate::` path.
const LAYERS: [(&str, &[&str]); 18] = [
    ("digest", &["limits"]),
    ("limits", &[]),
    ("clock", &[]),
    ("values", &["limits"]),
    ("chunker", L0),
    ("codec", L0),
    ("format", L0),
    ("backend", L0),
    ("fstree", L0),
    ("pack", L1),
    (
        "index",
        &[
            "digest", "limits", "clock", "values", "chunker", "codec", "format", "backend",
            "fstree", "pack",
        ],
    ),
    ("log", L1),
    ("lease", L1),
    (
        "store",
        &[
            "digest", "limits", "clock", "values", "chunker", "codec", "format", "backend",
            "fstree", "pack", "index", "log", "lease",
        ],
    ),
    ("run", L3),
    ("interchange", L4),
    (
        "cli",
        &[
            "run",
            "interchange",
            "store",
            "digest",
            "values",
            "backend",
            "log",
            "lease",
            "fstree",
            "clock",
            "limits",
        ],
    ),
    ("main", &[]),
];
const L0: &[&str] = &["digest", "limits", "clock", "values"];
const L1: &[&str] =
    &["digest", "limits", "clock", "values", "chunker", "codec", "format", "backend", "fstree"];

const L3: &[&str] = &[
    "digest", "limits", "clock", "values", "format", "backend", "fstree", "log", "lease", "store",
];

const L4: &[&str] = &[
    "digest", "limits", "clock", "values", "format", "backend", "fstree", "log", "lease", "store",
    "run",
];

const FILE_LINES_MAX: usize = 600;
const FN_LINES_MAX: usize = 70;

/// A source file: its path from the root of the project, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Returns the lines that are neither a test nor only a comment.
    fn code(&self) -> String {
        let is_test = self.path.contains("/tests/") || self.path.contains("/conformance");
        if is_test { String::new() } else { without_tests(&self.text) }
    }

    fn is_below(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root.join(folder)).collect();
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for item in fs::read_dir(&folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 3, "only {} sources in {folders:?}", found.len());
    found
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// Leaves out what `#[cfg(test)]` stands before, and lines of comment.
fn without_tests(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let mut item = lines.by_ref().skip_while(|next| next.trim().starts_with("#["));
            let Some(first) = item.next() else { break };
            if !first.ends_with(';') && !first.ends_with('}') {
                let end = format!("{}}}", " ".repeat(indent(first)));
                lines.by_ref().take_while(|next| !next.starts_with(&end)).for_each(drop);
            }
        } else if !line.trim().starts_with("//") {
            code.push_str(line);
            code.push('\n');
        }
    }
    code
}

/// Returns the modules that `crate::x` and `crate::{x, y::z}` name.
fn modules_named(code: &str) -> Vec<String> {
    let word = |text: &str| {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        text[..end].to_owned()
    };
    let mut named = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            named.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                ',' | '}' if depth == 0 => {
                    named.push(word(group[start..at].trim_start()));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                '}' => depth -= 1,
                _ => {}
            }
        }
    }
    named.retain(|name| !name.is_empty());
    named
}

/// Returns the functions of a formatted source, with the lines that each has.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let is_fn = |line: &str| {
        let words = line.split_whitespace().take_while(|word| *word != "fn");
        let before = |word: &str| {
            matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"")
                || word.starts_with("pub")
        };
        line.split_whitespace().any(|word| word == "fn") && words.into_iter().all(before)
    };
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| is_fn(line)) {
        let end = format!("{}}}", " ".repeat(indent(line)));
        let mut has_body = false;
        for (last, next) in lines.iter().enumerate().skip(number) {
            let in_one_line = last == number && next.ends_with('}');
            if in_one_line || next.starts_with(&end) || (!has_body && next.ends_with(';')) {
                found.push((line.trim().to_owned(), last - number + 1));
                break;
            }
            has_body |= next.ends_with('{');
        }
    }
    found
}

/// Returns every line of code, tests apart, for which `is_wrong` holds.
fn wrong_lines(sources: &[Source], is_wrong: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for source in sources {
        for line in source.code().lines().filter(|line| is_wrong(source, line)) {
            wrong.push(format!("{}: {}", source.path, line.trim()));
        }
    }
    wrong
}

#[test]
fn modules_use_lower_layers_only() {
    let mut wrong = Vec::new();
    for source in sources(&["src"]).iter().filter(|source| source.path != "src/lib.rs") {
        let module = source.path["src/".len()..].split(['/', '.']).next().unwrap();
        let allowed = LAYERS.iter().find(|(name, _)| *name == module);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{module} has no layer in this test"));
        for named in modules_named(&source.code()) {
            if named != module && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{} uses {named}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_module_of_the_library_has_a_layer_and_stands_in_its_table() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod "));
    let mut declared: Vec<_> = declared.map(|name| name.trim_end_matches(';')).collect();
    let mut layered: Vec<_> = LAYERS.iter().map(|(name, _)| *name).collect();
    layered.retain(|name| *name != "main");
    declared.sort_unstable();
    layered.sort_unstable();
    assert_eq!(declared, layered);
    let table: String = lib.lines().filter(|line| line.starts_with("//! | L")).collect();
    for name in layered {
        let shown = [format!("`{name}`"), format!("`mod@{name}`")];
        assert!(shown.iter().any(|name| table.contains(name)), "{name} is not in the table");
    }
}

#[test]
fn files_and_functions_stay_short_enough_to_be_read() {
    let mut wrong = Vec::new();
    for source in sources(&["src", "tests", "proof/src", "benches/components", "examples"]) {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines", source.path));
        }
        for (name, lines) in functions(&source.text) {
            if lines > FN_LINES_MAX {
                wrong.push(format!("{}: {lines} lines: {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_to_do_and_nothing_panics_on_a_whim() {
    let unfinished = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let is_left = |line: &str| unfinished.iter().any(|needle| line.contains(needle));
    for source in sources(&["src", "tests", "proof/src", "benches/components", "examples"]) {
        let left: Vec<_> = source.text.lines().filter(|line| is_left(line)).collect();
        assert!(left.is_empty(), "{}: {left:?}", source.path);
    }
    let unwraps = wrong_lines(&sources(&["src"]), |_, line| line.contains(".unwrap()"));
    assert!(unwraps.is_empty(), "{unwraps:#?}");
}

#[test]
fn only_the_local_backend_is_unsafe() {
    let is_unsafe = |line: &str| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
    };
    let wrong = wrong_lines(&sources(&["src"]), |source, line| {
        is_unsafe(line) && !source.is_below(&["src/backend/local"])
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn only_what_owns_files_touches_file_systems() {
    /// Their own work.
    const FREE: [&str; 6] = [
        "src/backend/local",
        "src/fstree",
        "src/cli",
        "src/run/staging",
        "src/run/executor",
        "src/interchange",
    ];
    /// They read and write files that `fstree` has opened.
    const HANDLES: [&str; 3] = ["src/store/ingest", "src/store/restore", "src/store/checksum.rs"];
    let wrong = wrong_lines(&sources(&["src"]), |source, line| {
        if source.is_below(&FREE) {
            return false;
        }
        let handle = source.is_below(&HANDLES);
        let other = line.replace("std::fs::File", "").contains("std::fs");
        let opens = ["File::open", "File::create", "File::options", "OpenOptions"];
        let opens = opens.iter().any(|call| line.contains(call));
        other || opens || (line.contains("std::fs::File") && !handle)
    });
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn these_rules_see_what_breaks_them() {
    let text = "use crate::{a, b::{self, c}, d};\n// crate::hidden\nfn f() { crate::e::g() }\n\
        #[cfg(test)]\nmod tests {\n    use crate::hidden;\n}\n#[cfg(test)]\nmod more;\nuse crate::z;\n";
    let code = without_tests(text);
    assert_eq!(modules_named(&code), ["a", "b", "d", "e", "z"]);
    let text = "pub fn one() {}\n    pub(super) const fn two(\n        a: u8,\n    ) -> u8\n    where\n    \
        {\n        a\n    }\ntrait T {\n    fn three(&self);\n}\nlet fn_name = 1;\n";
    let lines: Vec<_> = functions(text).into_iter().map(|(_, lines)| lines).collect();
    assert_eq!(lines, [1, 7, 1]);
}
