//! HTTP: connections, paths, and the enactment of what `messages` decided.
//!
//! Raw hyper, since an answer may have to be a closed connection. It decides nothing about a
//! message.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::{
    Request, Response, body::Incoming, header::AUTHORIZATION, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Fault, Number, Settings, Shared, Webhook,
    answers::Reply,
    body::AnswerBody,
    config::{ListingMode, PluginMode},
    listings::{Query, Sends},
    messages::{Act, Arrival, turned_away},
    plugin,
    route::{Listing, Own, Route, route},
    stamped::{Came, Stamped, note_arrivals},
};

/// Most connections at once; further ones wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 4_096;
/// Greatest body read. The real bound is unknown; the largest lawful message is far smaller.
const MOST_BODY: usize = 1 << 20;
/// How long a hanging request is held at most.
const LONGEST_HANG: Duration = Duration::from_secs(600);
/// The pause after a failed accept, for instance when file descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Accepts connections until stopped.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    note_arrivals(&listener);
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let accepting = async {
        while let Ok(place) = places.clone().acquire_owned().await {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = connection(stream, shared.clone(), place);
                    let stop = stop.clone();
                    tasks.spawn(async move { stop.run_until_cancelled(serving).await });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    stop.run_until_cancelled(accepting).await;
}

/// Serves one connection until either side closes it.
async fn connection(stream: TcpStream, shared: Arc<Shared>, _place: OwnedSemaphorePermit) {
    // A caller that has left already shows in the next read.
    stream.set_nodelay(true).ok();
    let stream = Stamped::new(stream);
    let came = stream.came();
    let service = service_fn(|request| answer(&shared, request, &came));
    // Its errors are the callers' closed connections and our own cuts.
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
}

/// The connection is to be closed instead of answered.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox closes this connection")]
struct Closed;

async fn answer(
    shared: &Shared,
    request: Request<Incoming>,
    came: &Came,
) -> Result<Response<AnswerBody>, Closed> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MOST_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Ok(whole(Reply::error(413, "Request body too large")));
        }
        Err(_) => return Err(Closed),
    };
    let key = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let authorized = || {
        let token = key.and_then(|key| key.strip_prefix("Bearer "));
        token.is_some_and(|token| token == shared.state().token)
    };
    match route(&head.method, head.uri.path()) {
        Route::Messages { plugin, number } => {
            let barred = if !authorized() {
                Some(Reply::unauthorized())
            } else if plugin != shared.plugin_id {
                Some(plugin_not_found())
            } else {
                None
            };
            take(shared, number, &body, barred, came).await
        }
        Route::Own(own) => Ok(whole(control(shared, own, &body))),
        Route::Health => Ok(whole(Reply::json(&json!({"_data": {"status": "ok"}})))),
        Route::Unknown => Ok(whole(Reply::error(404, "Not found"))),
        Route::Config { .. } | Route::Listing(_) if !authorized() => {
            Ok(whole(Reply::unauthorized()))
        }
        Route::Config { plugin } if plugin == shared.plugin_id => describe(shared).await,
        Route::Config { .. } => Ok(whole(plugin_not_found())),
        Route::Listing(listing) => Ok(whole(list(shared, listing, &body))),
    }
}

/// One request to `/messages`: decided, recorded, enacted.
async fn take(
    shared: &Shared,
    number: &str,
    body: &Bytes,
    barred: Option<Reply>,
    came: &Came,
) -> Result<Response<AnswerBody>, Closed> {
    let plan = {
        let mut state = shared.state();
        // Read under the lock, so that the limits see time in order.
        let now = Instant::now();
        let came = came.at(now, wall());
        let arrival = Arrival { now, came, wall_ms: wall_ms(), number, body };
        match barred {
            Some(reply) => turned_away(arrival, reply),
            None => state.take(arrival),
        }
    };
    shared.record.note(plan.entry);
    let early = shared.post_soon(plan.course);
    if !early.is_empty() {
        wait_for(shared, early).await;
    }
    if !plan.delay.is_zero() {
        sleep(plan.delay).await;
    }
    match plan.act {
        Act::Answer(reply) => Ok(whole(reply)),
        Act::Close => Err(Closed),
        Act::CloseInBody(reply) => Ok(reply.into_response(AnswerBody::cut)),
        Act::Hang => hang().await,
    }
}

/// Waits until webhooks that go before the answer were posted, or will not be.
async fn wait_for(shared: &Shared, early: Vec<oneshot::Receiver<()>>) {
    let bound = shared.state().webhook.timeout;
    let all = async {
        for posted in early {
            // An error: it will not be posted any more.
            posted.await.ok();
        }
    };
    // Bounded, since the outbox may hold much that goes before.
    timeout(bound, all).await.ok();
}

async fn hang() -> Result<Response<AnswerBody>, Closed> {
    // hyper drops this future when the caller leaves.
    sleep(LONGEST_HANG).await;
    Err(Closed)
}

/// The plugin's configuration, in its mode.
async fn describe(shared: &Shared) -> Result<Response<AnswerBody>, Closed> {
    let (mode, document, nothing) = {
        let state = shared.state();
        let shows = |numbers| plugin::config(numbers, &state.webhook, &state.plugin.shown);
        (state.plugin.mode, shows(state.numbers()), shows(&[]))
    };
    shared.record.note_plugin_asked();
    Ok(whole(match mode {
        PluginMode::Ok => Reply::json(&document),
        PluginMode::Error => Reply::gateway(500),
        PluginMode::Forbidden => Reply::error(403, "Forbidden"),
        PluginMode::Empty => Reply::json(&nothing),
        PluginMode::Garbage => Reply::half(&document),
        PluginMode::Hang => return hang().await,
    }))
}

fn list(shared: &Shared, listing: Listing<'_>, body: &Bytes) -> Reply {
    let text = if body.is_empty() { b"{}".as_slice() } else { body };
    let Ok(query) = serde_json::from_slice::<Query>(text) else {
        return Reply::error(400, "Request body is not valid");
    };
    let state = shared.state();
    let nothing = Sends::default();
    let sends = match state.listings.mode {
        ListingMode::Ok => &state.sends,
        ListingMode::Empty => &nothing,
        ListingMode::Forbidden => return Reply::error(403, "Forbidden"),
        ListingMode::Error => return Reply::gateway(500),
    };
    let (settings, now) = (&state.listings, Instant::now());
    let plugin = &shared.plugin_id;
    Reply::json(&match listing {
        Listing::Chats => sends.chats(settings, now, &query),
        Listing::Chat(id) => sends.in_chat(settings, now, plugin, id, &query),
        Listing::Customer => match query.customer() {
            Some(customer) => sends.with_customer(settings, now, plugin, &customer, &query),
            None => return Reply::error(400, "customerPhoneNumber is required"),
        },
    })
}

fn control(shared: &Shared, own: Own, body: &Bytes) -> Reply {
    let changed = match own {
        Own::Record => {
            return Reply::json(&serde_json::to_value(shared.record.summary()).unwrap_or_default());
        }
        Own::ClearRecord => {
            shared.record.clear();
            Ok(())
        }
        Own::Faults => parse::<Vec<Fault>>(body)
            .and_then(|faults| shared.set_faults(faults).map_err(|error| error.to_string())),
        Own::Numbers => parse::<Vec<Number>>(body).and_then(|numbers| {
            shared.state().set_numbers(numbers).map_err(|error| error.to_string())
        }),
        Own::Webhook => parse::<Webhook>(body)
            .and_then(|webhook| shared.set_webhook(webhook).map_err(|error| error.to_string())),
        Own::Settings => parse::<Settings>(body)
            .and_then(|settings| shared.set(settings).map_err(|error| error.to_string())),
    };
    match changed {
        Ok(()) => Reply::json(&json!({"success": true})),
        Err(reason) => Reply::error(400, &reason),
    }
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn plugin_not_found() -> Reply {
    Reply::error(404, "Plugin not found")
}

fn whole(reply: Reply) -> Response<AnswerBody> {
    reply.into_response(AnswerBody::whole)
}

/// Unix time in milliseconds.
pub(super) fn wall_ms() -> i64 {
    let since = wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the sandbox shares no clock with the sender")]
pub(super) fn wall() -> SystemTime {
    SystemTime::now()
}
