//! Arguments with placeholders. A placeholder is replaced inside its argument: a value never
//! becomes two arguments, and never an option where a value was meant.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::config::ConfigError;
use crate::run::inventory::Row;

/// What the placeholders of one call stand for.
pub struct Values<'a> {
    pub member: Option<&'a Row>,
    pub snapshot: Option<&'a str>,
    pub dir: Option<&'a Path>,
    pub environment: &'a str,
    pub variables: Option<&'a BTreeMap<String, String>>,
}

/// The placeholders that a step may use.
pub struct Known<'a> {
    /// The step, for errors.
    pub step: &'static str,
    /// Those that every configuration has.
    pub builtin: &'static [&'static str],
    /// Variables of members.
    pub variables: &'a BTreeSet<&'a str>,
}

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Placeholder(String),
}

impl Template {
    /// Reads an argument: `{name}` is a placeholder, `{{` and `}}` are braces.
    pub fn parse(text: &str, known: &Known) -> Result<Self, ConfigError> {
        let wrong =
            |reason| ConfigError::Argument { step: known.step, argument: text.to_owned(), reason };
        if text.contains('\0') {
            return Err(wrong("it holds a NUL character"));
        }
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let doubled = [("{{", '{'), ("}}", '}')];
            let doubled = doubled.iter().find(|(two, _)| rest[at..].starts_with(two));
            if let Some((_, one)) = doubled {
                plain.push(*one);
                rest = &rest[at + 2..];
                continue;
            }
            let name = rest[at..].strip_prefix('{').and_then(|name| name.split_once('}'));
            let Some((name, after)) = name else {
                return Err(wrong("a brace stands alone; write '{{' or '}}' for a brace"));
            };
            if !known.builtin.contains(&name) && !known.variables.contains(name) {
                return Err(known.unknown(name));
            }
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Placeholder(name.to_owned()));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// Says whether the argument is always the same.
    pub fn is_fixed(&self) -> bool {
        !self.parts.iter().any(|part| matches!(part, Part::Placeholder(_)))
    }

    /// Says whether the argument uses a placeholder.
    pub fn uses(&self, name: &str) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Placeholder(used) if used == name))
    }

    /// Puts values in place.
    ///
    /// # Errors
    /// A value that is not there, is empty or holds a NUL character; one at the beginning that
    /// makes an option of the argument, unless `may_begin_with_dash`.
    pub fn fill(&self, values: &Values, may_begin_with_dash: bool) -> Result<OsString, String> {
        let mut argument = OsString::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => argument.push(text),
                Part::Placeholder(name) => {
                    let value = values.get(name)?;
                    if value.is_empty() {
                        return Err(format!("the value of {{{name}}} is empty"));
                    }
                    let bytes = value.as_bytes();
                    if bytes.contains(&0) {
                        return Err(format!("the value of {{{name}}} holds a NUL character"));
                    }
                    if argument.is_empty() && bytes[0] == b'-' && !may_begin_with_dash {
                        return Err(format!(
                            "the value of {{{name}}} begins with '-' and would be taken for an option"
                        ));
                    }
                    argument.push(value);
                }
            }
        }
        Ok(argument)
    }
}

impl Known<'_> {
    fn unknown(&self, name: &str) -> ConfigError {
        let names = self.builtin.iter().chain(self.variables.iter());
        let names: Vec<_> = names.map(|name| format!("{{{name}}}")).collect();
        let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        ConfigError::UnknownPlaceholder { step: self.step, name: name.to_owned(), known }
    }
}

impl<'a> Values<'a> {
    fn get(&self, name: &str) -> Result<&'a OsStr, String> {
        let row = self.member;
        let value = match name {
            "member" => row.map(|row| row.id.as_str()),
            "role" => row.and_then(|row| row.role.as_deref()),
            "parent" => row.and_then(|row| row.parent.as_deref()),
            "snapshot" => self.snapshot,
            "environment" => Some(self.environment),
            "dir" => return self.dir.map(Path::as_os_str).ok_or_else(|| missing(row, name)),
            _ => self.variables.and_then(|variables| variables.get(name)).map(String::as_str),
        };
        value.map(OsStr::new).ok_or_else(|| missing(row, name))
    }
}

fn missing(member: Option<&Row>, name: &str) -> String {
    match member {
        Some(row) => format!("member {} has nothing for {{{name}}}", row.id),
        None => format!("there is nothing for {{{name}}}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, ConfigError> {
        let builtin = &["member", "role", "parent", "snapshot", "dir", "environment"];
        Template::parse(text, &Known { step: "stop", builtin, variables: &["unit"].into() })
    }

    fn fill(text: &str, id: &str) -> Result<String, String> {
        let row = Row { id: id.into(), ..Row::default() };
        let variables = [("unit".to_owned(), "x.service".to_owned())].into();
        let values = Values {
            member: Some(&row),
            snapshot: None,
            dir: Some(Path::new("/staging")),
            environment: "",
            variables: Some(&variables),
        };
        let argument = parse(text).unwrap().fill(&values, false)?;
        Ok(argument.into_string().unwrap())
    }

    #[test]
    fn placeholders_are_replaced_inside_one_argument() {
        assert_eq!(fill("plain", "a").unwrap(), "plain");
        assert_eq!(fill("", "a").unwrap(), "");
        assert_eq!(fill("{member}", "a b; c").unwrap(), "a b; c");
        assert_eq!(fill("--out={dir}/{member}.{unit}", "a").unwrap(), "--out=/staging/a.x.service");
        assert_eq!(fill("{{.State}} {member}}}", "a").unwrap(), "{.State} a}");
        // Values are not templates.
        assert_eq!(fill("{member}", "{dir}").unwrap(), "{dir}");
    }

    #[test]
    fn what_is_no_placeholder_is_refused_with_those_that_are() {
        let error = parse("{membre}").unwrap_err().to_string();
        assert!(
            error.contains("stop: {membre}") && error.contains("{dir}, {environment}, {unit}"),
            "{error}"
        );
        for lone in ["{", "}", "a{b", "{member", "a}"] {
            assert!(matches!(parse(lone), Err(ConfigError::Argument { .. })), "{lone}");
        }
        assert!(parse("{}").is_err() && parse("a\0").is_err());
    }

    #[test]
    fn a_value_never_becomes_an_option_or_nothing() {
        assert!(fill("{member}", "-rf").unwrap_err().contains("taken for an option"));
        assert!(fill("{member}{unit}", "--").is_err());
        assert_eq!(fill("--name={member}", "-rf").unwrap(), "--name=-rf");
        assert_eq!(fill("x{member}", "-rf").unwrap(), "x-rf");
        assert!(fill("{member}", "a\0").unwrap_err().contains("NUL"));
        assert!(fill("{environment}", "a").unwrap_err().contains("empty"));
        assert!(fill("{role}", "a").unwrap_err().contains("member a has nothing for {role}"));
        assert!(fill("{snapshot}", "a").is_err());
    }
}
