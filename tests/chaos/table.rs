//! What a scenario came to, and all of them as a Markdown table.

use crate::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

/// Missing jobs are named up to this many.
const NAMED: usize = 5;

/// When the sandbox's chat listing shows an accepted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listing {
    /// So long after its acceptance.
    Lag(Duration),
    /// It answers, and shows nothing.
    Never,
}

impl Listing {
    /// Those of the table.
    pub(crate) const ALL: [Listing; 4] = [
        Listing::Lag(Duration::ZERO),
        Listing::Lag(Duration::from_secs(5)),
        Listing::Lag(Duration::from_secs(20)),
        Listing::Never,
    ];

    /// As the table has it.
    pub(crate) fn name(self) -> String {
        match self {
            Listing::Lag(lag) => format!("{} s", lag.as_secs()),
            Listing::Never => "never".to_owned(),
        }
    }
}

/// One scenario's figures.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) fault: String,
    pub(crate) listing: String,
    /// Jobs that the broker confirmed.
    pub(crate) jobs: usize,
    /// Jobs with at least one result.
    pub(crate) results: usize,
    /// Jobs that the sandbox accepted more than once.
    pub(crate) twice: usize,
    /// Jobs that ended as `unknown` and were accepted,
    pub(crate) unknown_sent: usize,
    /// and those that were not.
    pub(crate) unknown_unsent: usize,
    /// From the end of the fault until it works again.
    pub(crate) recovery: Option<Duration>,
    /// What else was not as it should be.
    pub(crate) wrong: Vec<String>,
}

impl Row {
    /// Compares what the consumer was told with what the sandbox knows.
    pub(crate) fn of(world: &World) -> Row {
        let (record, statuses) = (world.sandbox.record(), world.outcomes.statuses());
        let mut row = Row {
            jobs: world.jobs,
            results: statuses.len(),
            twice: record.duplicates().len(),
            wrong: world.wrong.clone(),
            ..Row::default()
        };
        let mut untrue = Vec::new();
        let mut contradicted = Vec::new();
        for (job, statuses) in &statuses {
            if statuses.len() > 1 {
                contradicted.push(job.clone());
            }
            let sent = record.accepted_by_opaque(job) > 0;
            match (statuses.first().map_or("", String::as_str), sent) {
                ("unknown", true) => row.unknown_sent += 1,
                ("unknown", false) => row.unknown_unsent += 1,
                ("accepted", true) | ("failed" | "expired", false) => {}
                (status, _) => untrue.push(format!("{job} ({status})")),
            }
        }
        let missing = (0..world.jobs).map(|number| format!("job-{number}"));
        let missing = missing.filter(|job| !statuses.contains_key(job)).collect();
        row.note("have no result", missing);
        row.note("have a result that the sandbox knows to be untrue", untrue);
        row.note("have two different results", contradicted);
        row.note("were sent twice", record.duplicates().into_keys().collect());
        row
    }

    fn note(&mut self, what: &str, jobs: Vec<String>) {
        if !jobs.is_empty() {
            let named = jobs[..jobs.len().min(NAMED)].join(", ");
            self.wrong.push(format!("{} {what}: {named}", jobs.len()));
        }
    }

    /// Jobs without a result.
    pub(crate) fn lost(&self) -> usize {
        self.jobs.saturating_sub(self.results)
    }

    fn cells(&self) -> [String; 9] {
        let recovery = self.recovery.map(|time| format!("{:.1} s", time.as_secs_f64()));
        [
            self.fault.clone(),
            self.listing.clone(),
            self.jobs.to_string(),
            self.results.to_string(),
            self.lost().to_string(),
            self.twice.to_string(),
            (self.unknown_sent + self.unknown_unsent).to_string(),
            format!("{} / {}", self.unknown_sent, self.unknown_unsent),
            recovery.unwrap_or_else(|| "none".to_owned()),
        ]
    }
}

/// The table, and under it whatever was wrong.
pub(crate) fn markdown(rows: &[Row], command: &str, broker: &str) -> String {
    let mut text = format!("`{command}`, RabbitMQ {broker}\n\n");
    let head = [
        "fault",
        "listing shows after",
        "jobs in",
        "results out",
        "lost",
        "sent twice",
        "unknown",
        "of these sent / not sent",
        "recovery",
    ];
    let _infallible = writeln!(text, "| {} |", head.join(" | "));
    let _infallible = writeln!(text, "|---|---|{}", "--:|".repeat(head.len() - 2));
    for row in rows {
        let _infallible = writeln!(text, "| {} |", row.cells().join(" | "));
    }
    let total = |figure: fn(&Row) -> usize| rows.iter().map(figure).sum::<usize>();
    let _infallible = writeln!(
        text,
        "| **all {}** | | {} | {} | {} | {} | {} | {} / {} | |",
        rows.len(),
        total(|row| row.jobs),
        total(|row| row.results),
        total(Row::lost),
        total(|row| row.twice),
        total(|row| row.unknown_sent + row.unknown_unsent),
        total(|row| row.unknown_sent),
        total(|row| row.unknown_unsent),
    );
    // Each complaint once, with where it was met.
    let mut wrong: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        for complaint in &row.wrong {
            let place = format!("{}, {}", row.fault, row.listing);
            wrong.entry(complaint).or_default().insert(place);
        }
    }
    if !wrong.is_empty() {
        text.push_str("\nNot as it should be:\n\n");
    }
    for (complaint, places) in wrong {
        let places: Vec<String> = places.into_iter().collect();
        let _infallible = writeln!(text, "- {complaint} ({})", places.join("; "));
    }
    text
}
