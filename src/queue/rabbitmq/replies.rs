//! The results of one's own jobs, for `enqueue --wait`: by a queue that the broker names, that the jobs name
//! as `reply_to`, and that goes with its connection. Takes nothing from anybody's consumers.

use super::connection::{self, ConnectionSettings, Connector};
use super::reason::explain;
use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Connection, Consumer};

/// Hears what becomes of the jobs that name its queue.
#[derive(Debug)]
pub struct Replies {
    connection: Connection,
    consumer: Consumer,
}

impl Replies {
    /// Connects and declares the queue. A connection of its own: the one that publishes stands still
    /// during an alarm. The error is one line.
    pub async fn connect(settings: &ConnectionSettings) -> Result<Replies, String> {
        let connection = Connector::new(settings)?.connect("chakra-sender replies").await?;
        let consumer = consume(&connection).await.map_err(|error| explain(&error))?;
        Ok(Replies { connection, consumer })
    }

    /// What the jobs are to name as `reply_to`.
    pub fn queue(&self) -> ShortString {
        self.consumer.queue()
    }

    /// The next event's body. Dropped while it waits, it has taken nothing.
    pub async fn next(&mut self) -> Result<Bytes, String> {
        match self.consumer.next().await {
            None => Err("the broker ended the subscription".into()),
            Some(Err(error)) => Err(explain(&error)),
            Some(Ok(delivery)) => Ok(delivery.data.into()),
        }
    }

    /// Closes the connection, and with it goes the queue.
    pub async fn close(self) {
        connection::close(&self.connection).await;
    }
}

/// Nothing is acknowledged: the queue is nobody else's and ends with this process, and there are no more
/// events on the way than jobs that their asker waits for.
async fn consume(connection: &Connection) -> lapin::Result<Consumer> {
    let channel = connection.create_channel().await?;
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let name = queue.name().clone();
    channel.basic_consume(name, "".into(), options, FieldTable::default()).await
}
