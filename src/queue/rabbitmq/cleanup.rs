//! Deletes everything that one prefix has in the broker: for what was made to be thrown away.

use super::connection::{self, ConnectionSettings, Connector};
use super::reason::explain;
use super::topology::{Names, Topology, TopologySettings};
use crate::wire::NumberId;
use lapin::Connection;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};

/// Deletes the queues and exchanges of a prefix, and the lanes of `numbers`, whatever they hold. The
/// error is one line.
pub async fn delete_everything(
    settings: &ConnectionSettings,
    topology: &TopologySettings,
    numbers: &[NumberId],
) -> Result<(), String> {
    let names = Names::new(&topology.prefix);
    let mut all = Topology::shared(&names, topology);
    for number in numbers {
        all.extend(Topology::lane(&names, topology, number));
    }
    let connection = Connector::new(settings)?.connect("chakra-sender clean-up").await?;
    let deleted = delete(&connection, &all).await;
    connection::close(&connection).await;
    deleted.map_err(|error| explain(&error))
}

/// Deleting what does not exist is no error to RabbitMQ.
async fn delete(connection: &Connection, all: &Topology) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    for queue in &all.queues {
        channel.queue_delete(queue.name.as_str().into(), QueueDeleteOptions::default()).await?;
    }
    for exchange in &all.exchanges {
        let options = ExchangeDeleteOptions::default();
        channel.exchange_delete(exchange.name.as_str().into(), options).await?;
    }
    Ok(())
}
