//! The consumer's side, for `results` and `demo`: events as they come, through a queue of its own,
//! so that real consumers miss nothing; or, on demand, what the kept queue holds.

use super::connection::{self, ConnectionSettings, Connector};
use super::reason::{explain, explain_missing};
use super::topology::Names;
use bytes::Bytes;
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Connection, Consumer};

/// Events on the way at once.
const PREFETCH: u16 = 500;

/// Follows the results exchange.
#[derive(Debug)]
pub struct Follower {
    connection: Connection,
    consumer: Consumer,
}

impl Follower {
    /// Connects and binds an exclusive queue, which goes with the connection. `pattern` is a topic
    /// pattern such as `#` or `result.failed.*`. The error is one line.
    pub async fn connect(
        settings: &ConnectionSettings,
        prefix: &str,
        pattern: &str,
    ) -> Result<Follower, String> {
        let connection = Connector::new(settings)?.connect("chakra-sender results").await?;
        let consumer = bind(&connection, &Names::new(prefix), pattern).await;
        let consumer = consumer.map_err(|error| explain_missing(&error))?;
        Ok(Follower { connection, consumer })
    }

    /// The next event's body.
    pub async fn next(&mut self) -> Result<Bytes, String> {
        match self.consumer.next().await {
            None => Err("the broker ended the subscription".into()),
            Some(Err(error)) => Err(explain(&error)),
            Some(Ok(delivery)) => {
                let acknowledged = delivery.acker.ack(BasicAckOptions::default()).await;
                acknowledged.map_err(|error| explain(&error))?;
                Ok(delivery.data.into())
            }
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        connection::close(&self.connection).await;
    }
}

async fn bind(connection: &Connection, names: &Names, pattern: &str) -> lapin::Result<Consumer> {
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let own = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), own, FieldTable::default()).await?;
    let (name, exchange) = (queue.name().clone(), names.results().into());
    let bind = QueueBindOptions::default();
    channel.queue_bind(name.clone(), exchange, pattern.into(), bind, FieldTable::default()).await?;
    let consume = BasicConsumeOptions::default();
    channel.basic_consume(name, "".into(), consume, FieldTable::default()).await
}

/// Empties the queue that keeps results.
#[derive(Debug)]
pub struct Taker {
    connection: Connection,
    channel: Channel,
    queue: String,
}

/// One event, which leaves the queue only when it is acknowledged.
#[derive(Debug)]
pub struct TakenEvent {
    /// Its body.
    pub body: Bytes,
    acker: Acker,
}

impl TakenEvent {
    /// Lets the queue forget it.
    pub async fn acknowledge(self) -> Result<(), String> {
        let done = self.acker.ack(BasicAckOptions::default()).await;
        done.map(|_| ()).map_err(|error| explain(&error))
    }
}

impl Taker {
    /// Connects. The error is one line.
    pub async fn connect(settings: &ConnectionSettings, prefix: &str) -> Result<Taker, String> {
        let connection = Connector::new(settings)?.connect("chakra-sender results").await?;
        let channel = connection.create_channel().await.map_err(|error| explain(&error))?;
        Ok(Taker { connection, channel, queue: Names::new(prefix).results() })
    }

    /// The next event; none when the queue is empty.
    pub async fn next(&self) -> Result<Option<TakenEvent>, String> {
        let options = BasicGetOptions::default();
        let got = self.channel.basic_get(self.queue.as_str().into(), options).await;
        let got = got.map_err(|error| explain_missing(&error))?;
        Ok(got.map(|got| TakenEvent { body: got.delivery.data.into(), acker: got.delivery.acker }))
    }

    /// Closes the connection.
    pub async fn close(self) {
        connection::close(&self.connection).await;
    }
}
