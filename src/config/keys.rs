//! Dotted keys: from the tree of tables to `numbers.override[0].id`, and how near two of them are.

use config::{Value, ValueKind};

/// Gives each single value, and each empty table or list, with its dotted key.
pub(super) fn flatten(key: String, value: Value, leaf: &mut impl FnMut(String, ValueKind)) {
    match value.kind {
        ValueKind::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                flatten(format!("{key}.{name}"), value, leaf);
            }
        }
        ValueKind::Array(list) if !list.is_empty() => {
            for (index, value) in list.into_iter().enumerate() {
                flatten(format!("{key}[{index}]"), value, leaf);
            }
        }
        ValueKind::Nil => {}
        kind => leaf(key, kind),
    }
}

/// `numbers.override[0].id` is described as `numbers.override.id`.
pub(super) fn without_indexes(key: &str) -> String {
    let mut parts = key.split('[');
    let head = parts.next().unwrap_or_default().to_owned();
    parts.fold(head, |name, part| name + part.split_once(']').map_or(part, |(_, rest)| rest))
}

/// Whether a key stands below this section.
pub(super) fn is_within(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// How many characters must be added, dropped or changed to come from one text to the other
/// (Levenshtein's distance).
pub(super) fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_of_two_keys_is_the_number_of_wrong_characters() {
        assert_eq!(distance("chakra.token", "chakra.token"), 0);
        assert_eq!(distance("chakra.tokn", "chakra.token"), 1);
        assert_eq!(distance("rabbitmq.url", "rabbitmq.uri"), 1);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn an_index_is_no_part_of_a_name() {
        assert_eq!(without_indexes("numbers.override[12].id"), "numbers.override.id");
        assert_eq!(without_indexes("chakra.token"), "chakra.token");
    }
}
