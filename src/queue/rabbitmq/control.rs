//! The control stream: the durable record of lanes, pauses and drops, which every worker reads from its
//! first entry and then follows. What an entry means is `record`'s.

use super::headers;
use super::publisher::{Outgoing, PublishError, Publisher};
use super::reason::explain;
use super::record::{Change, Entry, Record};
use super::topology::Names;
use crate::clock;
use crate::metrics::PublishKind;
use crate::policy;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, Consumer};
use std::future::pending;
use std::time::Duration;

/// Entries on the way at once; a stream gives nothing without a bound.
const PREFETCH: u16 = 500;

/// The wall clock may be set: what ends by itself is looked for at least so often.
const EXPIRY_LOOK: Duration = Duration::from_secs(1);

/// Writes an entry, and returns when that is safe.
pub(super) async fn append(
    publisher: &Publisher,
    names: &Names,
    entry: &Entry,
) -> Result<(), PublishError> {
    let outgoing = Outgoing {
        exchange: "".into(),
        routing_key: names.control().into(),
        body: body(entry).into(),
        properties: properties(),
        kind: PublishKind::Control,
    };
    publisher.until_taken(outgoing, None).await
}

pub(super) fn body(entry: &Entry) -> Vec<u8> {
    serde_json::to_vec(entry).unwrap_or_default()
}

pub(super) fn properties() -> BasicProperties {
    headers::persistent().with_content_type("application/json".into())
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

/// The record, and what becomes of it.
pub(super) struct Control {
    reader: Reader,
    record: Record,
}

impl Control {
    /// Reads all that stands now.
    pub(super) async fn open(
        connection: &Connection,
        publisher: &Publisher,
        names: &Names,
    ) -> Result<Control, ControlLost> {
        let mut reader = Reader::open(connection, names).await?;
        let mark = Reader::mark();
        let marking = async { Ok(append(publisher, names, &mark).await?) };
        let mut record = reader.read_up_to(&mark, marking).await?;
        // What was over before is nothing new.
        while record.expire(clock::wall()).is_some() {}
        Ok(Control { reader, record })
    }

    /// As it stands.
    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// The next change, by an entry or by the passing of time. Cancelled, it is not lost.
    pub(super) async fn next(&mut self) -> Result<Change, ControlLost> {
        loop {
            let now = clock::wall();
            if let Some(change) = self.record.expire(now) {
                return Ok(change);
            }
            let rest = self.record.next_expiry().map(|at| policy::rest(at, now).min(EXPIRY_LOOK));
            let expiry = async {
                match rest {
                    Some(rest) => tokio::time::sleep(rest).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = expiry => {}
                entry = self.reader.next() => if let Some(change) = self.record.apply(entry?) {
                    return Ok(change);
                }
            }
        }
    }
}

/// A reader of the stream.
pub(super) struct Reader {
    consumer: Consumer,
    /// Read and not yet looked at: what is cancelled loses no entry.
    read: Option<Delivery>,
    /// Dropped, it closes.
    _channel: Channel,
}

impl Reader {
    /// Begins with the first entry.
    pub(super) async fn open(
        connection: &Connection,
        names: &Names,
    ) -> Result<Reader, ControlLost> {
        let channel = connection.create_channel().await?;
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let mut from_first = FieldTable::default();
        from_first.insert("x-stream-offset".into(), AMQPValue::LongString("first".into()));
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(names.control().into(), "".into(), options, from_first).await?;
        Ok(Reader { consumer, read: None, _channel: channel })
    }

    /// A mark that nobody else writes.
    pub(super) fn mark() -> Entry {
        Entry::Mark { by: format!("{:032x}", fastrand::u128(..)) }
    }

    /// All that stands before the mark, which `marking` writes.
    pub(super) async fn read_up_to(
        &mut self,
        mark: &Entry,
        marking: impl Future<Output = Result<(), ControlLost>>,
    ) -> Result<Record, ControlLost> {
        let mut record = Record::default();
        let mut marking = std::pin::pin!(marking);
        let mut marked = false;
        loop {
            tokio::select! {
                done = &mut marking, if !marked => {
                    done?;
                    marked = true;
                }
                entry = self.next() => match entry? {
                    entry if entry == *mark => return Ok(record),
                    entry => { record.apply(entry); }
                }
            }
        }
    }

    /// The next entry. Cancelled, it is not lost.
    async fn next(&mut self) -> Result<Entry, ControlLost> {
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
        let entry = Entry::read(&delivery.data);
        self.read = None;
        Ok(entry)
    }
}
