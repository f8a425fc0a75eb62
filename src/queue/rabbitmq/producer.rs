//! The producer's side, for `enqueue` and `demo`: puts jobs on the exchange and waits for confirms.
//! It takes nothing and settles nothing.

use super::connection::{self, ConnectionSettings, Connector};
use super::declare::declare;
use super::headers;
use super::reason::explain;
use super::topology::{Names, Topology, TopologySettings, lane_key};
use crate::wire::{JobId, NumberId, Priority};
use bytes::Bytes;
use jiff::Timestamp;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};

/// How a job was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The broker has it.
    Confirmed,
    /// No queue wants it, not even the one for unrouted jobs: the broker dropped it.
    Unroutable,
    /// Its lane is full (`lanes.max_length`).
    Refused,
}

/// Puts jobs on RabbitMQ. Its futures must all be polled by one task: lapin gives confirms to the
/// wrong publish otherwise.
#[derive(Debug)]
pub struct Producer {
    connection: Connection,
    channel: Channel,
    names: Names,
    /// Where the results of its jobs go too.
    reply_to: Option<ShortString>,
}

impl Producer {
    /// Connects, and declares what the jobs go through where that is allowed. The error is one line.
    pub async fn connect(
        connection: &ConnectionSettings,
        topology: &TopologySettings,
    ) -> Result<Producer, String> {
        let connection = Connector::new(connection)?.connect("chakra-sender enqueue").await?;
        let names = Names::new(&topology.prefix);
        declare(&connection, &Topology::shared(&names, topology), topology.declare)
            .await
            .map_err(|error| error.to_string())?;
        let channel = connection.create_channel().await.map_err(|error| explain(&error))?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| explain(&error))?;
        Ok(Producer { connection, channel, names, reply_to: None })
    }

    /// The same, whose jobs have their results sent to this queue too.
    pub fn with_replies_to(self, queue: ShortString) -> Producer {
        Producer { reply_to: Some(queue), ..self }
    }

    /// Puts one body by a number's lane.
    ///
    /// A returned message is told with the next confirm, whosesoever that is (lapin 4.12): the number
    /// of `Unroutable` is right, which job it stands beside may not be.
    pub async fn put(
        &self,
        lane: (&NumberId, Priority),
        id: &JobId,
        body: &Bytes,
        now: Timestamp,
    ) -> Result<Taken, String> {
        let key = lane_key(lane.0, lane.1);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self
            .channel
            .basic_publish(
                self.names.sends().into(),
                key.into(),
                options,
                body,
                self.properties(id, now),
            )
            .await
            .map_err(|error| explain(&error))?;
        match confirm.await.map_err(|error| explain(&error))? {
            Confirmation::Ack(None) => Ok(Taken::Confirmed),
            Confirmation::Ack(Some(_)) => Ok(Taken::Unroutable),
            Confirmation::Nack(_) | Confirmation::NotRequested => Ok(Taken::Refused),
        }
    }

    fn properties(&self, id: &JobId, now: Timestamp) -> BasicProperties {
        let properties = headers::persistent()
            .with_content_type("application/json".into())
            .with_message_id(id.as_str().into())
            .with_timestamp(u64::try_from(now.as_second()).unwrap_or(0));
        match &self.reply_to {
            Some(queue) => properties.with_reply_to(queue.clone()),
            None => properties,
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        connection::close(&self.connection).await;
    }
}
