//! How long jobs will take: by the pace that workers tell of each number, or that the settings give it, and
//! behind what waits already. A forecast for people; nothing depends on it.

use crate::cli::numbers::{Backlog, Forecast, Paused, Served, about, serving};
use crate::cli::parts;
use crate::config::Settings;
use crate::policy::rest;
use crate::queue::rabbitmq::{Console, PATIENCE, Question, gather};
use crate::wire::NumberId;
use indicatif::HumanCount;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Numbers that a forecast is made for, one line each; of more, only their count is told.
const MOST_NUMBERS: usize = 20;

/// What is known of a number.
#[derive(Debug, Clone, Default)]
struct Lane {
    /// What stands before the jobs to come.
    ahead: Backlog,
    /// Whether a worker tells its pace; else the settings of this command do.
    is_told: bool,
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
        let line = lanes.remove(number).unwrap_or_default().line(*count, now);
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
                let rate = Some(rates.of(number).0.per_second());
                let ahead = Backlog { jobs: ready, rate, ..Backlog::default() };
                Lane { ahead, ..Lane::default() }
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
        let in_hand = u64::try_from(served.in_hand()).unwrap_or(u64::MAX);
        let ahead = Backlog {
            jobs: ready.saturating_add(in_hand),
            rate: Some(view.rate),
            held_until: view.held_until,
            paused: paused.as_ref().map(|paused| paused.until),
        };
        let paused = paused.as_ref().map(|Paused { until, reason }| {
            let until = until.map_or("it is resumed".to_owned(), |until| format!("{until:.0}"));
            format!("it is paused until {until}: {reason}")
        });
        let held = view.held_until.filter(|until| *until > now).map(|until| {
            let why = view.held_for.as_deref().unwrap_or("an answer asked for it");
            format!("it is left alone for {}: {why}", about(rest(until, now)))
        });
        Lane { ahead, is_told: true, stands: paused.or(held) }
    }

    /// The jobs to come go after those that wait.
    fn line(&self, jobs: u64, now: Timestamp) -> String {
        let count = match jobs {
            1 => "1 job".to_owned(),
            _ => format!("{} jobs", HumanCount(jobs)),
        };
        let ahead = match self.ahead.jobs {
            0 => String::new(),
            ahead => format!(" behind {} that wait", HumanCount(ahead)),
        };
        let all = Backlog { jobs: jobs.saturating_add(self.ahead.jobs), ..self.ahead };
        let forecast = all.forecast(now);
        let words = forecast.words(now);
        // At most one digit: 80, 17.5.
        let rate = (self.ahead.rate.unwrap_or_default() * 10.0).round() / 10.0;
        let whose = match self.is_told {
            true => "",
            false => " (by these settings: no worker tells its pace)",
        };
        let done = match forecast {
            Forecast::Done(_) => format!(", about {words} at {rate}/s{whose}"),
            Forecast::Empty | Forecast::Never | Forecast::Unknown => format!(": {words}"),
        };
        let stands = self.stands.as_ref().map(|why| format!("; {why}")).unwrap_or_default();
        format!("{count}{ahead}{done}{stands}")
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
        Lane::of(&served, ready, at(0)).line(jobs, at(0))
    }

    #[test]
    fn jobs_take_their_number_by_the_pace_that_a_worker_tells() {
        let quiet = || page(0, 80.0, json!({}));
        assert_eq!(line(vec![quiet()], 0, 41_200), "41,200 jobs, about 8 min at 80/s");
        assert_eq!(line(vec![quiet()], 0, 1), "1 job, about 1 s at 80/s");
        let busy = page(100, 17.5, json!({}));
        let said = "10 jobs behind 1,100 that wait, about 63 s at 17.5/s";
        assert_eq!(line(vec![quiet(), busy, json!(7)], 1_000, 10), said);
    }

    #[test]
    fn a_number_that_stands_says_why_and_one_that_nobody_tells_of_says_so() {
        let pause = json!({ "paused": { "until": null, "reason": "wrong list", "by": null } });
        let said = line(vec![page(0, 1.0, pause)], 0, 2);
        assert_eq!(
            said,
            "2 jobs: never while paused; it is paused until it is resumed: wrong list"
        );
        let held = json!({ "held_until": at(90), "held_for": "maintenance" });
        let said = line(vec![page(0, 1.0, held)], 0, 2);
        assert_eq!(said, "2 jobs, about 92 s at 1/s; it is left alone for 90 s: maintenance");
        let ahead = Backlog { rate: Some(17.0), ..Backlog::default() };
        let lane = Lane { ahead, ..Lane::default() };
        let said = "34 jobs, about 2 s at 17/s (by these settings: no worker tells its pace)";
        assert_eq!(lane.line(34, at(0)), said);
    }
}
