//! A table for a person: cells in columns that are as wide as they need.

/// One line a row. Columns of `right` are aligned to the right; the last is never padded.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], right: [bool; N]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut table = String::new();
    for row in rows {
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if at == 0 { "" } else { "  " };
            table += &match (right[at], at + 1 == N) {
                (true, _) => format!("{gap}{cell:>width$}"),
                (false, false) => format!("{gap}{cell:width$}"),
                (false, true) => format!("{gap}{cell}"),
            };
        }
        table.push('\n');
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [["number", "ready", "state"], ["1", "12000", "paused"]]
            .map(|row| row.map(str::to_owned));
        let table = columns(&rows, [false, true, false]);
        assert_eq!(table, "number  ready  state\n1       12000  paused\n");
    }
}
