//! What all lanes share of the account: its pace, with what was learned of it, and its brake. It waits
//! for them, tells operators when the brake goes on or off, and tells the queue where that takes long;
//! what a request's end means is decided in `limiter`.

use super::lanes::wait_out;
use super::lock;
use crate::chakra::NewTokens;
use crate::clock;
use crate::limiter::{self, Brake, Change, Pace, Rate, Sign, Wait};
use crate::metrics::{AccountRateSource, Metrics};
use crate::policy::{Answer, Failure};
use crate::queue::{Holds, Workers};
use crate::wire::{Class, Scope};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// While the brake lets nothing go for longer than this, the queue gives the account's jobs to nobody:
/// they wait in the broker. An outage's probes come more often, so its jobs stay in hand.
const HELD_ABOVE: Duration = Duration::from_secs(60);

/// The account's gates.
#[derive(Debug)]
pub(super) struct Account {
    paced: Mutex<Paced>,
    brake: Mutex<Brake>,
    /// The brake changed while it was on.
    changed: Notify,
    holds: Holds,
    metrics: Arc<Metrics>,
}

/// This worker's part of the account's pace.
#[derive(Debug)]
struct Paced {
    /// Of all workers together.
    configured: Option<Rate>,
    workers: usize,
    /// No pace unless one is configured, or the service asked to slow down.
    pace: Pace,
}

impl Paced {
    fn new(configured: Option<Rate>, now: Instant) -> Paced {
        Paced { configured, workers: 1, pace: Pace::new(configured, now) }
    }

    /// Goes on with what changed, with every debt.
    fn follow(&mut self, now: Instant) {
        let share = self.configured.map(|rate| rate.share(self.workers));
        self.pace.retune(share, now);
    }
}

impl Account {
    pub(super) fn new(
        rate: Option<Rate>,
        holds: Holds,
        metrics: Arc<Metrics>,
        now: Instant,
    ) -> Account {
        Account {
            paced: Mutex::new(Paced::new(rate, now)),
            brake: Mutex::default(),
            changed: Notify::new(),
            holds,
            metrics,
        }
    }

    /// When the next request of any number may start by the account's pace. The moment is paid.
    pub(super) fn reserve(&self) -> Instant {
        lock(&self.paced).pace.reserve(clock::monotonic())
    }

    pub(super) fn is_paced(&self) -> bool {
        lock(&self.paced).pace.rate(clock::monotonic()).is_some()
    }

    /// Goes on at another configured pace, with every debt.
    pub(super) fn retune(&self, rate: Option<Rate>) {
        let mut paced = lock(&self.paced);
        paced.configured = rate;
        paced.follow(clock::monotonic());
    }

    /// Keeps to this worker's part of the configured pace, as workers come and go.
    pub(super) async fn share_with(self: Arc<Self>, mut workers: Workers) {
        while let Some(count) = workers.next().await {
            let mut paced = lock(&self.paced);
            if paced.workers != count {
                paced.workers = count;
                paced.follow(clock::monotonic());
            }
        }
    }

    /// Shows the pace to operators.
    pub(super) fn show(&self, now: Instant) {
        let Paced { pace, .. } = &*lock(&self.paced);
        let source = match pace.is_learned(now) {
            true => AccountRateSource::Learned,
            false => AccountRateSource::Configured,
        };
        self.metrics.account_rate_limit(pace.rate(now).map(|rate| (source, rate.per_second())));
    }

    /// Waits until the brake would let a request go. Takes nothing.
    pub(super) async fn unbraked(&self) {
        wait_out(&self.changed, |now| lock(&self.brake).ask(now)).await;
    }

    /// Until when the brake lets nothing go, as far as is known; none while it does.
    pub(super) fn held_until(&self, now: Instant) -> Option<Instant> {
        lock(&self.brake).ask(now).err().map(|wait| wait.moment(now))
    }

    /// The right to one request, unless the brake is on.
    pub(super) fn pass(self: &Arc<Self>) -> Option<Pass> {
        let sent = clock::monotonic();
        let pass = lock(&self.brake).pass(sent).ok()?;
        Some(Pass { account: Arc::clone(self), pass: Some(pass), sent })
    }

    /// Lets a probe go as soon as there is a new API key. Ends with the client.
    pub(super) async fn heed_tokens(self: Arc<Self>, mut tokens: NewTokens) {
        while tokens.next().await.is_some() {
            let now = clock::monotonic();
            let mut brake = lock(&self.brake);
            brake.begin_anew(now);
            self.tell_queue(&brake, now);
            drop(brake);
            self.changed.notify_waiters();
        }
    }

    /// A message failed after it had been accepted, for a reason that is the account's.
    pub(super) fn heard(&self, failure: Failure, at: Instant) {
        self.ended(None, at, Some(&Answer::Failed(failure)));
    }

    /// `pass` of the request, where one was made.
    fn ended(&self, pass: Option<limiter::Pass>, sent: Instant, answer: Option<&Answer>) {
        let now = clock::monotonic();
        let sign = answer.map_or(Sign::Nothing, Sign::of);
        let (change, was_on) = {
            let mut brake = lock(&self.brake);
            let was_on = brake.is_on();
            let change = match pass {
                Some(pass) => brake.ended(pass, sign, now),
                None => brake.heard(sign, sent, now),
            };
            if change.is_some() {
                self.metrics.brake(brake.is_on());
            }
            if was_on || change.is_some() {
                self.tell_queue(&brake, now);
            }
            (change, was_on)
        };
        if was_on {
            self.changed.notify_waiters();
        }
        match answer {
            Some(Answer::Accepted { .. }) => lock(&self.paced).pace.accepted(now),
            // While the brake is on only probes go: their refusals tell of no pace.
            Some(Answer::Failed(failure)) if !was_on && is_too_fast(failure) => {
                self.slow(sent, now);
            }
            Some(Answer::Failed(_)) | None => {}
        }
        match change {
            None => {}
            Some(Change::On(wait)) => {
                let (reason, remedy) = (reason(answer), remedy(answer));
                tracing::warn!(
                    reason,
                    remedy,
                    ?wait,
                    "the brake is on: one probe at a time goes out"
                );
            }
            Some(Change::StillOn(wait)) => {
                tracing::debug!(reason = reason(answer), ?wait, "the brake stays on");
            }
            Some(Change::Off) => tracing::info!("the brake is off: ChakraHQ answers"),
        }
    }

    fn slow(&self, sent: Instant, now: Instant) {
        let Paced { pace, .. } = &mut *lock(&self.paced);
        if pace.refused(sent, now) {
            let rate = pace.rate(now).map(Rate::per_second);
            tracing::info!(rate, "the account was refused for going too fast: slower from here");
        }
    }

    fn tell_queue(&self, brake: &Brake, now: Instant) {
        let long = match brake.ask(now) {
            Err(Wait::Until(until)) => Some(until).filter(|until| *until > now + HELD_ABOVE),
            Err(Wait::ForProbe) | Ok(()) => None,
        };
        self.holds.hold_account(long);
    }
}

fn is_too_fast(failure: &Failure) -> bool {
    (failure.class, failure.scope) == (Class::Throttled, Scope::Account)
}

/// The right to one request. Dropped without an answer it is given back.
#[derive(Debug)]
pub(super) struct Pass {
    account: Arc<Account>,
    /// None once its end was told.
    pass: Option<limiter::Pass>,
    sent: Instant,
}

impl Pass {
    /// The request starts now.
    pub(super) fn starts(&mut self, now: Instant) {
        self.sent = now;
    }

    /// What came of the request.
    pub(super) fn ended(mut self, answer: &Answer) {
        if let Some(pass) = self.pass.take() {
            self.account.ended(Some(pass), self.sent, Some(answer));
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.account.ended(Some(pass), self.sent, None);
        }
    }
}

/// An answer's own words can quote a message; the words of a failed connection cannot.
fn remedy(answer: Option<&Answer>) -> Option<&'static str> {
    match answer {
        Some(Answer::Failed(failure)) => failure.remedy(),
        Some(Answer::Accepted { .. }) | None => None,
    }
}

fn reason(answer: Option<&Answer>) -> String {
    match answer {
        Some(Answer::Failed(failure)) => match (failure.code, failure.http_status) {
            (None, None) => failure.message.clone(),
            (Some(_), _) | (_, Some(_)) => failure.short(),
        },
        Some(Answer::Accepted { .. }) | None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Served;
    use crate::wire::NumberId;
    use futures_util::FutureExt;
    use std::collections::BTreeSet;
    use std::pin::pin;

    /// An account, and what its queue is told.
    fn account(rate: Option<Rate>) -> (Arc<Account>, Holds) {
        let (holds, metrics) = (Holds::default(), Arc::new(Metrics::new().unwrap()));
        let account = Account::new(rate, holds.clone(), metrics, clock::monotonic());
        (Arc::new(account), holds)
    }

    fn refused(account: &Arc<Account>, class: Class, wait: Option<u64>) {
        let wait = wait.map(Duration::from_secs);
        let failure = Failure { scope: Scope::Account, wait, ..Failure::new(class, "x") };
        account.pass().unwrap().ended(&Answer::Failed(failure));
    }

    #[test]
    fn a_long_rest_is_told_to_the_queue_and_a_short_one_is_not() {
        for (wait, is_told) in [(600, true), (60, false)] {
            let (account, holds) = account(None);
            refused(&account, Class::Blocked, Some(wait));
            let (number, now) = (NumberId::parse("1").unwrap(), clock::monotonic());
            assert_eq!(holds.until(&number, now).is_some(), is_told, "{wait}");
            assert!(account.held_until(now).is_some() && account.pass().is_none());
        }
    }

    #[test]
    fn who_goes_too_fast_is_slowed_and_who_may_not_is_not() {
        for (class, is_paced) in [(Class::Throttled, true), (Class::Blocked, false)] {
            let (account, _) = account(None);
            assert!(!account.is_paced());
            refused(&account, class, Some(1));
            assert_eq!(account.is_paced(), is_paced, "{class:?}");
        }
    }

    #[test]
    fn with_others_it_keeps_to_its_part_of_the_configured_pace() {
        let (account, _) = account(Some(Rate::new(100.0, Some(8)).unwrap()));
        let served = Served::default();
        let share = || lock(&account.paced).pace.rate(clock::monotonic()).unwrap();
        let mut following = pin!(Arc::clone(&account).share_with(served.workers()));
        for (workers, per_second, burst) in [(1, 100.0, 8), (4, 25.0, 2), (2, 50.0, 4)] {
            served.replace(BTreeSet::new(), workers);
            assert!(following.as_mut().now_or_never().is_none());
            assert_eq!(share(), Rate::new(per_second, Some(burst)).unwrap());
        }
    }

    #[test]
    fn another_pace_holds_at_once() {
        let (account, _) = account(None);
        account.retune(Some(Rate::new(1.0, Some(1)).unwrap()));
        assert!(account.reserve() > clock::monotonic());
        account.retune(None);
        assert!(!account.is_paced());
    }
}
