//! Puts jobs as they come, each confirmed, and hears their results beside it: a pipe that falls silent holds
//! back nothing that was read.

use super::entries::Entry;
use super::tally::{Ended, Tally};
use crate::cli::progress;
use crate::queue::rabbitmq::Taken;
use crate::wire::SendJob;
use anyhow::anyhow;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Publishes under way at once: more make nothing faster.
const WINDOW: usize = 256;

/// What is under way at a stop is waited for so long. Confirms take milliseconds, except from a
/// broker in trouble.
const FINISH_AT_MOST: Duration = Duration::from_secs(10);

/// Puts the jobs, and waits for what is under way at the end; then for their results, where `tally` does.
/// `hear` gives the next event, and takes nothing when it is dropped.
pub(super) async fn feed<P: Future<Output = Result<Taken, String>>>(
    entries: mpsc::Receiver<io::Result<Entry>>,
    stop: &CancellationToken,
    put: impl Fn(SendJob, Bytes) -> P,
    mut hear: impl AsyncFnMut() -> Result<Bytes, String>,
    tally: &mut Tally,
) -> Ended {
    match put_all(entries, stop, put, &mut hear, tally).await {
        Ended::Done => {}
        early @ (Ended::Stopped | Ended::Failed(_)) => return early,
    }
    tally.all_are_put(|jobs| progress::bar(Some(jobs), "results"));
    while tally.waits() {
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => return Ended::Stopped,
            event = hear() => event,
        };
        match event {
            Ok(event) => tally.hear(&event),
            Err(reason) => return deaf(&reason),
        }
    }
    Ended::Done
}

async fn put_all<P: Future<Output = Result<Taken, String>>>(
    mut entries: mpsc::Receiver<io::Result<Entry>>,
    stop: &CancellationToken,
    put: impl Fn(SendJob, Bytes) -> P,
    hear: &mut impl AsyncFnMut() -> Result<Bytes, String>,
    tally: &mut Tally,
) -> Ended {
    // Polled here alone: one task, as the producer asks.
    let mut under_way = FuturesUnordered::new();
    let mut ended = Ended::Done;
    let mut reading = true;
    while reading || !under_way.is_empty() {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                ended = Ended::Stopped;
                break;
            }
            Some((line, id, taken)) = under_way.next() => {
                if let Err(reason) = tally.settle((line, &id), taken) {
                    ended = Ended::Failed(anyhow!(reason));
                    break;
                }
            }
            event = hear(), if tally.waits() => match event {
                Ok(event) => tally.hear(&event),
                Err(reason) => {
                    ended = deaf(&reason);
                    break;
                }
            },
            entry = entries.recv(), if reading && under_way.len() < WINDOW && tally.has_room() => {
                match entry {
                    None => reading = false,
                    Some(Err(error)) => {
                        ended = Ended::Failed(anyhow!(error).context("reading the jobs"));
                        break;
                    }
                    Some(Ok(entry)) => {
                        let line = entry.line;
                        if let Some((job, body)) = tally.begin(entry) {
                            let (id, putting) = (job.id.clone(), put(job, body));
                            under_way.push(async move { (line, id, putting.await) });
                        }
                    }
                }
            }
        }
    }
    let rest = async {
        while let Some((line, id, taken)) = under_way.next().await {
            if let Err(reason) = tally.settle((line, &id), taken) {
                tracing::debug!(line, reason, "not confirmed");
            }
        }
    };
    if tokio::time::timeout(FINISH_AT_MOST, rest).await.is_err() {
        tracing::warn!("RabbitMQ does not confirm in time what is under way");
    }
    ended
}

fn deaf(reason: &str) -> Ended {
    Ended::Failed(anyhow!("the results are heard no more (the results queue keeps them): {reason}"))
}

#[cfg(test)]
mod tests {
    use super::super::entries::of_lines;
    use super::super::outcomes::Outcomes;
    use super::super::tally::Refusals;
    use super::*;
    use indicatif::ProgressBar;
    use std::cell::Cell;
    use std::future::pending;
    use tokio::sync::Notify;

    type Entries = mpsc::Receiver<io::Result<Entry>>;

    /// Jobs of lines from 1 on, and a way to say more.
    fn lines(count: u64) -> (mpsc::Sender<io::Result<Entry>>, Entries) {
        let (more, entries) = mpsc::channel(1000);
        let text: String = (1..=count).map(line).collect();
        for entry in of_lines(text.as_bytes()) {
            more.try_send(entry).unwrap();
        }
        (more, entries)
    }

    fn line(number: u64) -> String {
        let message = r#"{"messaging_product":"whatsapp","to":"+919901258433","type":"text","text":{"body":"x"}}"#;
        let id = r#""phone_number_id":"1027729340496751""#;
        format!("{{\"id\":\"{number}\",{id},\"message\":{message}}}\n")
    }

    fn tally(outcomes: Option<Outcomes>) -> Tally {
        Tally::new(Refusals::named(), outcomes, ProgressBar::hidden())
    }

    async fn fed<P: Future<Output = Result<Taken, String>>>(
        entries: Entries,
        stop: &CancellationToken,
        put: impl Fn(SendJob, Bytes) -> P,
    ) -> (Tally, Ended) {
        let mut tally = tally(None);
        let ended = feed(entries, stop, put, pending, &mut tally).await;
        (tally, ended)
    }

    #[tokio::test]
    async fn a_line_is_put_and_confirmed_though_no_more_come() {
        let (_silent, entries) = lines(3);
        let stop = CancellationToken::new();
        // The third confirm stops it: nothing else would.
        let put = |job: SendJob, _| {
            let stop = stop.clone();
            async move {
                if job.id.as_str() == "3" {
                    stop.cancel();
                }
                Ok(Taken::Confirmed)
            }
        };
        let (tally, ended) = fed(entries, &stop, put).await;
        assert!(matches!(ended, Ended::Stopped));
        assert_eq!(tally.confirmed, 3);
        assert!(
            tally
                .where_to_go_on()
                .starts_with("stopped after line 3: enqueue the same again, or go on from line 4;")
        );
    }

    #[tokio::test]
    async fn a_stop_waits_for_what_is_under_way() {
        let (_silent, entries) = lines(2);
        let (stop, confirm) = (CancellationToken::new(), Notify::new());
        let put = |job: SendJob, _| {
            let (stop, confirm) = (&stop, &confirm);
            async move {
                match job.id.as_str() {
                    "1" => {
                        stop.cancelled().await;
                        confirm.notify_one();
                    }
                    _ => {
                        stop.cancel();
                        confirm.notified().await;
                    }
                }
                Ok(Taken::Confirmed)
            }
        };
        let (tally, ended) = fed(entries, &stop, put).await;
        assert!(matches!(ended, Ended::Stopped));
        assert_eq!((tally.confirmed, tally.open_lines()), (2, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_tells_the_first_line_that_was_not_confirmed() {
        let (_silent, entries) = lines(10);
        let put = |job: SendJob, _| async move {
            match job.id.as_str() {
                "1" | "2" | "4" => Ok(Taken::Confirmed),
                "3" => pending().await,
                _ => Err("the line is cut".to_owned()),
            }
        };
        let (tally, ended) = fed(entries, &CancellationToken::new(), put).await;
        assert_eq!(tally.confirmed, 3);
        assert!(tally.where_to_go_on().starts_with("line 3 is the first"));
        let error = tally.close(ended, &[], false).unwrap_err();
        assert_eq!(error.root_cause().to_string(), "the line is cut");
    }

    #[tokio::test]
    async fn more_lines_than_the_window_are_all_put_and_bad_ones_counted() {
        let (more, entries) = lines(600);
        let job = Err("no job".to_owned());
        more.try_send(Ok(Entry { line: 601, job })).unwrap();
        drop(more);
        let put = |_, _| async {
            tokio::task::yield_now().await;
            Ok(Taken::Confirmed)
        };
        let (tally, ended) = fed(entries, &CancellationToken::new(), put).await;
        assert!(matches!(ended, Ended::Done));
        assert_eq!(tally.confirmed, 600);
        assert_eq!(tally.close(ended, &[], false).unwrap(), crate::cli::End::NotWell);
    }

    #[tokio::test]
    async fn results_are_waited_for_of_what_the_broker_took_and_of_nothing_else() {
        let (more, entries) = lines(3);
        drop(more);
        let mut tally = tally(Some(Outcomes::default()));
        let put_so_far = Cell::new(0);
        let put = |job: SendJob, _| {
            put_so_far.update(|count| count + 1);
            let refused = job.id.as_str() == "2";
            async move { Ok(if refused { Taken::Refused } else { Taken::Confirmed }) }
        };
        let mut told = ["3", "1", "1"].into_iter();
        // No worker tells of a job before it is put.
        let hear = async || match (put_so_far.get(), told.len()) {
            (3, 1..) => {
                let id = told.next().unwrap();
                Ok(format!(r#"{{"id":"{id}","status":"accepted"}}"#).into())
            }
            _ => pending().await,
        };
        let ended = feed(entries, &CancellationToken::new(), put, hear, &mut tally).await;
        assert!(matches!(ended, Ended::Done) && !tally.waits());
    }

    #[test]
    fn results_that_cannot_be_heard_any_more_are_no_lost_jobs() {
        let mut tally = tally(Some(Outcomes::default()));
        let entry = of_lines(line(1).as_bytes()).next().unwrap().unwrap();
        let (job, _) = tally.begin(entry).unwrap();
        tally.settle((1, &job.id), Ok(Taken::Confirmed)).unwrap();
        tally.all_are_put(|_| ProgressBar::hidden());
        let error = tally.close(deaf("cut"), &[], false).unwrap_err().to_string();
        assert!(error.ends_with("keeps them): cut"), "{error}");
    }
}
