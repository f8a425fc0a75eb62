//! The reference of all metrics, as `docs/metrics.md` has it. Nothing in it is written by hand.

use super::declare::{Described, Entry, Kind, Theme, Values};
use super::{Metrics, NAMESPACE};
use prometheus::proto::MetricType;
use std::fmt::{self, Display, Formatter};

const HEAD: &str = "# Metrics

Every metric of `chakra-sender worker`, from its admin listener at `/metrics`. This page is written from the
declarations in `src/metrics`, and a test fails where it is stale: `UPDATE_DOCS=1 cargo test --test it
the_reference` writes it anew.

A counter whose labels are closed sets shows all its series from the start. Any other series with labels is
there once something has happened, so a rate of a counter that has no series is no rate, not 0. `number` is Meta's phone number ID, never a phone number.
The series of a number end some time after its lane (`numbers.retire_after`): take the sum of rates, never the rate of a sum, which
falls then.
";

const PROCESS: &str = "
The process as the system sees it, without the prefix, as with every exporter:

| Name | Kind | What it is |
| --- | --- | --- |
";

impl Metrics {
    /// The reference in Markdown.
    pub fn reference(&self) -> String {
        let mut page = HEAD.to_owned();
        for theme in &self.themes {
            page += &theme.to_string();
        }
        page += PROCESS;
        for family in self.registry.gather() {
            if family.name().starts_with("process_") {
                let kind = match family.get_field_type() {
                    MetricType::COUNTER => Kind::Counter,
                    MetricType::HISTOGRAM => Kind::Histogram,
                    MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => Kind::Gauge,
                };
                page += &format!("| `{}` | {kind} | {} |\n", family.name(), family.help());
            }
        }
        page
    }
}

impl Display for Theme {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n## {}\n\n{}\n", self.title, self.question)?;
        writeln!(f, "| Name | Kind | Labels | What it is | What it tells |")?;
        writeln!(f, "| --- | --- | --- | --- | --- |")?;
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let labels: Vec<String> = self.labels.iter().map(Described::to_string).collect();
        let labels = if labels.is_empty() { "—".to_owned() } else { labels.join("<br>") };
        let (about, kind) = (&self.about, self.kind);
        write!(f, "| `{NAMESPACE}_{}` | {kind} | {labels} ", about.name)?;
        write!(f, "| {} | {} |", about.help, about.tells)
    }
}

impl Display for Described {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.values {
            Values::Bounded(what) => write!(f, "`{}`: {what}", self.name),
            Values::Closed(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
                write!(f, "`{}`: {}", self.name, words.join(", "))
            }
        }
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        })
    }
}
