//! What the rows came to, as Markdown: medians, spreads, ratios of medians, and whether targets were met.

use crate::ground::{Cpu, Window};
use std::fmt;

/// What came of one row.
pub(crate) enum Row {
    Against(Against),
    Alone(Alone),
    /// It came to nothing: what happened.
    Failed {
        name: String,
        why: String,
    },
}

/// The worker against the bare loop, in turns.
pub(crate) struct Against {
    pub(crate) name: String,
    pub(crate) worker: Vec<Window>,
    pub(crate) bare: Vec<Window>,
    /// Of the bare loop's throughput.
    pub(crate) throughput_at_least: f64,
    /// Of the bare loop's processor time a job; none: no target.
    pub(crate) cpu_at_most: Option<f64>,
}

/// A figure that needs nothing beside it.
pub(crate) struct Alone {
    pub(crate) name: String,
    pub(crate) measured: String,
    pub(crate) target: String,
    pub(crate) met: bool,
}

/// The middle of some figures, and their ends.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of at least one.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len() - 1;
        Spread {
            median: f64::midpoint(figures[last / 2], figures[last.div_ceil(2)]),
            least: figures[0],
            most: figures[last],
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { median, least, most } = self;
        let digits = f.precision().unwrap_or(0);
        write!(f, "{median:.digits$} ({least:.digits$} to {most:.digits$})")
    }
}

/// A share, of those which are sorted.
pub(crate) fn quantile<T: Copy>(sorted: &[T], share: f64) -> T {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let place = (sorted.len() as f64 * share) as usize;
    sorted[place.min(sorted.len() - 1)]
}

/// Bytes, for people.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

impl Row {
    /// In a line, as it comes.
    pub(crate) fn line(&self) -> String {
        match self {
            Row::Against(row) => format!(
                "{}: {:.2} of the throughput, {:.2} of the processor time: {}",
                row.name,
                row.throughput(),
                row.cpu(),
                verdict(row.met())
            ),
            Row::Alone(row) => format!("{}: {}: {}", row.name, row.measured, verdict(row.met)),
            Row::Failed { name, why } => format!("{name}: NOT MEASURED: {why}"),
        }
    }
}

impl Against {
    fn throughput(&self) -> f64 {
        rate(&self.worker).median / rate(&self.bare).median
    }

    fn cpu(&self) -> f64 {
        used(&self.worker, |cpu| cpu.sender).median / used(&self.bare, |cpu| cpu.sender).median
    }

    fn met(&self) -> bool {
        let cheap = self.cpu_at_most.is_none_or(|most| self.cpu() <= most);
        self.throughput() >= self.throughput_at_least && cheap
    }

    fn ratios(&self) -> Vec<String> {
        let target = self.cpu_at_most.map_or_else(|| "-".into(), |most| format!("at most {most}"));
        vec![
            self.name.clone(),
            rate(&self.worker).to_string(),
            rate(&self.bare).to_string(),
            format!("**{:.2}**", self.throughput()),
            format!("at least {}", self.throughput_at_least),
            used(&self.worker, |cpu| cpu.sender).to_string(),
            used(&self.bare, |cpu| cpu.sender).to_string(),
            format!("**{:.2}**", self.cpu()),
            target,
            verdict(self.met()).into(),
        ]
    }

    fn shares(&self) -> Vec<Vec<String>> {
        let of = |who: &str, windows: &[Window]| {
            let peak = windows.iter().map(|window| window.memory.peak).max().unwrap_or_default();
            let resident = windows.iter().map(|window| window.memory.resident).max();
            vec![
                self.name.clone(),
                who.to_owned(),
                format!("{:.0}", used(windows, |cpu| cpu.sender).median),
                format!("{:.0}", used(windows, |cpu| cpu.broker).median),
                format!("{:.0}", used(windows, |cpu| cpu.sink).median),
                mebibytes(peak),
                mebibytes(resident.unwrap_or_default()),
            ]
        };
        vec![of("worker", &self.worker), of("bare loop", &self.bare)]
    }
}

impl Alone {
    fn cells(&self) -> Vec<String> {
        let Alone { name, measured, target, met } = self;
        vec![name.clone(), measured.clone(), target.clone(), verdict(*met).into()]
    }
}

fn rate(windows: &[Window]) -> Spread {
    Spread::of(windows.iter().map(|window| window.rate))
}

fn used(windows: &[Window], part: fn(&Cpu) -> f64) -> Spread {
    Spread::of(windows.iter().map(|window| part(&window.cpu)))
}

fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**not met**" }
}

/// The whole page. `made` are its first lines.
pub(crate) fn markdown(made: &str, rows: &[Row]) -> String {
    let against: Vec<&Against> = rows.iter().filter_map(Row::against).collect();
    let alone: Vec<&Alone> = rows.iter().filter_map(Row::alone).collect();
    let mut page = made.to_owned();
    page += &table(
        "Beside a bare loop",
        "Jobs a second and microseconds of the sender's processor time a job: medians of the rounds, with \
         the least and the most. A ratio is one of medians.",
        "what|jobs/s: worker|bare loop|ratio|target|CPU a job: worker|bare loop|ratio|target|verdict",
        against.iter().map(|row| row.ratios()).collect(),
    );
    page += &table(
        "Processor time by process, and memory",
        "Microseconds a job, medians; of the sender's memory the most of all rounds.",
        "what|sender|sender|broker|API|memory at most|at the end",
        against.iter().flat_map(|row| row.shares()).collect(),
    );
    page += &table(
        "By itself",
        "",
        "what|measured|target|verdict",
        alone.iter().map(|row| row.cells()).collect(),
    );
    let failed = rows.iter().filter_map(Row::failed);
    page += &table("Not measured", "", "what|why", failed.collect());
    page
}

impl Row {
    /// Whether there is a figure.
    pub(crate) fn is_measured(&self) -> bool {
        self.failed().is_none()
    }

    fn against(&self) -> Option<&Against> {
        match self {
            Row::Against(row) => Some(row),
            Row::Alone(_) | Row::Failed { .. } => None,
        }
    }

    fn alone(&self) -> Option<&Alone> {
        match self {
            Row::Alone(row) => Some(row),
            Row::Against(_) | Row::Failed { .. } => None,
        }
    }

    fn failed(&self) -> Option<Vec<String>> {
        match self {
            Row::Failed { name, why } => {
                Some(vec![name.clone(), why.replace('\n', " ").replace('|', "/")])
            }
            Row::Against(_) | Row::Alone(_) => None,
        }
    }
}

/// Nothing where it has no line.
fn table(title: &str, about: &str, head: &str, rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> = head.split('|').map(str::to_owned).collect();
    let rule = head.iter().map(|_| "---").collect::<Vec<_>>().join("|");
    let rows: String = rows.iter().map(|row| line(row)).collect();
    let about = if about.is_empty() { String::new() } else { format!("{about}\n\n") };
    format!("\n## {title}\n\n{about}{}|{rule}|\n{rows}", line(&head))
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}
