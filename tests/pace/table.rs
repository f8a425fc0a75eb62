//! What the scenarios came to, as Markdown: one table for each group of them.

use std::time::Duration;

/// Scenarios with the same figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    /// Several workers share the numbers.
    Sharing,
    /// Nobody waits for another.
    Fairness,
    /// What lanes cost.
    Cost,
    /// The real ceiling is not the published one.
    Learning,
    /// What comes by webhook.
    Statuses,
}

impl Group {
    const ALL: [Group; 5] =
        [Group::Sharing, Group::Fairness, Group::Cost, Group::Learning, Group::Statuses];

    fn title(self) -> &'static str {
        match self {
            Group::Sharing => "Several workers, one rate for each number",
            Group::Fairness => "No number waits for another, nothing urgent waits behind bulk",
            Group::Cost => "What lanes cost",
            Group::Learning => "A real ceiling below the published one",
            Group::Statuses => "Webhooks: answered in time, and no hindrance to sending",
        }
    }

    fn head(self) -> &'static [&'static str] {
        match self {
            Group::Sharing => &[
                "scenario",
                "highest second / ceiling",
                "share of the pace used",
                "lanes of each worker",
                "shared evenly after",
                "longest gap of a number meanwhile",
                "killed worker's lanes send again after",
                "jobs",
                "sent twice",
                "lost",
            ],
            Group::Fairness => {
                &["scenario", "probe", "probes", "median", "p99", "at most", "sent twice", "lost"]
            }
            Group::Cost => &["scenario", "sends a second", "of a core", "memory at most"],
            Group::Learning => &[
                "scenario",
                "within 10% after",
                "accepted a second then",
                "refused (of the whole run)",
            ],
            Group::Statuses => {
                &["scenario", "pace", "answered: median", "p99", "refused", "of a core"]
            }
        }
    }
}

/// One scenario's figures, in the order of its group's head but for its name.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) group: Group,
    pub(crate) scenario: String,
    pub(crate) cells: Vec<String>,
    pub(crate) verdict: Verdict,
}

impl Row {
    /// One that came to nothing.
    pub(crate) fn failed(group: Group, scenario: String, why: String) -> Row {
        let verdict = Verdict { wrong: vec![why], slow: Vec::new() };
        Row { group, scenario, cells: Vec::new(), verdict }
    }

    fn line(&self) -> String {
        let mark = match (self.verdict.wrong.is_empty(), self.verdict.slow.is_empty()) {
            (false, _) => "**failed:** ",
            (true, false) => "(slow machine) ",
            (true, true) => "",
        };
        let cells = self.cells.iter().cloned();
        let mut cells: Vec<String> =
            [format!("{mark}{}", self.scenario)].into_iter().chain(cells).collect();
        cells.resize(self.group.head().len(), "-".to_owned());
        line(&cells)
    }
}

/// What was not as it should be.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Broken expectations.
    pub(crate) wrong: Vec<String>,
    /// Those for which the machine was seen to be at fault.
    pub(crate) slow: Vec<String>,
}

impl Verdict {
    /// It must hold, whatever the machine does.
    pub(crate) fn must(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(complaint());
        }
    }

    /// It must hold; where it does not, but would with what the machine stood still, the machine is
    /// to blame.
    pub(crate) fn should(
        &mut self,
        holds: bool,
        without_stalls: bool,
        stalled: Duration,
        complaint: impl FnOnce() -> String,
    ) {
        match (holds, without_stalls) {
            (true, _) => {}
            (false, true) => {
                let stalled = seconds(Some(stalled));
                self.slow.push(format!("{}; the machine stood still for {stalled}", complaint()));
            }
            (false, false) => self.wrong.push(complaint()),
        }
    }
}

/// All groups that have rows, and under them whatever was wrong.
pub(crate) fn markdown(made: &str, rows: &[Row]) -> String {
    let mut lines = vec![made.to_owned()];
    for group in Group::ALL {
        let of_group: Vec<String> =
            rows.iter().filter(|row| row.group == group).map(Row::line).collect();
        if of_group.is_empty() {
            continue;
        }
        let head: Vec<String> = group.head().iter().map(|cell| (*cell).to_owned()).collect();
        let rule = head.iter().map(|_| "---").collect::<Vec<_>>().join("|");
        lines.extend([String::new(), format!("### {}", group.title()), String::new()]);
        lines.extend([line(&head), format!("|{rule}|")]);
        lines.extend(of_group);
    }
    for (title, list) in [
        ("Not as it should be:", (|verdict| &verdict.wrong) as fn(&Verdict) -> &Vec<String>),
        ("The machine was too slow to tell:", |verdict| &verdict.slow),
    ] {
        let said = rows.iter().flat_map(|row| {
            list(&row.verdict).iter().map(move |what| format!("- {}: {what}", row.scenario))
        });
        let said: Vec<String> = said.collect();
        if !said.is_empty() {
            lines.extend([String::new(), title.to_owned(), String::new()]);
            lines.extend(said);
        }
    }
    lines.join("\n") + "\n"
}

/// As the tables have it.
pub(crate) fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| format!("{:.1} s", time.as_secs_f64()))
}

/// As the tables have it.
pub(crate) fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// As the tables have it.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}
