//! Keeps in a file what became of each message: acknowledged only once it is written, and each event
//! counted once however often it is delivered.
//!
//! ```sh
//! AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f cargo run --example consumer -- outcomes.jsonl
//! ```
//!
//! Takes from the queue `chakra.results`, which keeps all events until somebody takes them. Where several
//! services want them, each needs a queue of its own: see the example in Node.js.
//!
//! Needs the crates futures-util, lapin, serde, serde_json and tokio. Ctrl-C or SIGTERM end it at any point:
//! what was not acknowledged comes again.

#![allow(clippy::disallowed_methods, reason = "a program of its own, with its own environment")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to who runs it")]

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashSet;
use std::error::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

type Failure = Box<dyn Error>;

/// Events in hand at once: without this, all that stands in the queue is sent here.
const PREFETCH: u16 = 100;

/// An event, as far as this program uses it. Keys that it does not know are passed over.
#[derive(Debug, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Event {
    /// How a job ended: exactly one such event for each job, and one more after each replay.
    Result { id: String, status: String, error: Option<Reason> },
    /// How far an accepted message came. The job may be unknown.
    Status { id: Option<String>, status: String },
    /// A kind that came later than this program.
    #[serde(other)]
    Later,
}

#[derive(Debug, Deserialize)]
struct Reason {
    class: String,
    message: String,
}

/// What an event means for who asked for the message.
fn meaning(event: &Event) -> Option<String> {
    match event {
        Event::Result { id, status, error } => Some(match (status.as_str(), error) {
            ("expired", _) => {
                format!("{id}: expired: nothing was sent, and it may be asked for anew")
            }
            ("unknown", _) => {
                format!("{id}: unknown: it may have been sent; a person decides, not a retry")
            }
            // `invalid` and `refused` would be refused again. The rest was tried for hours: it may pass later, by
            // `chakra-sender dead-letters replay`.
            (status, Some(Reason { class, message })) => {
                format!("{id}: {status}: {class}: {message}")
            }
            // Accepted: Meta has it. Delivery is told later, by a status.
            (status, None) => format!("{id}: {status}"),
        }),
        Event::Status { id, status } => Some(format!("{}: {status}", id.as_deref().unwrap_or("?"))),
        Event::Later => None,
    }
}

/// What was handled, by the AMQP message id of its event. A real service keeps this in the database where
/// the effect of an event is, and writes both in one transaction.
struct Outcomes {
    seen: HashSet<String>,
    file: File,
}

impl Outcomes {
    fn open(path: &str) -> Result<Outcomes, Failure> {
        let mut seen = HashSet::new();
        for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
            let kept: serde_json::Value = serde_json::from_str(line)?;
            seen.extend(kept["message_id"].as_str().map(str::to_owned));
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Outcomes { seen, file })
    }

    /// False where it was kept before.
    fn keep(&mut self, message_id: &str, event: &[u8]) -> Result<bool, Failure> {
        if self.seen.contains(message_id) {
            return Ok(false);
        }
        let event: serde_json::Value = serde_json::from_slice(event)?;
        let line = json!({ "message_id": message_id, "event": event });
        writeln!(self.file, "{line}")?;
        self.file.sync_data()?;
        self.seen.insert(message_id.to_owned());
        Ok(true)
    }
}

async fn follow(url: &str, queue: &str, outcomes: &mut Outcomes) -> Result<(), Failure> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut events = channel.basic_consume(queue.into(), "".into(), options, none).await?;
    println!("following {queue}");
    while let Some(delivery) = events.next().await {
        let delivery = delivery?;
        let message_id = delivery.properties.message_id().as_ref();
        let message_id = message_id.ok_or("an event without a message id")?.as_str();
        if outcomes.keep(message_id, &delivery.data)?
            && let Some(line) = meaning(&serde_json::from_slice(&delivery.data)?)
        {
            println!("{line}");
        }
        // Last: what ends the program before brings the event again.
        delivery.ack(BasicAckOptions::default()).await?;
    }
    Err("RabbitMQ ended the subscription".into())
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("usage: consumer FILE")?;
    let url = variable("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f");
    let queue = format!("{}.results", variable("CHAKRA_PREFIX", "chakra"));
    let mut outcomes = Outcomes::open(&path)?;
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            Err(error) = follow(&url, &queue, &mut outcomes) => eprintln!("again in a second: {error}"),
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminated.recv() => return Ok(()),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
