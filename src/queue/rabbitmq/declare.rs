//! Makes the broker agree with a [`Topology`], or only checks it. A queue that exists with other
//! arguments is used as it is, with a warning that names them; another type or a missing single
//! active consumer cannot be worked with.

use super::connection::CLOSED_NORMALLY;
use super::reason::{explain, soft};
use super::topology::{Argument, Arguments, Exchange, Kind, Queue, Topology};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Error, ErrorKind, ExchangeKind};

/// Without these a queue is not what it must be. The broker names the first two before the type: a
/// queue that is not durable, or goes with its consumers, is never a quorum queue.
const VITAL: [&str; 4] = ["durable", "auto_delete", "x-queue-type", "x-single-active-consumer"];

/// Why the broker does not have what it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeclareError {
    /// The connection went, or the broker cannot right now: try again.
    #[error("{0}")]
    Interrupted(String),
    /// It is missing, and `rabbitmq.declare` is false.
    #[error("missing in the broker, and rabbitmq.declare is false: {}", .0.join(", "))]
    Missing(Vec<String>),
    /// It is there and cannot be worked with.
    #[error("{0}")]
    Unfit(String),
}

/// Declares everything, or, where `create` is false, checks that it is there.
pub(super) async fn declare(
    connection: &Connection,
    topology: &Topology,
    create: bool,
) -> Result<(), DeclareError> {
    let mut declaring = Declaring { connection, channel: open(connection).await? };
    let done = match create {
        true => declaring.create(topology).await,
        false => declaring.check(topology).await,
    };
    // Closed by the broker already where it refused something.
    let _closed = declaring.channel.close(CLOSED_NORMALLY, "declared".into()).await;
    done
}

struct Declaring<'a> {
    connection: &'a Connection,
    channel: Channel,
}

async fn open(connection: &Connection) -> Result<Channel, DeclareError> {
    connection.create_channel().await.map_err(|error| interrupted(&error))
}

fn interrupted(error: &Error) -> DeclareError {
    DeclareError::Interrupted(explain(error))
}

impl Declaring<'_> {
    async fn create(&mut self, topology: &Topology) -> Result<(), DeclareError> {
        for exchange in &topology.exchanges {
            self.exchange(exchange).await?;
        }
        for queue in &topology.queues {
            self.queue(queue).await?;
        }
        for binding in &topology.bindings {
            let (queue, exchange, key) = (&binding.queue, &binding.exchange, &binding.key);
            let options = QueueBindOptions::default();
            self.channel
                .queue_bind(
                    queue.as_str().into(),
                    exchange.as_str().into(),
                    key.as_str().into(),
                    options,
                    FieldTable::default(),
                )
                .await
                .map_err(|error| interrupted(&error))?;
        }
        Ok(())
    }

    async fn exchange(&mut self, wanted: &Exchange) -> Result<(), DeclareError> {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let arguments = table(&wanted.arguments);
        let name = wanted.name.as_str();
        let declared =
            self.channel.exchange_declare(name.into(), kind(wanted.kind), options, arguments).await;
        let Err(error) = declared else { return Ok(()) };
        let Some(refusal) = refusal(&error) else { return Err(interrupted(&error)) };
        match Difference::read(&refusal) {
            Some(other) if other.argument != "type" => {
                tracing::warn!(exchange = name, %refusal, "it exists otherwise, and is used as it is");
            }
            _ => return Err(DeclareError::Unfit(format!("exchange {name}: {refusal}"))),
        }
        self.channel = open(self.connection).await?;
        Ok(())
    }

    /// The broker names one differing argument at a time: what it has is taken over and the queue
    /// declared again, until all is known.
    async fn queue(&mut self, wanted: &Queue) -> Result<(), DeclareError> {
        let mut arguments = table(&wanted.arguments);
        let name = wanted.name.as_str();
        // Each round settles one argument; the broker compares fewer than these.
        for _ in 0..2 * wanted.arguments.len() + 8 {
            let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let declared =
                self.channel.queue_declare(name.into(), options, arguments.clone()).await;
            let Err(error) = declared else { return Ok(()) };
            let Some(refusal) = refusal(&error) else { return Err(interrupted(&error)) };
            let Some(difference) = Difference::read(&refusal) else {
                return Err(DeclareError::Unfit(unfit(wanted, &refusal)));
            };
            self.channel = open(self.connection).await?;
            let argument = difference.argument.as_str();
            if VITAL.contains(&argument) {
                return Err(DeclareError::Unfit(unfit(wanted, &refusal)));
            }
            tracing::warn!(queue = name, argument, %refusal, "it exists otherwise, and is used as it is");
            let Some(current) = difference.current else { return Ok(()) };
            arguments = with(&arguments, argument, current);
        }
        Ok(())
    }

    /// A passive declaration checks the name alone.
    async fn check(&mut self, topology: &Topology) -> Result<(), DeclareError> {
        let mut missing = Vec::new();
        for exchange in &topology.exchanges {
            let options = ExchangeDeclareOptions { passive: true, ..Default::default() };
            let name = exchange.name.as_str();
            let empty = FieldTable::default();
            let found = self
                .channel
                .exchange_declare(name.into(), kind(exchange.kind), options, empty)
                .await;
            self.found(found, format!("exchange {name}"), &mut missing).await?;
        }
        for queue in &topology.queues {
            let options = QueueDeclareOptions { passive: true, ..Default::default() };
            let name = queue.name.as_str();
            let found =
                self.channel.queue_declare(name.into(), options, FieldTable::default()).await;
            self.found(found.map(|_| ()), format!("queue {name}"), &mut missing).await?;
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(DeclareError::Missing(missing)),
        }
    }

    async fn found(
        &mut self,
        found: lapin::Result<()>,
        what: String,
        missing: &mut Vec<String>,
    ) -> Result<(), DeclareError> {
        let Err(error) = found else { return Ok(()) };
        match soft(&error) {
            Some(AMQPSoftError::NOTFOUND) => missing.push(what),
            _ => return Err(interrupted(&error)),
        }
        self.channel = open(self.connection).await?;
        Ok(())
    }
}

fn unfit(queue: &Queue, refusal: &str) -> String {
    let stream = ("x-queue-type", Argument::Text("stream".into()));
    match queue.arguments.contains(&stream) {
        true => format!(
            "queue {}: the broker refuses a stream (it needs the feature flag stream_queue): {refusal}",
            queue.name
        ),
        false => format!("queue {}: {refusal}", queue.name),
    }
}

/// The broker's word that this declaration cannot be, as opposed to a connection that went.
fn refusal(error: &Error) -> Option<String> {
    let ErrorKind::ProtocolError(said) = error.kind() else { return None };
    let fit = match said.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => true,
        AMQPErrorKind::Soft(_) => false,
        // A feature that the broker does not have closes the connection.
        AMQPErrorKind::Hard(hard) => *hard == lapin::protocol::AMQPHardError::NOTIMPLEMENTED,
    };
    fit.then(|| said.get_message().to_string())
}

/// What a queue has otherwise than we want it.
#[derive(Debug, PartialEq)]
struct Difference {
    argument: String,
    /// What it has; none where the broker's words cannot be read.
    current: Option<Current>,
}

#[derive(Debug, PartialEq)]
enum Current {
    Nothing,
    Value(AMQPValue),
}

impl Difference {
    /// Reads `inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current
    /// is the value '10' of type 'long'` (3.10 to 4.3).
    fn read(text: &str) -> Option<Difference> {
        let (argument, rest) = text.split_once("inequivalent arg '")?.1.split_once('\'')?;
        let current = rest.split_once("but current is ").map(|(_, current)| current);
        Some(Difference { argument: argument.to_owned(), current: current.and_then(Current::read) })
    }
}

impl Current {
    fn read(text: &str) -> Option<Current> {
        if text.starts_with("none") {
            return Some(Current::Nothing);
        }
        let (value, rest) = text.strip_prefix("the value '")?.split_once("' of type '")?;
        let (kind, _) = rest.split_once('\'')?;
        let value = match kind {
            "longstr" => AMQPValue::LongString(value.into()),
            "bool" => AMQPValue::Boolean(value.parse().ok()?),
            _ => AMQPValue::LongLongInt(value.parse().ok()?),
        };
        Some(Current::Value(value))
    }
}

fn with(arguments: &FieldTable, name: &str, current: Current) -> FieldTable {
    let mut changed = arguments.inner().clone();
    match current {
        Current::Nothing => changed.remove(name),
        Current::Value(value) => changed.insert(name.into(), value),
    };
    changed.into()
}

fn table(arguments: &Arguments) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Flag(flag) => AMQPValue::Boolean(*flag),
        };
        table.insert((*name).into(), value);
    }
    table
}

fn kind(kind: Kind) -> ExchangeKind {
    match kind {
        Kind::Direct => ExchangeKind::Direct,
        Kind::Fanout => ExchangeKind::Fanout,
        Kind::Topic => ExchangeKind::Topic,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_argument_and_what_the_queue_has() {
        let text = "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': \
                    received none but current is the value '10' of type 'long'";
        let read = Difference::read(text).unwrap();
        assert_eq!(read.argument, "x-max-length");
        assert_eq!(read.current, Some(Current::Value(AMQPValue::LongLongInt(10))));
        let none = "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the value \
                    '5' of type 'signedint' but current is none";
        assert_eq!(Difference::read(none).unwrap().current, Some(Current::Nothing));
        assert_eq!(Difference::read("invalid arg 'x-queue-type' for queue 'q'"), None);
    }
}
