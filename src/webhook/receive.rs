//! One request's way: may it come in, does its body fit, what stands in it, and has RabbitMQ got all of
//! that. Only then is it answered with 200.
//!
//! The cheap questions come first, and nothing of a body is read before its signature was found right.

use super::Ties;
use super::body::{NoBody, Room};
use super::door::Door;
use super::envelope::{self, Contents, NotJson};
use super::notice::{Notice, Resolved};
use super::seen::{Old, Seen};
use super::signature;
use crate::clock;
use crate::listener::Arriving;
use crate::metrics::{Metrics, PassedOver, WebhookOutcome};
use axum::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

/// RabbitMQ has confirmed by then, or the sender is asked to repeat: Meta wants an answer within 250 ms.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(200);

/// Statuses of one body under way at once; a body can hold thousands.
const AT_ONCE: usize = 128;

/// Whoever may not come in hears so after this, and its connection is closed: a flood of such requests is
/// held to a few for each connection and second.
const REFUSED_AFTER: Duration = Duration::from_millis(250);

/// A sender that is to repeat does so after this many seconds, where it heeds it.
const REPEAT_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A kind of refusal is not logged again before this has passed; all are counted.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// What all requests share.
pub(super) struct Reception {
    door: Door,
    room: Room,
    /// One body at a time is checked and read: whatever comes in, the sending side has the other cores.
    reading: Semaphore,
    seen: Mutex<Seen>,
    warned: Mutex<HashMap<WebhookOutcome, Instant>>,
    metrics: Arc<Metrics>,
    ties: Ties,
}

/// What to answer, but for the way it is written.
struct Answer {
    outcome: WebhookOutcome,
    text: String,
}

impl From<WebhookOutcome> for Answer {
    fn from(outcome: WebhookOutcome) -> Answer {
        Answer { outcome, text: format!("{}\n", outcome.name()) }
    }
}

/// Answers one request.
pub(super) async fn receive(
    here: Arc<Reception>,
    request: Request<Arriving>,
) -> Result<Response, Infallible> {
    let begun = clock::monotonic();
    let answer = here.answer(request).await;
    here.metrics.webhooks().answered(answer.outcome, begun.elapsed());
    here.warn(answer.outcome);
    if is_a_strangers(answer.outcome) {
        sleep(REFUSED_AFTER).await;
    }
    Ok(response(answer))
}

impl Reception {
    pub(super) fn new(door: Door, metrics: Arc<Metrics>, ties: Ties) -> Reception {
        Reception {
            door,
            room: Room::new(),
            reading: Semaphore::new(1),
            seen: Mutex::new(Seen::new(clock::monotonic())),
            warned: Mutex::default(),
            metrics,
            ties,
        }
    }

    async fn answer(&self, request: Request<Arriving>) -> Answer {
        if !self.door.is_at(request.uri().path()) {
            return WebhookOutcome::WrongPath.into();
        }
        match *request.method() {
            Method::POST => self.webhook(request).await.map_or_else(Answer::from, Answer::from),
            Method::GET => match self.door.answer(request.uri().query().unwrap_or_default()) {
                Some(text) => Answer { outcome: WebhookOutcome::Challenge, text },
                None => WebhookOutcome::WrongToken.into(),
            },
            _ => WebhookOutcome::WrongMethod.into(),
        }
    }

    async fn webhook(&self, request: Request<Arriving>) -> Result<WebhookOutcome, WebhookOutcome> {
        let signature = request.headers().get(signature::HEADER).map(HeaderValue::as_bytes);
        let seal = self.door.seal(signature).ok_or(WebhookOutcome::WrongSignature)?;
        // Its part of the room is free only once all is told: what was read out of it takes room as well.
        let body = self.room.take(request.into_body()).await?;
        let contents = {
            let _turn = self.reading.acquire().await;
            if !seal.is_on(&body.bytes) {
                return Err(WebhookOutcome::WrongSignature);
            }
            envelope::read(&body.bytes, clock::wall())?
        };
        match timeout(CONFIRMED_WITHIN, self.tell(contents)).await {
            Ok(true) => Ok(WebhookOutcome::Taken),
            Ok(false) | Err(_) => Err(WebhookOutcome::Unconfirmed),
        }
    }

    /// Publishes what stood in a body. True when the broker has all of it.
    async fn tell(&self, contents: Contents) -> bool {
        let Contents { notices, others, unknown, strange } = contents;
        let counted = [
            (PassedOver::Other, others),
            (PassedOver::UnknownStatus, unknown),
            (PassedOver::Strange, strange),
        ];
        for (why, count) in counted {
            self.metrics.webhooks().passed_over(why, count);
        }
        // Not ended by the first that fails: what is told once need not be told again.
        let telling = stream::iter(notices).map(|notice| self.tell_one(notice));
        telling.buffer_unordered(AT_ONCE).fold(true, async |all, one| all && one).await
    }

    async fn tell_one(&self, notice: Notice) -> bool {
        let known = lock(&self.seen).knows(&notice);
        if let Some(old) = known {
            let why = match old {
                Old::Repeat => PassedOver::Repeat,
                Old::StepBack => PassedOver::StepBack,
            };
            self.metrics.webhooks().passed_over(why, 1);
            return true;
        }
        let resolved = self.resolve(notice);
        if !(self.ties.publish)(resolved.event()).await {
            return false;
        }
        let Resolved { notice, subject, .. } = &resolved;
        // Where nothing says whose it is, the other shape of the same webhook may.
        if notice.number.is_some() || subject.job.is_some() {
            lock(&self.seen).mark(notice, clock::monotonic());
        }
        let lane = notice.number.as_ref().filter(|number| (self.ties.has_lane)(number));
        self.metrics.webhooks().published(lane, notice.status);
        (self.ties.on_status)(&resolved);
        true
    }

    fn resolve(&self, notice: Notice) -> Resolved {
        let subject = notice.subject((self.ties.job_of)(&notice));
        let failure = notice.fault.as_ref().map(|fault| (self.ties.explain)(fault));
        Resolved { notice, subject, failure }
    }

    /// Says in the log that requests are refused, seldom, and nothing of what stood in them.
    fn warn(&self, outcome: WebhookOutcome) {
        if matches!(outcome, WebhookOutcome::Taken | WebhookOutcome::Challenge) {
            return;
        }
        let now = clock::monotonic();
        let mut warned = lock(&self.warned);
        if warned.get(&outcome).is_none_or(|last| now.duration_since(*last) >= WARN_EVERY) {
            warned.insert(outcome, now);
            tracing::warn!(
                reason = outcome.name(),
                status = status(outcome).as_u16(),
                "a webhook was refused; more of this kind are only counted for a minute"
            );
        }
    }
}

impl From<NotJson> for WebhookOutcome {
    fn from(_: NotJson) -> WebhookOutcome {
        WebhookOutcome::NotJson
    }
}

impl From<NoBody> for WebhookOutcome {
    fn from(why: NoBody) -> WebhookOutcome {
        match why {
            NoBody::TooLarge => WebhookOutcome::TooLarge,
            NoBody::TooSlow => WebhookOutcome::TooSlow,
            NoBody::BrokenOff => WebhookOutcome::BrokenOff,
            NoBody::Busy => WebhookOutcome::Busy,
        }
    }
}

/// Whether nothing shows that ChakraHQ or Meta sent it.
fn is_a_strangers(outcome: WebhookOutcome) -> bool {
    match outcome {
        WebhookOutcome::WrongToken
        | WebhookOutcome::WrongPath
        | WebhookOutcome::WrongMethod
        | WebhookOutcome::WrongSignature
        | WebhookOutcome::TooLarge
        | WebhookOutcome::TooSlow
        | WebhookOutcome::BrokenOff => true,
        WebhookOutcome::Taken
        | WebhookOutcome::Challenge
        | WebhookOutcome::NotJson
        | WebhookOutcome::Busy
        | WebhookOutcome::Unconfirmed => false,
    }
}

fn status(outcome: WebhookOutcome) -> StatusCode {
    match outcome {
        WebhookOutcome::Taken | WebhookOutcome::Challenge => StatusCode::OK,
        WebhookOutcome::NotJson | WebhookOutcome::BrokenOff => StatusCode::BAD_REQUEST,
        WebhookOutcome::WrongSignature => StatusCode::UNAUTHORIZED,
        WebhookOutcome::WrongToken => StatusCode::FORBIDDEN,
        WebhookOutcome::WrongPath => StatusCode::NOT_FOUND,
        WebhookOutcome::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
        WebhookOutcome::TooSlow => StatusCode::REQUEST_TIMEOUT,
        WebhookOutcome::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        WebhookOutcome::Busy | WebhookOutcome::Unconfirmed => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn response(answer: Answer) -> Response {
    let Answer { outcome, text } = answer;
    let mut response = (status(outcome), text).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if is_a_strangers(outcome) {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if status(outcome) == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, REPEAT_AFTER);
    }
    if status(outcome) == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, POST"));
    }
    response
}

/// Each change behind these locks is one step, so a task that panicked has left nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
