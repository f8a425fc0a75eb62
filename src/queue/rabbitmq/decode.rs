//! From a delivery's bytes and properties to a job. Decides nothing beyond what is lawful.

use super::headers::{self, Travel};
use crate::wire::{InvalidJob, NumberId, Priority, SendJob};
use bytes::Bytes;
use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::message::Delivery;

/// A message as it came, kept for the way on.
#[derive(Debug, Clone)]
pub(super) struct Original {
    /// Byte for byte.
    pub(super) body: Bytes,
    /// As they came.
    pub(super) properties: BasicProperties,
    /// As it came.
    pub(super) routing_key: String,
}

impl Original {
    /// Takes the content out of a delivery.
    pub(super) fn take(delivery: &mut Delivery) -> Original {
        Original {
            body: std::mem::take(&mut delivery.data).into(),
            properties: std::mem::take(&mut delivery.properties),
            routing_key: delivery.routing_key.as_str().to_owned(),
        }
    }
}

/// What a message says.
#[derive(Debug)]
pub(super) struct Decoded {
    /// The job, or what is wrong with it.
    pub(super) job: Result<SendJob, InvalidJob>,
    /// What travelled with it.
    pub(super) travel: Travel,
    /// Its body names another priority than the way by which it came.
    pub(super) priority_disagrees: bool,
}

/// Reads a message that came by the lane of `number`. `now` is its arrival.
pub(super) fn decode(
    original: &Original,
    number: &NumberId,
    priority: Priority,
    now: Timestamp,
) -> Decoded {
    let travel = headers::read(&original.properties, now);
    let message_id = original.properties.message_id().as_ref().map(|id| id.as_str());
    let mut job = SendJob::parse(&original.body, message_id).and_then(|job| of_lane(job, number));
    if let Ok(job) = &mut job {
        job.expires_at = job.expires_at.or(travel.expires_at);
    }
    // A retry returns by the urgent queue whatever its body says.
    let said = job.as_ref().ok().and_then(|job| job.priority);
    let disagrees = travel.waited_for.is_none() && said.is_some_and(|said| said != priority);
    Decoded { job, travel, priority_disagrees: disagrees }
}

fn of_lane(job: SendJob, number: &NumberId) -> Result<SendJob, InvalidJob> {
    if job.phone_number_id == *number {
        return Ok(job);
    }
    let reason = format!(
        "phone_number_id {} came with the routing key of {number}: publish with the job's own number",
        job.phone_number_id
    );
    Err(InvalidJob {
        reason,
        id: Some(job.id),
        phone_number_id: Some(job.phone_number_id),
        metadata: job.metadata,
    })
}
