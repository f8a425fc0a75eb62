//! The durable record of the lanes: a stream that every worker reads from its first entry and then
//! follows. What stands here is the set of lanes.

use super::connection::explain;
use super::headers;
use super::publisher::{Outgoing, PublishError, Publisher};
use super::topology::Names;
use crate::metrics::PublishKind;
use crate::wire::NumberId;
use futures_util::StreamExt;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Entries on the way at once; a stream gives nothing without a bound.
const PREFETCH: u16 = 500;

/// One entry. Those of a later version are passed over.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
enum Entry {
    /// From here on the number has a lane.
    LaneMade { number: String, at: Timestamp },
    /// Written by a reader, who has read all that stood before when it sees it.
    Mark { by: String },
    #[serde(other)]
    Unknown,
}

/// Writes that a number has a lane, and returns when that is safe.
pub(super) async fn record_lane(
    publisher: &Publisher,
    names: &Names,
    number: &NumberId,
    now: Timestamp,
) -> Result<(), PublishError> {
    append(publisher, names, &Entry::LaneMade { number: number.to_string(), at: now }).await
}

async fn append(publisher: &Publisher, names: &Names, entry: &Entry) -> Result<(), PublishError> {
    let body = serde_json::to_vec(entry).unwrap_or_default();
    let outgoing = Outgoing {
        exchange: "".into(),
        routing_key: names.control().into(),
        body: body.into(),
        properties: headers::persistent().with_content_type("application/json".into()),
        kind: PublishKind::Control,
    };
    publisher.until_taken(outgoing, None).await
}

/// Why the stream cannot be read on.
#[derive(Debug, thiserror::Error)]
#[error("the record of the lanes cannot be read: {0}")]
pub(super) struct ControlLost(String);

impl From<lapin::Error> for ControlLost {
    fn from(error: lapin::Error) -> ControlLost {
        ControlLost(explain(&error))
    }
}

impl From<PublishError> for ControlLost {
    fn from(error: PublishError) -> ControlLost {
        ControlLost(error.to_string())
    }
}

/// A reader of the stream.
pub(super) struct Control {
    consumer: Consumer,
    /// Read and not yet looked at: what is cancelled loses no entry.
    read: Option<Delivery>,
    /// Dropped, it closes.
    _channel: Channel,
}

impl Control {
    /// Reads all that stands now: the lanes, and a reader that goes on from there.
    pub(super) async fn open(
        connection: &Connection,
        publisher: &Publisher,
        names: &Names,
    ) -> Result<(Control, BTreeSet<NumberId>), ControlLost> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut from_first = FieldTable::default();
        from_first.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(names.control().into(), "".into(), options, from_first).await?;
        let mut control = Control { consumer, read: None, _channel: channel };
        let own = Entry::Mark { by: format!("{:032x}", fastrand::u128(..)) };
        let mut lanes = BTreeSet::new();
        let mut marking = std::pin::pin!(append(publisher, names, &own));
        let mut marked = false;
        loop {
            tokio::select! {
                done = &mut marking, if !marked => {
                    done?;
                    marked = true;
                }
                entry = control.entry() => match entry? {
                    entry if entry == own => return Ok((control, lanes)),
                    entry => lanes.extend(lane(&entry)),
                }
            }
        }
    }

    /// The next lane that somebody recorded. Cancelled, it is not lost.
    pub(super) async fn next_lane(&mut self) -> Result<NumberId, ControlLost> {
        loop {
            if let Some(number) = lane(&self.entry().await?) {
                return Ok(number);
            }
        }
    }

    /// The next entry. Cancelled, it is not lost.
    async fn entry(&mut self) -> Result<Entry, ControlLost> {
        let delivery = match self.read.take() {
            Some(delivery) => delivery,
            None => match self.consumer.next().await {
                Some(delivery) => delivery?,
                None => return Err(ControlLost("its consumer was cancelled".into())),
            },
        };
        let delivery = self.read.insert(delivery);
        // For a stream an acknowledgement only asks for more.
        delivery.acker.ack(BasicAckOptions::default()).await?;
        let entry = serde_json::from_slice(&delivery.data).unwrap_or(Entry::Unknown);
        self.read = None;
        Ok(entry)
    }
}

fn lane(entry: &Entry) -> Option<NumberId> {
    match entry {
        Entry::LaneMade { number, .. } => NumberId::parse(number).ok(),
        Entry::Mark { .. } | Entry::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_json_with_its_kind() {
        let made = Entry::LaneMade { number: "1027".into(), at: Timestamp::UNIX_EPOCH };
        let json = serde_json::to_string(&made).unwrap();
        assert_eq!(json, r#"{"entry":"lane-made","number":"1027","at":"1970-01-01T00:00:00Z"}"#);
        assert_eq!(serde_json::from_str::<Entry>(&json).unwrap(), made);
    }

    #[test]
    fn an_entry_of_a_later_version_is_passed_over() {
        let later = r#"{"entry":"lane-gone","number":"1027","why":["x"]}"#;
        assert_eq!(serde_json::from_str::<Entry>(later).unwrap(), Entry::Unknown);
    }
}
