//! The webhook's listener beside the hall: what it needs of the others, tied together.

use crate::chakra::{Client, rows};
use crate::config::{Settings, WebhookSettings};
use crate::ledger::Ledger;
use crate::metrics::{FailureCode, Metrics};
use crate::policy;
use crate::queue::rabbitmq::RabbitQueue;
use crate::webhook::{Resolved, Ties, Webhook};
use crate::wire::{DeliveryStatus, NumberId, StatusEvent};
use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The listener, where one is asked for: bound, not yet answering.
pub(super) struct Bound(Option<(Webhook, WebhookSettings)>);

/// Where statuses go.
pub(super) struct Outlet {
    /// As [`Ties::publish`].
    pub(super) publish: Box<dyn Fn(StatusEvent) -> BoxFuture<'static, bool> + Send + Sync>,
    /// As [`Ties::has_lane`].
    pub(super) has_lane: Box<dyn Fn(&NumberId) -> bool + Send + Sync>,
}

impl Outlet {
    /// To the results exchange. Opens the connection for statuses, so there is one for each queue.
    pub(super) fn of(queue: &mut RabbitQueue) -> Outlet {
        let (statuses, lanes) = (queue.statuses(), queue.lanes());
        Outlet {
            publish: Box::new(move |event| {
                let statuses = statuses.clone();
                async move { statuses.publish(event).await.is_ok() }.boxed()
            }),
            has_lane: Box::new(move |number| lanes.borrow().contains(number)),
        }
    }
}

/// The listener, answering.
#[derive(Default)]
pub(super) struct Answering {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Bound {
    /// Takes the address early, so that a wrong one ends the start.
    pub(super) async fn bind(settings: &Settings) -> anyhow::Result<Bound> {
        let Some(settings) = settings.webhook.clone() else { return Ok(Bound(None)) };
        let listen = settings.listen;
        let webhook =
            Webhook::bind(listen).await.with_context(|| format!("webhook.listen = {listen}"))?;
        Ok(Bound(Some((webhook, settings))))
    }

    /// The address taken, where there is a listener.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.0.as_ref().map(|(webhook, _)| webhook.local_addr())
    }

    /// Begins to answer, and to publish to the results exchange.
    pub(super) fn answer(
        self,
        queue: &mut RabbitQueue,
        client: Client,
        ledger: Ledger,
        metrics: Arc<Metrics>,
    ) -> Answering {
        self.answer_into(|| Outlet::of(queue), client, ledger, metrics)
    }

    /// Begins to answer. The outlet is made only where there is a listener.
    pub(super) fn answer_into(
        self,
        outlet: impl FnOnce() -> Outlet,
        client: Client,
        ledger: Ledger,
        metrics: Arc<Metrics>,
    ) -> Answering {
        let mut answering = Answering::default();
        let Some((webhook, settings)) = self.0 else { return answering };
        tracing::info!(address = %webhook.local_addr(), "the webhook listener");
        metrics.webhooks().listens();
        let Outlet { publish, has_lane } = outlet();
        let count = counting(ledger.clone(), Arc::clone(&metrics));
        let ties = Ties {
            publish,
            // Where the producer has set opaque data of its own, and where a shape carries none.
            job_of: Box::new(move |notice| Some(ledger.owner_of(&notice.message_id)?.0)),
            explain: Box::new(move |fault| client.told_later(fault.code, &fault.message)),
            has_lane,
            on_status: Box::new(count),
        };
        let stop = answering.stop.clone();
        answering.tasks.spawn(async move {
            let WebhookSettings { proof, verify_token, .. } = settings;
            webhook.serve(&proof, verify_token, ties, metrics, stop).await;
        });
        answering
    }
}

/// Counts failures by their codes, and how long deliveries took.
fn counting(ledger: Ledger, metrics: Arc<Metrics>) -> impl Fn(&Resolved) {
    move |Resolved { notice, failure, .. }| match (notice.status, failure) {
        (DeliveryStatus::Delivered, _) => {
            if let Some((_, accepted)) = ledger.owner_of(&notice.message_id) {
                metrics.webhooks().delivered(policy::rest(notice.at, accepted));
            }
        }
        (DeliveryStatus::Failed, failure) => {
            metrics.webhooks().failed(known(failure.as_ref().and_then(|failure| failure.code)));
        }
        (DeliveryStatus::Sent | DeliveryStatus::Read | DeliveryStatus::Played, _) => {}
    }
}

fn known(code: Option<u32>) -> FailureCode {
    match code {
        None => FailureCode::None,
        Some(code) if rows().iter().any(|row| row.codes.contains(&code)) => {
            FailureCode::Known(code)
        }
        Some(_) => FailureCode::Other,
    }
}

impl Answering {
    /// Takes no more, and returns when what is under way was answered. The connections to RabbitMQ must
    /// stand until then.
    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_stranger_makes_a_label() {
        for (code, shown) in [
            (None, FailureCode::None),
            (Some(131_026), FailureCode::Known(131_026)),
            (Some(250), FailureCode::Known(250)),
            (Some(999_999), FailureCode::Other),
        ] {
            assert_eq!(known(code), shown);
        }
    }
}
