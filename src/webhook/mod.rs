//! What became of messages, as ChakraHQ tells it by webhook: an HTTP listener of its own, whose events go
//! to the results exchange. Reading order: `receive` is one request's way, `envelope` what stands in a
//! body, `door` who may come in, `seen` what was told before.
//!
//! Knows neither RabbitMQ nor the worker nor Meta's codes: what it needs of them comes as [`Ties`]. Keeps
//! nothing: what it has answered with 200 is in RabbitMQ, what it has not is repeated by the sender.

mod body;
mod door;
mod envelope;
mod json;
mod notice;
mod receive;
mod seen;
mod signature;

pub use door::Proof;
pub use envelope::{Contents, MAX_MESSAGE_ID_BYTES, NotJson, read};
pub use notice::{Fault, Notice, Resolved, Subject};

use crate::listener::{Bounds, Listener};
use crate::metrics::Metrics;
use crate::policy::Failure;
use crate::wire::{JobId, NumberId, StatusEvent};
use door::Door;
use futures_util::future::BoxFuture;
use hyper::service::service_fn;
use receive::Reception;
use secrecy::SecretString;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// At 3,000 webhooks a second of 20 ms each 60 are under way. Idle ones are kept for longer than the 60 s
/// for which proxies keep theirs, so that none is closed on which a request is just coming.
const BOUNDS: Bounds =
    Bounds { name: "webhook", connections: 256, header: Duration::from_secs(75) };

/// Tells the job that a message is known to belong to.
pub type JobOf = dyn Fn(&Notice) -> Option<JobId> + Send + Sync;

/// What the webhook needs of the rest of the worker. None of these may wait, but for publishing.
pub struct Ties {
    /// Publishes an event; true once the broker has it, false as soon as it is clear that it will not.
    pub publish: Box<dyn Fn(StatusEvent) -> BoxFuture<'static, bool> + Send + Sync>,
    /// The job that a message is known to belong to.
    pub job_of: Box<JobOf>,
    /// What a fault means.
    pub explain: Box<dyn Fn(&Fault) -> Failure + Send + Sync>,
    /// Whether a number has a lane, anywhere.
    pub has_lane: Box<dyn Fn(&NumberId) -> bool + Send + Sync>,
    /// Hears of each status that was published.
    pub on_status: Box<dyn Fn(&Resolved) + Send + Sync>,
}

/// The listener, bound but not yet answering.
#[derive(Debug)]
pub struct Webhook(Listener);

impl Webhook {
    /// Takes the address. Fails when another process has it.
    pub async fn bind(address: SocketAddr) -> io::Result<Webhook> {
        Ok(Webhook(Listener::bind(address).await?))
    }

    /// The address taken, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    /// Answers until `stop`, and then for as long as answers under way need, bounded. Without a
    /// `verify_token` no challenge of Meta's is answered.
    pub async fn serve(
        self,
        proof: &Proof,
        verify_token: Option<SecretString>,
        ties: Ties,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
        let reception = Arc::new(Reception::new(Door::new(proof, verify_token), metrics, ties));
        let service = service_fn(move |request| receive::receive(Arc::clone(&reception), request));
        self.0.serve(service, BOUNDS, stop).await;
    }
}
