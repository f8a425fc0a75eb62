//! The operators' side of the record, for `numbers`: reads all of it once, appends an entry, counts the
//! jobs of a lane. Declares nothing, consumes no job, and decides nothing.

use super::connection::{self, CLOSED_NORMALLY, ConnectionSettings, Connector};
use super::control::{Reader, body, properties};
use super::reason::explain;
use super::reason::soft;
use super::record::{Entry, Record};
use super::topology::Names;
use crate::policy::DropRule;
use crate::queue::OperatorPause;
use crate::wire::{NumberId, Priority};
use jiff::Timestamp;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::protocol::AMQPSoftError;
use lapin::types::FieldTable;
use lapin::{Channel, Confirmation, Connection};
use std::time::Duration;

/// A broker that is well confirms in milliseconds; one whose alarm is on does not confirm at all.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(10);

/// What is wrong when the record is not there.
const NO_RECORD: &str =
    "there is no record of numbers: is rabbitmq.prefix right, and has a worker run there?";

/// A connection to the record of one prefix.
#[derive(Debug)]
pub struct Console {
    connection: Connection,
    /// With confirms. One publish at a time, which `&mut` holds: so a returned one is surely this.
    channel: Channel,
    names: Names,
}

/// How it stands with a lane's two queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depths {
    /// Of normal jobs.
    pub normal: Depth,
    /// Of urgent ones.
    pub urgent: Depth,
}

impl Depths {
    /// Jobs that stand ready in both.
    pub fn ready(&self) -> u64 {
        u64::from(self.normal.ready) + u64::from(self.urgent.ready)
    }

    /// Whether somebody reads both.
    pub fn is_read(&self) -> bool {
        self.normal.consumers > 0 && self.urgent.consumers > 0
    }
}

/// How it stands with a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Jobs that no worker has in hand.
    pub ready: u32,
    /// Workers that subscribe to it.
    pub consumers: u32,
}

impl Console {
    /// Connects. All errors here are one line.
    pub async fn connect(settings: &ConnectionSettings, prefix: &str) -> Result<Console, String> {
        let connection = Connector::new(settings)?.connect("chakra-sender numbers").await?;
        let channel = open(&connection).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| explain(&error))?;
        Ok(Console { connection, channel, names: Names::new(prefix) })
    }

    /// All that stands in the record now.
    pub async fn record(&mut self) -> Result<Record, String> {
        let mark = Reader::mark();
        // Written before anything is read: where there is no record, this says so best.
        self.append(&mark).await?;
        let reading = async {
            let mut reader = Reader::open(&self.connection, &self.names).await?;
            reader.read_up_to(&mark, std::future::ready(Ok(()))).await
        };
        reading.await.map_err(|lost| lost.to_string())
    }

    /// Pauses a number. All workers obey when they have read it.
    pub async fn pause(&mut self, number: &NumberId, pause: &OperatorPause) -> Result<(), String> {
        self.append(&Entry::pause(number, pause)).await
    }

    /// Ends a number's pause.
    pub async fn resume(&mut self, number: &NumberId, at: Timestamp) -> Result<(), String> {
        self.append(&Entry::NumberResumed { number: number.clone(), at }).await
    }

    /// Lets workers read a number's backlog and drop jobs of it.
    pub async fn begin_drop(&mut self, rule: &DropRule) -> Result<(), String> {
        self.append(&Entry::drop(rule)).await
    }

    /// The backlog was read, or is to be read no further.
    pub async fn end_drop(&mut self, id: &str, at: Timestamp) -> Result<(), String> {
        self.append(&Entry::DropEnded { id: id.to_owned(), at }).await
    }

    /// The jobs of a lane; none where one of its queues is missing.
    pub async fn depths(&self, number: &NumberId) -> Result<Option<Depths>, String> {
        let channel = open(&self.connection).await?;
        let mut depths = Depths::default();
        for (priority, depth) in
            [(Priority::Normal, &mut depths.normal), (Priority::Urgent, &mut depths.urgent)]
        {
            let (name, none) = (self.names.lane(number, priority), FieldTable::default());
            let passive = QueueDeclareOptions { passive: true, ..Default::default() };
            match channel.queue_declare(name.into(), passive, none).await {
                Ok(queue) => {
                    depth.ready = queue.message_count();
                    depth.consumers = queue.consumer_count();
                }
                // The broker has closed the channel.
                Err(error) if soft(&error) == Some(&AMQPSoftError::NOTFOUND) => return Ok(None),
                Err(error) => return Err(explain(&error)),
            }
        }
        let _closed = channel.close(CLOSED_NORMALLY, "counted".into()).await;
        Ok(Some(depths))
    }

    /// Closes the connection.
    pub async fn close(self) {
        connection::close(&self.connection).await;
    }

    async fn append(&mut self, entry: &Entry) -> Result<(), String> {
        let (key, body) = (self.names.control().into(), body(entry));
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = async {
            let written =
                self.channel.basic_publish("".into(), key, options, &body, properties()).await?;
            written.await
        };
        let confirmed = tokio::time::timeout(CONFIRMED_WITHIN, confirm).await;
        let confirmed = confirmed.map_err(|_| {
            let seconds = CONFIRMED_WITHIN.as_secs();
            format!("RabbitMQ took nothing within {seconds} s: is an alarm on?")
        })?;
        match confirmed.map_err(|error| explain(&error))? {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(NO_RECORD.into()),
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err("RabbitMQ refused to write the record".into())
            }
        }
    }
}

async fn open(connection: &Connection) -> Result<Channel, String> {
    connection.create_channel().await.map_err(|error| explain(&error))
}
