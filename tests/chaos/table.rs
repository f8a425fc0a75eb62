//! What a scenario came to, and all of them as a Markdown table.

use crate::world::World;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Missing jobs are named up to this many.
const NAMED: usize = 5;

const HEAD: [&str; 9] = [
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
#[derive(Debug, Default, Serialize, Deserialize)]
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

    fn unknown(&self) -> usize {
        self.unknown_sent + self.unknown_unsent
    }

    fn recovery(&self) -> String {
        let shown = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        self.recovery.map_or_else(|| "none".to_owned(), shown)
    }

    fn cells(&self) -> [String; HEAD.len()] {
        [
            self.fault.clone(),
            self.listing.clone(),
            self.jobs.to_string(),
            self.results.to_string(),
            self.lost().to_string(),
            self.twice.to_string(),
            self.unknown().to_string(),
            format!("{} / {}", self.unknown_sent, self.unknown_unsent),
            self.recovery(),
        ]
    }
}

/// A whole run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// How it is made again.
    pub(crate) command: String,
    /// Which RabbitMQ it was.
    pub(crate) broker: String,
    pub(crate) rows: Vec<Row>,
}

impl Run {
    /// The table, and under it whatever was wrong. An earlier run on another broker gets a column.
    pub(crate) fn markdown(&self, beside: Option<&Run>) -> String {
        let mut head = HEAD.map(str::to_owned).to_vec();
        let mut made = format!("`{}`, RabbitMQ {}", self.command, self.broker);
        if let Some(other) = beside {
            head.push(format!("RabbitMQ {}: lost, twice, unknown, recovery", other.broker));
            made += &format!("; beside it `{}`", other.command);
        }
        let rule = HEAD.map(|_| "---").to_vec().join("|");
        let mut lines = vec![made, String::new(), line(&head), format!("|{rule}|")];
        if beside.is_some() {
            lines[3] += "---|";
        }
        for row in &self.rows {
            let mut cells = row.cells().to_vec();
            cells.extend(beside.map(|other| other.in_short(row)));
            lines.push(line(&cells));
        }
        lines.push(self.totals());
        lines.extend(self.complaints());
        lines.join("\n") + "\n"
    }

    /// What came of the same scenario here.
    fn in_short(&self, like: &Row) -> String {
        let same = |row: &&Row| row.fault == like.fault && row.listing == like.listing;
        let Some(row) = self.rows.iter().find(same) else { return String::new() };
        format!("{}, {}, {}, {}", row.lost(), row.twice, row.unknown(), row.recovery())
    }

    fn totals(&self) -> String {
        let sum = |figure: fn(&Row) -> usize| self.rows.iter().map(figure).sum::<usize>();
        let explained =
            format!("{} / {}", sum(|row| row.unknown_sent), sum(|row| row.unknown_unsent));
        let figures = [sum(|row| row.jobs), sum(|row| row.results), sum(Row::lost)];
        let more = [sum(|row| row.twice), sum(Row::unknown)];
        let mut cells = vec![format!("**all {}**", self.rows.len()), String::new()];
        cells.extend(figures.into_iter().chain(more).map(|figure| figure.to_string()));
        cells.extend([explained, String::new()]);
        line(&cells)
    }

    fn complaints(&self) -> Vec<String> {
        let of = |row: &Row| {
            let place = format!("- {}, {}: ", row.fault, row.listing);
            row.wrong.iter().map(move |what| place.clone() + what).collect::<Vec<_>>()
        };
        let mut lines: Vec<String> = self.rows.iter().flat_map(of).collect();
        if !lines.is_empty() {
            lines.splice(0..0, ["", "Not as it should be:", ""].map(str::to_owned));
        }
        lines
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |", cells.join(" | "))
}
