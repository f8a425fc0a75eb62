//! Posts webhooks when they are due, a bounded number at once, again where they are not taken.
//!
//! What is posted and when was decided before; what came of it goes into the record.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Uri, header::CONTENT_TYPE, rt::Executor};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::{Shared, record::Post},
    Webhook,
    bodies::{body, signature},
    outbox::Parcel,
};

const SIGNATURE: &str = "x-chakra-signature-256";
/// The only answer that counts as taken.
const TAKEN: u16 = 200;
/// Most of an answer's body that is read, so that its connection can serve again.
const MOST_ANSWER: usize = 64 << 10;
/// The pause between two posts of one webhook grows up to this.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

type Poster = Client<HttpConnector, Full<Bytes>>;

/// Posts until stopped; posts under way are given up then.
pub(in crate::sandbox) async fn run(
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let client = client(Connections { tasks, stop: stop.clone() });
    let posting = async {
        let mut posts = JoinSet::new();
        loop {
            let settings = shared.state().webhook.clone();
            let is_full = hand_out(&shared, &settings, &client, &mut posts);
            let next = shared.outbox().next().filter(|_| !is_full);
            tokio::select! {
                () = shared.more_to_post.notified(), if !is_full => {}
                Some(posted) = posts.join_next() => settle(&shared, &settings, posted),
                () = until(next), if next.is_some() => {}
            }
        }
    };
    stop.run_until_cancelled(posting).await;
}

/// What one post came to.
type Posted = (Parcel, Post);

/// Starts the posts that are due. Whether there is no room for more.
fn hand_out(
    shared: &Shared,
    settings: &Arc<Webhook>,
    client: &Poster,
    posts: &mut JoinSet<Posted>,
) -> bool {
    let Some(address) = settings.address() else {
        // Switched off meanwhile.
        let dropped = shared.outbox().empty();
        shared.record.note_dropped(dropped);
        return false;
    };
    while posts.len() < settings.concurrency {
        let Some(parcel) = shared.outbox().take(Instant::now(), settings) else { return false };
        posts.spawn(post(client.clone(), address.clone(), settings.clone(), parcel));
    }
    true
}

/// One post, from the request to the whole answer.
async fn post(client: Poster, to: Uri, settings: Arc<Webhook>, mut parcel: Parcel) -> Posted {
    let body = body(parcel.form, &parcel.notices, settings.opaque_on_failed);
    let began = Instant::now();
    let status = timeout(settings.timeout, exchange(&client, to, &settings, body)).await;
    let status = status.ok().flatten();
    parcel.tries += 1;
    if let Some(waits) = parcel.first_answer.take() {
        // Whoever waited may have left.
        waits.send(()).ok();
    }
    let posted = Post {
        at: began,
        took: began.elapsed(),
        status,
        form: parcel.form,
        tries: parcel.tries,
        events: parcel.notices.iter().map(|n| (n.of.wamid.clone(), n.event)).collect(),
    };
    (parcel, posted)
}

/// The status of the answer; none when there was none.
async fn exchange(client: &Poster, to: Uri, settings: &Webhook, body: String) -> Option<u16> {
    let mut request = Request::post(to).header(CONTENT_TYPE, "application/json");
    if let Some(secret) = &settings.secret {
        request = request.header(SIGNATURE, signature(secret, body.as_bytes()));
    }
    let request = request.body(Full::from(body)).ok()?;
    let response = client.request(request).await.ok()?;
    let status = response.status().as_u16();
    // Only to free the connection; the status has said it all.
    Limited::new(response.into_body(), MOST_ANSWER).collect().await.ok();
    Some(status)
}

/// Ends a post: taken, to be posted again, or given up.
fn settle(shared: &Shared, settings: &Webhook, posted: Result<Posted, tokio::task::JoinError>) {
    // A post neither panics nor is aborted while the sandbox runs.
    let Ok((parcel, post)) = posted else { return };
    let events = parcel.notices.len();
    let is_taken = post.status == Some(TAKEN);
    let is_given_up = !is_taken && parcel.tries > settings.retries;
    if is_taken || is_given_up {
        shared.outbox().release(events);
    } else {
        let at = Instant::now() + backoff(settings.backoff, parcel.tries);
        shared.outbox().put_back(parcel, at);
    }
    shared.record.note_post(post, is_taken, is_given_up);
}

/// The pause after the try with this number, which counts from 1.
fn backoff(first: Duration, tries: u32) -> Duration {
    let doublings = 2_u32.saturating_pow(tries.saturating_sub(1));
    first.saturating_mul(doublings).min(LONGEST_BACKOFF)
}

async fn until(at: Option<Instant>) {
    if let Some(at) = at {
        sleep_until(at).await;
    }
}

fn client(connections: Connections) -> Poster {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(connections).build(connector)
}

/// Runs the client's connections as tasks of the sandbox, so that its end is theirs.
#[derive(Debug, Clone)]
struct Connections {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Connections {
    fn execute(&self, connection: F) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { stop.run_until_cancelled(connection).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_bound() {
        let first = Duration::from_secs(1);
        let pauses = [1, 2, 3, 9, u32::MAX].map(|tries| backoff(first, tries).as_secs());
        assert_eq!(pauses, [1, 2, 4, 60, 60]);
        assert_eq!(backoff(Duration::ZERO, 3), Duration::ZERO);
    }
}
