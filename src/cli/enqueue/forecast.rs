//! How long jobs will take: by the pace that workers tell of each number, or that the settings give it, and
//! behind what waits already. A forecast for people; nothing depends on it.

use crate::cli::numbers::{Paused, Served, serving};
use crate::cli::parts;
use crate::config::Settings;
use crate::policy::rest;
use crate::queue::rabbitmq::{Console, PATIENCE, Question, gather};
use crate::wire::NumberId;
use indicatif::HumanCount;
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Numbers that a forecast is made for, one line each; of more, only their count is told.
const MOST_NUMBERS: usize = 20;

/// What is known of a number.
#[derive(Debug, Clone, Default, PartialEq)]
struct Lane {
    /// Its pace in jobs a second.
    rate: f64,
    /// Whether a worker says so; else the settings of this command do.
    is_told: bool,
    /// Jobs that stand before those to come.
    ahead: u64,
    /// Why it does not send now.
    stands: Option<String>,
}

/// One line for each number. What cannot be asked is left out of it.
pub(super) async fn forecast(
    jobs: &BTreeMap<NumberId, u64>,
    settings: &Settings,
    now: Timestamp,
) -> anyhow::Result<Vec<String>> {
    if jobs.len() > MOST_NUMBERS {
        let all = HumanCount(jobs.values().sum());
        return Ok(vec![format!("{all} jobs by {} numbers", jobs.len())]);
    }
    let mut lanes = lanes(jobs, settings, now).await?;
    let several = jobs.len() > 1;
    let line = |(number, count): (&NumberId, &u64)| {
        let line = lanes.remove(number).unwrap_or_default().line(*count);
        if several { format!("{number}: {line}") } else { line }
    };
    Ok(jobs.iter().map(line).collect())
}

async fn lanes(
    jobs: &BTreeMap<NumberId, u64>,
    settings: &Settings,
    now: Timestamp,
) -> anyhow::Result<BTreeMap<NumberId, Lane>> {
    let (connection, prefix) = (parts::connection(settings), &settings.rabbitmq.prefix);
    let pages = match gather(&connection, prefix, &Question::Numbers, PATIENCE).await {
        Ok(gathered) => gathered.reports,
        Err(reason) => {
            tracing::debug!(reason, "workers cannot be asked");
            Vec::new()
        }
    };
    let (mut told, rates) = (serving(pages), parts::rates(settings)?);
    let console = Console::connect(&connection, prefix).await;
    let mut lanes = BTreeMap::new();
    for number in jobs.keys() {
        let ready = match &console {
            Ok(console) => console.depths(number).await.ok().flatten(),
            Err(_) => None,
        };
        let ready = ready.map_or(0, |depths| depths.ready());
        let lane = match told.remove(number) {
            Some(served) => Lane::of(&served, ready, now),
            None => {
                let rate = rates.of(number).0.per_second();
                Lane { rate, ahead: ready, ..Lane::default() }
            }
        };
        lanes.insert(number.clone(), lane);
    }
    if let Ok(console) = console {
        console.close().await;
    }
    Ok(lanes)
}

impl Lane {
    /// As the worker tells it that serves the number, with so many ready in the broker.
    fn of(served: &Served, ready: u64, now: Timestamp) -> Lane {
        let Served { view, paused, .. } = served;
        let paused = paused.as_ref().map(|Paused { until, reason }| {
            let until = until.map_or("it is resumed".to_owned(), |until| format!("{until:.0}"));
            format!("it is paused until {until}: {reason}")
        });
        let held = view.held_until.filter(|until| *until > now).map(|until| {
            let why = view.held_for.as_deref().unwrap_or("an answer asked for it");
            format!("it is left alone for {}: {why}", spelled(rest(until, now)))
        });
        let in_hand = u64::try_from(served.in_hand()).unwrap_or(u64::MAX);
        let ahead = ready.saturating_add(in_hand);
        Lane { rate: view.rate, is_told: true, ahead, stands: paused.or(held) }
    }

    fn line(&self, jobs: u64) -> String {
        let count = match jobs {
            1 => "1 job".to_owned(),
            _ => format!("{} jobs", HumanCount(jobs)),
        };
        let ahead = match self.ahead {
            0 => String::new(),
            ahead => format!(" behind {} that wait", HumanCount(ahead)),
        };
        #[expect(clippy::cast_precision_loss, reason = "a forecast")]
        let seconds = jobs.saturating_add(self.ahead) as f64 / self.rate;
        let took = Duration::try_from_secs_f64(seconds)
            .map_or("an unknown time".to_owned(), |took| format!("about {}", spelled(took)));
        // At most one digit: 80, 17.5.
        let rate = (self.rate * 10.0).round() / 10.0;
        let whose = match self.is_told {
            true => "",
            false => " (by these settings: no worker tells its pace)",
        };
        let stands = self.stands.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        format!("{count}{ahead}, {took} at {rate}/s{whose}{stands}")
    }
}

/// In the two greatest units.
fn spelled(length: Duration) -> String {
    let seconds = length.as_secs_f64().ceil().max(1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 1")]
    let seconds = seconds as u64;
    let units = [("days", 86_400, 3_600, "h"), ("h", 3_600, 60, "min"), ("min", 60, 1, "s")];
    let unit = units.into_iter().find(|(_, size, ..)| seconds >= *size);
    match unit {
        None => format!("{seconds} s"),
        Some((unit, size, lesser_size, lesser)) => {
            let rest = seconds % size / lesser_size;
            let rest = if rest > 0 { format!(" {rest} {lesser}") } else { String::new() };
            let unit = if unit == "days" && seconds / size == 1 { "day" } else { unit };
            format!("{} {unit}{rest}", seconds / size)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn page(waiting: u64, rate: f64, more: Value) -> Value {
        let mut row = json!({ "number": "1", "rate": rate, "source": "plugin", "waiting": waiting,
            "in_flight": 0, "worker": "w", "held_until": null, "held_for": null, "paused": null });
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([row])
    }

    fn line(pages: Vec<Value>, ready: u64, jobs: u64) -> String {
        let served = serving(pages).remove(&NumberId::parse("1").unwrap()).unwrap();
        Lane::of(&served, ready, at(0)).line(jobs)
    }

    #[test]
    fn jobs_take_their_number_by_the_pace_that_a_worker_tells() {
        let quiet = || page(0, 80.0, json!({}));
        assert_eq!(line(vec![quiet()], 0, 41_200), "41,200 jobs, about 8 min 35 s at 80/s");
        assert_eq!(line(vec![quiet()], 0, 1), "1 job, about 1 s at 80/s");
        let busy = page(100, 17.5, json!({}));
        let said = "10 jobs behind 1,100 that wait, about 1 min 4 s at 17.5/s";
        assert_eq!(line(vec![quiet(), busy, json!(7)], 1_000, 10), said);
    }

    #[test]
    fn a_number_that_stands_says_why_and_one_that_nobody_tells_of_says_so() {
        let pause = json!({ "paused": { "until": null, "reason": "wrong list", "by": null } });
        let said = line(vec![page(0, 1.0, pause)], 0, 2);
        assert_eq!(said, "2 jobs, about 2 s at 1/s; it is paused until it is resumed: wrong list");
        let held = json!({ "held_until": at(90), "held_for": "maintenance" });
        let said = line(vec![page(0, 1.0, held)], 0, 2);
        assert_eq!(said, "2 jobs, about 2 s at 1/s; it is left alone for 1 min 30 s: maintenance");
        let lane = Lane { rate: 17.0, ..Lane::default() };
        let said = "34 jobs, about 2 s at 17/s (by these settings: no worker tells its pace)";
        assert_eq!(lane.line(34), said);
    }

    #[test]
    fn a_length_is_spelled_in_its_two_greatest_units() {
        let spelled = |seconds: f64| spelled(Duration::from_secs_f64(seconds));
        let lengths = [0.0, 0.2, 59.0, 60.0, 514.9, 3_600.0, 11_520.0, 86_400.0, 200_000.0];
        assert_eq!(
            lengths.map(spelled),
            [
                "1 s",
                "1 s",
                "59 s",
                "1 min",
                "8 min 35 s",
                "1 h",
                "3 h 12 min",
                "1 day",
                "2 days 7 h"
            ]
        );
    }
}
