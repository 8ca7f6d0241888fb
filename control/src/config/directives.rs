//! The table of every option: whether it is honoured, and if not, why.
//!
//! An option that is in no row here is unknown to OpenVPN too. `docs/options.md` is made from this
//! table.

mod table;

use std::fmt::Write as _;

pub use table::DIRECTIVES;

/// One option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// Its name without dashes.
    pub name: &'static str,
    /// Fewest parameters, the name not counted.
    pub min: u8,
    /// Most parameters.
    pub max: u8,
    /// What happens with it.
    pub class: Class,
    /// Where it may stand besides a file and the command line.
    pub places: Places,
}

/// What happens with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It has its effect.
    Honoured,
    /// It changes nothing here; the reason is given in a warning.
    NoEffect(&'static str),
    /// It ends the program with the reason.
    Refused(&'static str),
    /// An action of its own on the command line (`--version`), not part of a configuration.
    Action,
}

/// Where an option may stand, as a set of [`CONNECTION`], [`PULL`], [`INLINE`], [`PULL_ONLY`],
/// [`CLIENT`] and [`CLIENT_ONLY`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places(pub(super) u8);

/// Only in files and on the command line.
pub const GENERAL: Places = Places(0);
/// Also in a `<connection>` block.
pub const CONNECTION: Places = Places(1);
/// Also pushed by a server.
pub const PULL: Places = Places(2);
/// Also as an inline block.
pub const INLINE: Places = Places(4);
/// Pushed by a server and nowhere else.
pub const PULL_ONLY: Places = Places(2 | 8);
/// Also in what a server is told of one client: its file, or the output of `client-connect`.
pub const CLIENT: Places = Places(16);
/// In what a server is told of one client and nowhere else.
pub const CLIENT_ONLY: Places = Places(16 | 32);

impl Places {
    /// Both sets.
    pub const fn and(self, other: Places) -> Places {
        Places(self.0 | other.0)
    }

    /// True if all of `other` is in the set.
    pub const fn has(self, other: Places) -> bool {
        self.0 & other.0 == other.0
    }
}

/// Looks an option up by its name without dashes.
pub fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES
        .binary_search_by(|directive| directive.name.cmp(name))
        .ok()
        .map(|index| &DIRECTIVES[index])
}

/// The option whose name is nearest to a mistyped one.
pub fn similar(name: &str) -> Option<&'static str> {
    if !(3..=64).contains(&name.len()) {
        return None;
    }
    let far = 1 + name.len() / 5;
    DIRECTIVES
        .iter()
        .map(|directive| {
            (
                distance(name.as_bytes(), directive.name.as_bytes()),
                directive.name,
            )
        })
        .filter(|&(distance, _)| distance <= far)
        .min()
        .map(|(_, known)| known)
}

/// The table as a page for people, in Markdown.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Options\n\n\
         Every option of OpenVPN 2.7, those removed earlier that are still found in files, and\n\
         Ringway's own (`ringway-...`). This page is made from the table in\n\
         `control/src/config/directives/table.rs`; a test keeps it current.\n\n\
         - **yes**: the option has its effect.\n\
         - **no effect**: it is accepted with a warning, for the reason given.\n\
         - **refused**: the program ends with the reason given.\n\
         - **action**: a command-line action of its own.\n\n\
         *Where* tells the places besides a file and the command line: `c` in a `<connection>`\n\
         block, `p` pushed by a server, `i` as an inline block, `d` in a client's file of\n\
         `client-config-dir` or the output of `client-connect`. A pushed option that is refused is\n\
         skipped with a warning.\n\n\
         | option | status | where | reason |\n|---|---|---|---|\n",
    );
    for directive in DIRECTIVES {
        let (status, reason) = match directive.class {
            Class::Honoured => ("yes", ""),
            Class::NoEffect(reason) => ("no effect", reason),
            Class::Refused(reason) => ("refused", reason),
            Class::Action => ("action", ""),
        };
        let mut places = String::new();
        for (place, letter) in [(CONNECTION, 'c'), (PULL, 'p'), (INLINE, 'i'), (CLIENT, 'd')] {
            if directive.places.has(place) {
                places.push(letter);
            }
        }
        let places_only = [PULL_ONLY, CLIENT_ONLY].map(|only| directive.places.has(only));
        let only = if places_only.contains(&true) {
            " only"
        } else {
            ""
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {status} | {places}{only} | {reason} |",
            directive.name
        );
    }
    page
}

/// Insertions, deletions and changes of a byte between two names.
fn distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The option names of the manual of OpenVPN 2.6, and those new in 2.7.
    const KNOWN: &str = include_str!("directives/names.txt");

    #[test]
    fn table_is_sorted_and_unique() {
        for pair in DIRECTIVES.windows(2) {
            assert!(
                pair[0].name < pair[1].name,
                "{} {}",
                pair[0].name,
                pair[1].name
            );
        }
    }

    #[test]
    fn every_known_option_is_in_the_table() {
        let missing: Vec<_> = KNOWN
            .split_whitespace()
            .filter(|name| find(name).is_none())
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(KNOWN.split_whitespace().count() > 250);
    }

    #[test]
    fn reasons_are_one_clean_line() {
        for directive in DIRECTIVES {
            if let Class::NoEffect(reason) | Class::Refused(reason) = directive.class {
                assert!(
                    !reason.is_empty() && !reason.contains(['|', '\n']),
                    "{}",
                    directive.name
                );
                assert!(!reason.ends_with('.'), "{}", directive.name);
            }
            assert!(directive.min <= directive.max, "{}", directive.name);
        }
    }

    #[test]
    fn options_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/options.md");
        if std::env::var_os("RINGWAY_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(path).unwrap();
        assert!(
            page == markdown(),
            "docs/options.md is out of date: run this test with RINGWAY_WRITE_DOCS=1"
        );
    }
}
