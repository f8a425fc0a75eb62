//! What all lanes share of the account: its pace, and its brake. It waits for them and tells operators
//! when the brake goes on or off; what a request's end means for the brake is decided in `limiter`.

use super::lanes::sleep_until;
use super::lock;
use crate::chakra::NewTokens;
use crate::clock;
use crate::limiter::{self, Brake, Change, Gate, Rate, Sign, Wait};
use crate::metrics::Metrics;
use crate::policy::Answer;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The account's gates.
#[derive(Debug)]
pub(super) struct Account {
    /// No pace unless configured.
    gate: Option<Mutex<Gate>>,
    brake: Mutex<Brake>,
    /// The brake changed while it was on.
    changed: Notify,
    metrics: Arc<Metrics>,
}

impl Account {
    pub(super) fn new(rate: Option<Rate>, metrics: Arc<Metrics>, now: Instant) -> Account {
        Account {
            gate: rate.map(|rate| Mutex::new(Gate::new(rate, now))),
            brake: Mutex::default(),
            changed: Notify::new(),
            metrics,
        }
    }

    /// When the next request of any number may start by the account's pace. The moment is paid.
    pub(super) fn reserve(&self) -> Instant {
        let now = clock::monotonic();
        self.gate.as_ref().map_or(now, |gate| lock(gate).reserve(now))
    }

    pub(super) fn is_paced(&self) -> bool {
        self.gate.is_some()
    }

    /// Waits until the brake would let a request go. Takes nothing.
    pub(super) async fn unbraked(&self) {
        loop {
            // Made before the look, so that no change between look and wait is missed.
            let changed = self.changed.notified();
            let asked = lock(&self.brake).ask(clock::monotonic());
            match asked {
                Ok(()) => return,
                Err(Wait::ForProbe) => changed.await,
                Err(Wait::Until(until)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// The right to one request, unless the brake is on.
    pub(super) fn pass(self: &Arc<Self>) -> Option<Pass> {
        let pass = lock(&self.brake).pass(clock::monotonic()).ok()?;
        Some(Pass { account: Arc::clone(self), pass: Some(pass) })
    }

    /// Lets a probe go as soon as there is a new API key. Ends with the client.
    pub(super) async fn heed_tokens(self: Arc<Self>, mut tokens: NewTokens) {
        while tokens.next().await.is_some() {
            lock(&self.brake).begin_anew(clock::monotonic());
            self.changed.notify_waiters();
        }
    }

    fn ended(&self, pass: limiter::Pass, sign: Sign, answer: Option<&Answer>) {
        let (change, was_on) = {
            let mut brake = lock(&self.brake);
            let was_on = brake.is_on();
            let change = brake.ended(pass, sign, clock::monotonic());
            if change.is_some() {
                self.metrics.brake(brake.is_on());
            }
            (change, was_on)
        };
        if was_on {
            self.changed.notify_waiters();
        }
        match change {
            None => {}
            Some(Change::On(wait)) => {
                let reason = reason(answer);
                tracing::warn!(reason, ?wait, "the brake is on: one probe at a time goes out");
            }
            Some(Change::StillOn(wait)) => {
                tracing::debug!(reason = reason(answer), ?wait, "the brake stays on");
            }
            Some(Change::Off) => tracing::info!("the brake is off: ChakraHQ answers"),
        }
    }
}

/// The right to one request. Dropped without an answer it is given back.
#[derive(Debug)]
pub(super) struct Pass {
    account: Arc<Account>,
    /// None once its end was told.
    pass: Option<limiter::Pass>,
}

impl Pass {
    /// What came of the request.
    pub(super) fn ended(mut self, answer: &Answer) {
        if let Some(pass) = self.pass.take() {
            self.account.ended(pass, Sign::of(answer), Some(answer));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.account.ended(pass, Sign::Nothing, None);
        }
    }
}

/// An answer's own words can quote a message; the words of a failed connection cannot.
fn reason(answer: Option<&Answer>) -> String {
    match answer {
        Some(Answer::Failed(failure)) if failure.http_status.is_none() => failure.message.clone(),
        Some(Answer::Failed(failure)) => failure.short(),
        Some(Answer::Accepted { .. }) | None => String::new(),
    }
}
