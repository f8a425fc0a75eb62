//! The operators' side of the dead letters: reads them in their order, puts an original back on its
//! way, lets go of one. Decides nothing about a letter, and declares nothing.
//!
//! A [`Pass`] takes nothing by itself. It consumes with manual acknowledgements and closes its
//! channels at the end: what was not acknowledged comes back to the head of the queue, in its order.
//! lapin buffers deliveries without a bound, so the prefetch must be one, and a prefetch that is
//! full of letters to be given back delivers no more. So a pass goes on in windows: each is a channel
//! with a consumer of its own, and where one is full the next is opened behind it. Only a connection
//! that breaks gives the windows back in any order.

use super::connection::{self, CLOSED_NORMALLY, ConnectionSettings, Connector};
use super::decode::Original;
use super::letter::Letter;
use super::producer::Taken;
use super::reason::{NO_WORKER, explain};
use super::topology::{Names, lane_key};
use crate::clock;
use crate::wire::{NumberId, Priority};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Confirmation, Connection, Consumer, Queue};
use std::time::Duration;
use tokio::time::Instant;

/// Letters of one window. No more are buffered: 50 MiB of the largest bodies.
const WINDOW: u16 = 200;

/// Windows of one pass: 200,000 letters that it leaves where they are. A connection has 2,047
/// channels by default.
const MOST_WINDOWS: usize = 1_000;

/// A letter is kept from the queue no longer: RabbitMQ ends a consumer that does not acknowledge
/// within `consumer_timeout`, 30 minutes by default.
const KEPT_AT_MOST: Duration = Duration::from_secs(20 * 60);

/// After so long without a delivery the queue is asked whether it has any more.
const QUIET: Duration = Duration::from_millis(200);

/// A closed window's letters are back after a moment. Where they are not seen within this, others have
/// taken them.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// Between two looks for them.
const LOOK: Duration = Duration::from_millis(2);

/// The broker has letters ready and delivers none: after so long something is wrong.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to the dead letters of one prefix.
#[derive(Debug)]
pub struct DeadLetters {
    connection: Connection,
    queue: String,
    sends: String,
}

impl DeadLetters {
    /// Connects. The error is one line.
    pub async fn connect(
        settings: &ConnectionSettings,
        prefix: &str,
    ) -> Result<DeadLetters, String> {
        let connection = Connector::new(settings)?.connect("chakra-sender dead-letters").await?;
        let names = Names::new(prefix);
        Ok(DeadLetters { connection, queue: names.dead_letters(), sends: names.sends() })
    }

    /// Begins to read what stands in the queue now.
    pub async fn pass(&self) -> Result<Pass<'_>, String> {
        let channel = open(&self.connection).await?;
        let queue =
            look(&channel, &self.queue).await.map_err(|reason| format!("{reason}: {NO_WORKER}"))?;
        Ok(Pass {
            letters: self,
            outlook: channel,
            full: Vec::new(),
            window: None,
            in_hand: None,
            left: queue.message_count(),
            total: queue.message_count(),
            others: queue.consumer_count(),
            kept_since: None,
            cut: None,
        })
    }

    /// What puts originals back on their way.
    pub async fn replayer(&self) -> Result<Replayer, String> {
        let channel = open(&self.connection).await?;
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| explain(&error))?;
        Ok(Replayer { channel, sends: self.sends.clone() })
    }

    /// Closes the connection.
    pub async fn close(self) {
        connection::close(&self.connection).await;
    }
}

async fn open(connection: &Connection) -> Result<Channel, String> {
    connection.create_channel().await.map_err(|error| explain(&error))
}

async fn look(channel: &Channel, queue: &str) -> Result<Queue, String> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let looked = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    looked.map_err(|error| explain(&error))
}

/// One reading of the letters that stood ready when it began, the oldest first. What comes later is
/// not in it: a job that was replayed and dies again is not met twice.
#[derive(Debug)]
pub struct Pass<'a> {
    letters: &'a DeadLetters,
    /// For looking at the queue.
    outlook: Channel,
    /// Cancelled, but for the letters that go back with their channels, and how many these are.
    full: Vec<(Channel, u16)>,
    window: Option<Window>,
    /// The letter that was given last, until it is let go of or the next one is asked for.
    in_hand: Option<Acker>,
    left: u32,
    total: u32,
    others: u32,
    /// Since when the oldest letter that goes back is kept from the queue.
    kept_since: Option<Instant>,
    cut: Option<Cut>,
}

/// Why a pass ended with letters left that it has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Letters that stay were kept from the queue for as long as may be.
    #[error(
        "none may be kept from the queue for more than {} minutes: run it again for the rest",
        KEPT_AT_MOST.as_secs() / 60
    )]
    KeptLong,
    /// As many letters stay as can be read past.
    #[error(
        "no more than {} can be read past: replay or discard some of the oldest first",
        MOST_WINDOWS * usize::from(WINDOW)
    )]
    KeptMany,
}

#[derive(Debug)]
struct Window {
    channel: Channel,
    consumer: Consumer,
    /// Letters of it that go back.
    kept: u16,
}

impl Pass<'_> {
    /// How many letters stood ready at the beginning.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How many others were reading at the beginning: what they hold is not in this pass.
    pub fn others(&self) -> u32 {
        self.others
    }

    /// Whether it ended at a bound of its own.
    pub fn cut(&self) -> Option<Cut> {
        self.cut
    }

    /// The next letter; none at the end. The one before it stays in the queue unless it was let go
    /// of. May be dropped at any await: the letter comes back.
    pub async fn next(&mut self) -> Result<Option<Letter>, String> {
        self.keep();
        if self.left == 0 {
            return Ok(None);
        }
        let now = clock::monotonic();
        if self.kept_since.is_some_and(|since| now - since > KEPT_AT_MOST) {
            self.cut = Some(Cut::KeptLong);
            return Ok(None);
        }
        if !self.has_room().await? {
            self.cut = Some(Cut::KeptMany);
            return Ok(None);
        }
        let Some(mut delivery) = self.delivery().await? else {
            self.left = 0;
            return Ok(None);
        };
        self.left -= 1;
        let letter = Letter::read(Original::take(&mut delivery));
        self.in_hand = Some(delivery.acker);
        Ok(Some(letter))
    }

    /// Lets the queue forget the letter that was given last.
    pub async fn let_go(&mut self) -> Result<(), String> {
        let Some(acker) = self.in_hand.take() else { return Ok(()) };
        match acker.ack(BasicAckOptions::default()).await {
            Ok(true) => Ok(()),
            Ok(false) => Err("the subscription ended: the letter is still there".into()),
            Err(error) => Err(explain(&error)),
        }
    }

    /// Gives everything back that was not let go of, in its order; all that was let go of is gone
    /// when this returns without an error.
    pub async fn close(mut self) -> Result<(), String> {
        // It first: else it would be given what the windows before it give back.
        self.shut().await?;
        let mut are_seen = true;
        for (channel, kept) in std::mem::take(&mut self.full) {
            let before = self.look().await?.message_count();
            let closed = channel.close(CLOSED_NORMALLY, "read".into()).await;
            closed.map_err(|error| explain(&error))?;
            // Others take what comes back: then it is waited for once, not with each window.
            are_seen = are_seen && self.back(before + u32::from(kept)).await?;
        }
        Ok(())
    }

    /// Waits until so many letters stand ready; false where they do not. The broker gives a channel's letters
    /// back after it has confirmed the closing: without the wait two windows change places now and then, and
    /// the next pass begins without them. Until then it counts the cancelled consumer of the window too, so the
    /// number of consumers does not tell whether others are there.
    async fn back(&self, ready: u32) -> Result<bool, String> {
        let end = clock::monotonic() + BACK_WITHIN;
        while self.look().await?.message_count() < ready {
            if clock::monotonic() > end {
                return Ok(false);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(true)
    }

    async fn look(&self) -> Result<Queue, String> {
        look(&self.outlook, &self.letters.queue).await
    }

    /// The letter in hand goes back at the end.
    fn keep(&mut self) {
        if self.in_hand.take().is_some()
            && let Some(window) = &mut self.window
        {
            window.kept += 1;
            self.kept_since.get_or_insert_with(clock::monotonic);
        }
    }

    /// Makes sure that there is a window with room; false where there may be no more windows.
    async fn has_room(&mut self) -> Result<bool, String> {
        if self.window.as_ref().is_some_and(|window| window.kept < WINDOW) {
            return Ok(true);
        }
        self.shut().await?;
        if self.full.len() >= MOST_WINDOWS {
            return Ok(false);
        }
        let channel = open(&self.letters.connection).await?;
        let consumer = consume(&channel, &self.letters.queue).await;
        let consumer = consumer.map_err(|error| explain(&error))?;
        self.window = Some(Window { channel, consumer, kept: 0 });
        Ok(true)
    }

    /// No more deliveries to this window; what it holds stays with its channel.
    async fn shut(&mut self) -> Result<(), String> {
        let Some(Window { channel, consumer, kept }) = self.window.take() else { return Ok(()) };
        let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await;
        cancelled.map_err(|error| explain(&error))?;
        self.full.push((channel, kept));
        Ok(())
    }

    /// None where the queue has no more: others may have taken some.
    async fn delivery(&mut self) -> Result<Option<Delivery>, String> {
        let Some(Window { consumer, .. }) = &mut self.window else { return Ok(None) };
        let patience = clock::monotonic() + PATIENCE;
        let mut empty = false;
        loop {
            match tokio::time::timeout(QUIET, consumer.next()).await {
                Ok(Some(Ok(delivery))) => return Ok(Some(delivery)),
                Ok(Some(Err(error))) => return Err(explain(&error)),
                Ok(None) => return Err("the broker ended the subscription".into()),
                // What was on its way when the queue was asked has come by now.
                Err(_) if empty => return Ok(None),
                Err(_) if clock::monotonic() > patience => {
                    return Err("RabbitMQ has letters and delivers none".into());
                }
                Err(_) => {
                    empty = look(&self.outlook, &self.letters.queue).await?.message_count() == 0
                }
            }
        }
    }
}

async fn consume(channel: &Channel, queue: &str) -> lapin::Result<Consumer> {
    channel.basic_qos(WINDOW, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await
}

/// Puts originals back on their way, one after the other.
#[derive(Debug)]
pub struct Replayer {
    channel: Channel,
    sends: String,
}

impl Replayer {
    /// Publishes the original bytes to its lane as a fresh job with the next `x-replay`, and waits
    /// for the confirm. `lane` is the letter's. Only then may the letter be let go of: a crash in
    /// between leaves the letter beside its copy, and the next replay makes another copy with the
    /// same `x-replay`. Workers know a job by its id and that number, so it is sent once.
    ///
    /// One at a time, which `&mut` holds: so a returned message is surely this one.
    pub async fn put(
        &mut self,
        letter: &Letter,
        (number, priority): &(NumberId, Priority),
    ) -> Result<Taken, String> {
        let key = lane_key(number, *priority);
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (sends, properties) = (self.sends.as_str().into(), letter.replayed());
        let written =
            self.channel.basic_publish(sends, key.into(), options, &letter.body, properties);
        let confirm = written.await.map_err(|error| explain(&error))?;
        match confirm.await.map_err(|error| explain(&error))? {
            Confirmation::Ack(None) => Ok(Taken::Confirmed),
            Confirmation::Ack(Some(_)) => Ok(Taken::Unroutable),
            Confirmation::Nack(_) | Confirmation::NotRequested => Ok(Taken::Refused),
        }
    }
}
