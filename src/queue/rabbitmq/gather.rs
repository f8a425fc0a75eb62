//! Asks all workers what they know of themselves, from any host that reaches the broker. Who asks is no
//! worker: it gives no sign of life and changes nobody's view.

use super::connection::{self, ConnectionSettings, Connector};
use super::members::WorkerId;
use super::presence::{ANSWERS, Question};
use super::reason::explain_missing;
use super::signs::{Message, Subscription};
use super::topology::Names;
use crate::clock;
use futures_util::StreamExt;
use lapin::Connection;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout_at;

/// How long answers are waited for, as a rule: three signs of life of each worker.
pub const PATIENCE: Duration = Duration::from_millis(1_500);

/// What came of asking.
#[derive(Debug, Default)]
pub struct Gathered {
    /// What each worker said, in the order of their ids.
    pub reports: Vec<Value>,
    /// Workers that are here and did not report in time.
    pub silent: Vec<WorkerId>,
}

/// Asks, and returns when all workers that are here have answered, or when patience is over. With no
/// worker that is the whole of it. The error is one line.
pub async fn gather(
    settings: &ConnectionSettings,
    prefix: &str,
    question: &Question,
    patience: Duration,
) -> Result<Gathered, String> {
    let connection = Connector::new(settings)?.connect("chakra-sender ask").await?;
    let answers = ask(&connection, &Names::new(prefix), question, patience).await;
    connection::close(&connection).await;
    let Answers { here, reports } = answers.map_err(|error| explain_missing(&error))?;
    let silent = here.into_iter().filter(|worker| !reports.contains_key(worker)).collect();
    Ok(Gathered { reports: reports.into_values().collect(), silent })
}

async fn ask(
    connection: &Connection,
    names: &Names,
    question: &Question,
    patience: Duration,
) -> lapin::Result<Answers> {
    let mut subscription = Subscription::bind(connection, names).await?;
    let reply = subscription.queue.clone();
    let question = match question {
        Question::Numbers => Message::Ask { reply },
        Question::Job(id) => Message::AskJob { reply, job: id.as_str().to_owned() },
    };
    let asked = clock::monotonic();
    let end = asked + patience;
    let mut answers = Answers::default();
    // A broker that takes nothing right now does not take this either.
    let publishing = subscription.publish(names.presence(), &question);
    let Ok(published) = timeout_at(end, publishing).await else { return Ok(answers) };
    published?;
    loop {
        let until = if answers.are_complete() { end.min(asked + ANSWERS) } else { end };
        match timeout_at(until, subscription.consumer.next()).await {
            Ok(Some(delivery)) => answers.take(&delivery?.data),
            Ok(None) | Err(_) => return Ok(answers),
        }
    }
}

/// What came so far.
#[derive(Debug, Default)]
struct Answers {
    /// Who gave a sign of life.
    here: BTreeSet<WorkerId>,
    reports: BTreeMap<WorkerId, Value>,
}

impl Answers {
    /// Whether all who were heard have reported.
    fn are_complete(&self) -> bool {
        !self.reports.is_empty() && self.here.iter().all(|worker| self.reports.contains_key(worker))
    }

    fn take(&mut self, body: &[u8]) {
        match Message::read(body) {
            Some(Message::Here { worker, .. } | Message::Hello { worker, .. }) => {
                self.here.insert(worker);
            }
            Some(Message::Bye { worker, .. }) => {
                self.here.remove(&worker);
            }
            Some(Message::Report { worker, report }) => {
                self.reports.insert(worker, report);
            }
            Some(Message::Ask { .. } | Message::AskJob { .. } | Message::Unknown) | None => {}
        }
    }
}
