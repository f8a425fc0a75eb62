//! Puts WhatsApp messages on RabbitMQ for chakra-sender: none is lost, none is sent twice.
//!
//! Reads orders from stdin, one JSON object a line, such as
//! `{"order": 8812, "to": "+919901258433", "text": "Shipped!"}`, and puts one job for each:
//!
//! ```sh
//! AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f cargo run --example producer -- 1027729340496751 < orders.jsonl
//! ```
//!
//! Needs the crates lapin, serde_json and tokio.

#![allow(clippy::disallowed_methods, reason = "a program of its own, with its own environment")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to who runs it")]

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::{Value, json};
use std::error::Error;
use std::io::BufRead;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Failure = Box<dyn Error>;

/// How often a job is tried before a person must look; the pauses between are 1, 2, 4 … seconds.
const TRIES: u32 = 8;

/// A job, and where to.
struct Job {
    id: String,
    routing_key: String,
    body: Vec<u8>,
}

/// The id is made of what the message is about, never at random: put again after a crash or a lost
/// confirm, the same message has the same id, and is not sent twice.
fn job_of(order: &Value, phone_number_id: &str) -> Result<Job, Failure> {
    let id = format!("order-{}-shipped", order["order"]);
    let mut job = json!({
        "id": id,
        "phone_number_id": phone_number_id,
        // Meta's own message object. It goes to Meta byte for byte.
        "message": {
            "messaging_product": "whatsapp",
            "to": order["to"],
            "type": "text",
            "text": { "body": order["text"] },
        },
        // Comes back on each event of this job.
        "metadata": { "order": order["order"] },
    });
    if let Some(end) = order.get("expires_at") {
        // Never sent after: the result is then `expired`.
        job["expires_at"] = end.clone();
    }
    // Urgent jobs overtake the others of their number: for what somebody is waiting for, such as a code.
    let urgent = if order["urgent"] == true { ".urgent" } else { "" };
    let routing_key = format!("{phone_number_id}{urgent}");
    Ok(Job { id, routing_key, body: serde_json::to_vec(&job)? })
}

/// Publishes with confirms, on a connection that is made anew where it breaks.
struct Producer {
    url: String,
    exchange: String,
    open: Option<(Connection, Channel)>,
}

impl Producer {
    /// Returns when RabbitMQ has the job; fails after the last try.
    async fn put(&mut self, job: &Job) -> Result<(), Failure> {
        for tried in 0..TRIES {
            if tried > 0 {
                tokio::time::sleep(Duration::from_secs(1 << (tried - 1))).await;
            }
            match self.publish(job).await {
                Ok(Confirmation::Ack(None)) => return Ok(()),
                // A number without a lane goes to the alternate exchange, which has a queue: what comes back
                // all the same was dropped by RabbitMQ, because somebody took that queue away.
                Ok(Confirmation::Ack(Some(_))) => {
                    eprintln!("{}: returned, no queue takes it", job.id);
                }
                // Later there is room (`lanes.max_length`).
                Ok(Confirmation::Nack(_) | Confirmation::NotRequested) => {
                    eprintln!("{}: refused, its lane is full", job.id);
                }
                // It may or may not have arrived. Put again under the same id it is sent once. (A missing
                // exchange ends here too: the first worker makes it.)
                Err(error) => {
                    eprintln!("{}: {error}", job.id);
                    self.open = None;
                }
            }
        }
        Err(format!("{}: not enqueued after {TRIES} tries; start again with it", job.id).into())
    }

    /// One at a time: lapin tells of a returned message with the next confirm, whosesoever that is.
    async fn publish(&mut self, job: &Job) -> Result<Confirmation, Failure> {
        let (_, channel) = match &mut self.open {
            Some(open) => open,
            open => open.insert(connect(&self.url).await?),
        };
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2) // It survives a restart of RabbitMQ.
            .with_message_id(job.id.as_str().into())
            .with_timestamp(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()); // Back as `enqueued_at`.
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let (exchange, key) = (self.exchange.as_str().into(), job.routing_key.as_str().into());
        let confirm = channel.basic_publish(exchange, key, options, &job.body, properties).await?;
        Ok(confirm.await?)
    }
}

async fn connect(url: &str) -> Result<(Connection, Channel), Failure> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    // From here on each publish is confirmed once RabbitMQ has the job on disk.
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok((connection, channel))
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let usage = "usage: producer PHONE_NUMBER_ID < orders.jsonl";
    let phone_number_id = std::env::args().nth(1).ok_or(usage)?;
    let mut producer = Producer {
        url: variable("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f"),
        exchange: format!("{}.sends", variable("CHAKRA_PREFIX", "chakra")),
        open: None,
    };
    for line in std::io::stdin().lock().lines() {
        let job = job_of(&serde_json::from_str(&line?)?, &phone_number_id)?;
        producer.put(&job).await?;
        println!("{}: enqueued", job.id);
    }
    if let Some((connection, _)) = producer.open {
        connection.close(200, "done".into()).await?;
    }
    Ok(())
}
