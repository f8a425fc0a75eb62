//! Looks at the broker for `check`: changes nothing that stays.

use super::connection::{self, CLOSED_NORMALLY, ConnectionSettings, Connector};
use super::declare::{DeclareError, declare};
use super::reason::explain;
use super::topology::{Names, Topology, TopologySettings};
use crate::wire::NumberId;
use lapin::Connection;
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// Whether a connection stands; the error is one line.
    pub connected: Result<(), String>,
    /// Whether streams can be declared; none where nothing may be declared or nobody was reached.
    pub streams: Option<Result<(), String>>,
    /// Whether everything that the worker needs is there.
    pub topology: Option<Result<(), DeclareError>>,
}

/// Connects, tries a stream of its own where declaring is allowed, and looks for the topology and
/// for the lanes of `numbers`.
pub async fn inspect(
    connection: &ConnectionSettings,
    settings: &TopologySettings,
    numbers: &[NumberId],
) -> Inspection {
    let connected = match Connector::new(connection) {
        Ok(connector) => connector.connect("chakra-sender check").await,
        Err(reason) => Err(reason),
    };
    let connection = match connected {
        Ok(connection) => connection,
        Err(reason) => {
            return Inspection { connected: Err(reason), streams: None, topology: None };
        }
    };
    let names = Names::new(&settings.prefix);
    let streams = match settings.declare {
        true => Some(try_stream(&connection, &names).await.map_err(|error| explain(&error))),
        false => None,
    };
    let mut topology = Topology::shared(&names, settings);
    for number in numbers {
        topology.extend(Topology::lane(&names, settings, number));
    }
    let found = declare(&connection, &topology, false).await;
    connection::close(&connection).await;
    Inspection { connected: Ok(()), streams, topology: Some(found) }
}

/// A stream under a name that nobody uses, deleted at once.
async fn try_stream(connection: &Connection, names: &Names) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let name = format!("{}.check-{:016x}", names.control(), fastrand::u64(..));
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(name.as_str().into(), options, arguments).await?;
    channel.queue_delete(name.into(), QueueDeleteOptions::default()).await?;
    channel.close(CLOSED_NORMALLY, "checked".into()).await
}
