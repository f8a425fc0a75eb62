//! The names of all settings: which are values, tables and lists of tables, and what is to be said of a key
//! that fits none of them. Looks at no value but for its shape.

use super::Place;
use super::keys::{distance, is_within};
use super::layers::Leaf;
use config::ValueKind;
use std::collections::BTreeSet;

/// An unknown name is taken for a misspelt one up to this many wrong characters.
const MISSPELT: usize = 3;

/// Every name that was asked for, without indexes.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Those of values: `numbers.override.id`.
    pub(super) values: BTreeSet<String>,
    /// Those of lists of tables: `numbers.override`.
    pub(super) lists: BTreeSet<String>,
}

#[derive(Clone, Copy)]
enum Kind {
    Value,
    Table,
    List,
}

impl Names {
    /// What is wrong with the name or the shape of what was given: the name of it, and why.
    pub(super) fn fault(&self, key: &str, leaf: &Leaf) -> Option<(String, String)> {
        let (mut name, mut shown) = (String::new(), String::new());
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            let (own, indexes) = part.split_at(part.find('[').unwrap_or(part.len()));
            name.push_str(own);
            shown.push_str(own);
            let end = parts.peek().is_none().then_some(leaf);
            match self.kind(&name) {
                Some(kind) if fits(kind, indexes, end, &leaf.place) => {}
                Some(kind) => {
                    let reason = self.why_unfit(kind, &name, &leaf.place);
                    return Some((shown, reason));
                }
                None => {
                    let is_table = end.is_none_or(|leaf| matches!(leaf.kind, ValueKind::Table(_)));
                    return Some((shown, self.why_unknown(&name, is_table)));
                }
            }
            name.push('.');
            shown.extend([indexes, "."]);
        }
        None
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        if self.lists.contains(name) {
            return Some(Kind::List);
        }
        if self.values.contains(name) {
            return Some(Kind::Value);
        }
        self.values.iter().any(|value| is_within(value, name)).then_some(Kind::Table)
    }

    fn why_unfit(&self, kind: Kind, name: &str, place: &Place) -> String {
        match (kind, place) {
            (Kind::Value, _) => "is one value, no table and no list".into(),
            (Kind::List, Place::Variable(_)) => {
                format!(
                    "is a list of tables, which stands in the file only: write [[{name}]] there"
                )
            }
            (Kind::List, Place::File(_) | Place::Nowhere) => {
                format!("is a list of tables: write [[{name}]]")
            }
            (Kind::Table, Place::Variable(_)) => {
                let first = self.values.iter().find(|value| is_within(value, name));
                let key = first.map_or(name, |value| value).to_uppercase().replace('.', "__");
                format!("is a section: give each key in it, such as CHAKRA_SENDER__{key}")
            }
            (Kind::Table, Place::File(_) | Place::Nowhere) => match name.contains('.') {
                true => format!("is one table: write [{name}]"),
                false => format!("is a section: write [{name}]"),
            },
        }
    }

    fn why_unknown(&self, name: &str, is_table: bool) -> String {
        let (what, known) = match is_table {
            true => ("unknown section", self.sections()),
            false => {
                ("unknown key", self.values.iter().map(String::as_str).collect::<BTreeSet<_>>())
            }
        };
        // In a short name so many wrong characters make another word.
        let near = |known: &&str| {
            let wrong = distance(known, name);
            wrong <= MISSPELT && 2 * wrong <= known.len()
        };
        let close =
            known.iter().filter(|known| near(known)).min_by_key(|known| distance(known, name));
        let without_section = || known.iter().find(|known| known.ends_with(&format!(".{name}")));
        match close.or_else(without_section) {
            Some(known) => format!("{what}; the nearest known one is {known}"),
            None => what.into(),
        }
    }

    /// Whatever holds further keys.
    pub(super) fn sections(&self) -> BTreeSet<&str> {
        let dots = self
            .values
            .iter()
            .flat_map(|value| value.match_indices('.').map(move |dot| (value, dot)));
        dots.map(|(value, (at, _))| &value[..at]).collect()
    }
}

/// Whether a name of this kind was given in its own shape. `indexes` follow it, `[0]` for a table of a list;
/// `end` is what stands there, none where further names follow.
fn fits(kind: Kind, indexes: &str, end: Option<&Leaf>, place: &Place) -> bool {
    let is_table = end.is_none_or(|leaf| matches!(leaf.kind, ValueKind::Table(_)));
    let is_list = end.is_some_and(|leaf| matches!(leaf.kind, ValueKind::Array(_)));
    match kind {
        // Of what type it is, was asked when it was read.
        Kind::Value => indexes.is_empty() && end.is_some(),
        Kind::Table => indexes.is_empty() && is_table,
        Kind::List if matches!(place, Place::Variable(_)) => false,
        Kind::List if indexes.is_empty() => is_list,
        Kind::List => indexes.matches('[').count() == 1 && is_table,
    }
}
