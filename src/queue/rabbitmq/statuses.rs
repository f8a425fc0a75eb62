//! Publishes what webhooks tell of messages, on a connection of its own: a flood of statuses holds up no
//! outcome of a job. Keeps nothing over a lost connection: who told us repeats it.

use super::headers;
use super::publisher::{Outgoing, PublishError, Publisher, PublisherState};
use super::topology::Names;
use crate::metrics::PublishKind;
use crate::wire::{Event, NumberId, StatusEvent};
use lapin::types::ShortString;

/// The connection's name, in the broker's list of connections.
pub(super) const NAME: &str = "chakra-sender statuses";

/// Publishes statuses; cheap to clone. The queue cannot be closed before all clones are dropped.
#[derive(Debug, Clone)]
pub struct StatusPublisher {
    publisher: Publisher,
    exchange: ShortString,
}

impl StatusPublisher {
    pub(super) fn new(publisher: Publisher, names: &Names) -> StatusPublisher {
        StatusPublisher { publisher, exchange: names.results().into() }
    }

    /// Publishes an event and waits until the broker has it. Fails at once while the broker cannot take
    /// it: then, and at any other error, it may be told again.
    pub async fn publish(&self, event: StatusEvent) -> Result<(), PublishError> {
        if *self.publisher.state().borrow() != PublisherState::Up {
            return Err(PublishError::Lost);
        }
        self.publisher.publish(self.outgoing(event)).await
    }

    fn outgoing(&self, event: StatusEvent) -> Outgoing {
        let number = event.phone_number_id.as_ref().map_or("unknown", NumberId::as_str);
        let routing_key = format!("status.{}.{number}", event.status.name()).into();
        let properties = headers::persistent()
            .with_content_type("application/json".into())
            .with_message_id(event.message_id().into());
        // Of texts and times alone: it cannot fail.
        let body = Event::Status(&event).to_json().unwrap_or_default().into();
        let kind = PublishKind::Status;
        Outgoing { exchange: self.exchange.clone(), routing_key, body, properties, kind }
    }
}
