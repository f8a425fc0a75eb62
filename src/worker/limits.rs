//! What holds one number back in this process: its pace with what was learned of it, its pause, and
//! whether another worker may have it as well. It decides by `limiter` and never waits; each change is
//! shown to operators and told to the queue.

use crate::chakra;
use crate::limiter::{Pace, Pause, Probe, Rate, Source, Told, Turned, Wait};
use crate::metrics::{Limit, Metrics, PauseReason, RateSource};
use crate::policy::{Answer, Failure};
use crate::queue::{Holds, Tenure};
use crate::wire::{Class, NumberId, Scope};
use std::sync::Arc;
use tokio::time::Instant;

impl From<Source> for RateSource {
    fn from(source: Source) -> RateSource {
        match source {
            Source::Override => RateSource::Override,
            Source::Configured => RateSource::Configured,
            Source::Plugin => RateSource::Plugin,
            Source::Default => RateSource::Default,
        }
    }
}

/// The limits of one number.
#[derive(Debug)]
pub(super) struct Limits {
    number: NumberId,
    pace: Pace,
    source: Source,
    pause: Pause,
    /// Why it was paused last.
    reason: PauseReason,
    /// The latest one; none before the first job.
    tenure: Option<Tenure>,
    of_account: Option<PauseReason>,
    shown_pace: Option<(RateSource, f64)>,
    shown_pause: Option<PauseReason>,
    metrics: Arc<Metrics>,
    holds: Holds,
}

/// What is believed of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Belief {
    /// Jobs a second.
    pub(super) rate: f64,
    /// Who says so.
    pub(super) source: RateSource,
    /// Until when it is left alone, and why.
    pub(super) held: Option<(Instant, PauseReason)>,
}

impl Limits {
    pub(super) fn new(
        number: NumberId,
        (rate, source): (Rate, Source),
        metrics: Arc<Metrics>,
        holds: Holds,
        now: Instant,
    ) -> Limits {
        Limits {
            number,
            pace: Pace::new(Some(rate), now),
            source,
            pause: Pause::default(),
            reason: PauseReason::Blocked,
            tenure: None,
            of_account: None,
            shown_pace: None,
            shown_pause: None,
            metrics,
            holds,
        }
    }

    /// A job came in this tenure. A later one than the last begins with an empty bucket.
    pub(super) fn begin(&mut self, tenure: &Tenure, now: Instant) {
        if self.tenure.as_ref().is_none_or(|last| tenure.serial() > last.serial()) {
            self.pace.begin(tenure.is_settled(), now);
            self.tenure = Some(tenure.clone());
            self.show(now);
        }
    }

    /// Goes on at another configured or known rate, with every debt.
    pub(super) fn retune(&mut self, (rate, source): (Rate, Source), now: Instant) {
        self.source = source;
        self.pace.retune(Some(rate), now);
        self.show(now);
    }

    /// Whether a request may pass now. Takes nothing.
    pub(super) fn ask(&mut self, now: Instant) -> Result<(), Wait> {
        self.heed_tenure(now);
        self.pause.ask(now)?;
        match self.pace.free_at(now) > now {
            true => Err(Wait::Until(self.pace.worth_asking_at(now))),
            false => Ok(()),
        }
    }

    /// Counts a request that has to wait for the pace, or stands in a line that had to. Whoever waits for the
    /// end of a pause does not. Whether it was counted.
    pub(super) fn count_delay(&mut self, is_behind: bool, now: Instant) -> bool {
        let is_delayed = self.pause.ask(now).is_ok() && (is_behind || self.pace.free_at(now) > now);
        if is_delayed {
            self.metrics.limit_delayed(&self.number, Limit::Number);
        }
        is_delayed
    }

    /// A request passes now, if it may: the probe where the number is paused.
    pub(super) fn pass(&mut self, now: Instant) -> Option<Option<Probe>> {
        self.pause.ask(now).ok()?;
        self.pace.pass(now).ok()?;
        self.pause.pass(now).ok()
    }

    /// A request that passed starts now.
    pub(super) fn started(&mut self, now: Instant) {
        self.pace.started(now);
    }

    /// A request that passed will not start.
    pub(super) fn dropped(&mut self) {
        self.pace.dropped();
    }

    /// What came of a request that started then; none where none was made. Whether others may go, or
    /// may not go, by that.
    pub(super) fn ended(
        &mut self,
        probe: Option<Probe>,
        answer: Option<&Answer>,
        sent: Instant,
        now: Instant,
    ) -> bool {
        let was_probe = probe.is_some();
        let told = answer.map_or(Told::Nothing, Told::of_number);
        let turned = self.pause.ended(probe, told, sent, now);
        let is_cut = match answer {
            None => false,
            Some(Answer::Accepted { .. }) => {
                self.pace.accepted(now);
                false
            }
            Some(Answer::Failed(failure)) => is_too_fast(failure) && self.slow(sent, now),
        };
        match (turned, answer) {
            (Some(Turned::Held(until)), Some(Answer::Failed(failure))) => {
                self.reason = reason(failure);
                self.holds.hold(&self.number, until);
                let (number, after, remedy) = (&self.number, failure.short(), failure.remedy());
                let wait = until - now;
                tracing::warn!(%number, after, remedy, ?wait, "this number is left alone, then probed");
            }
            (Some(Turned::Free), _) => {
                self.holds.release(&self.number);
                tracing::info!(number = %self.number, "this number goes on");
            }
            (Some(Turned::Held(_)), Some(Answer::Accepted { .. }) | None) | (None, _) => {}
        }
        if turned.is_some() || is_cut {
            self.show(now);
        }
        was_probe || turned.is_some()
    }

    /// What is believed now.
    pub(super) fn belief(&self, now: Instant) -> Belief {
        let held = self.pause.ask(now).err().map(|wait| wait.moment(now));
        Belief {
            rate: self.pace.rate(now).map_or(f64::INFINITY, Rate::per_second),
            source: match self.pace.is_learned(now) {
                true => RateSource::Learned,
                false => self.source.into(),
            },
            held: held.map(|until| (until, self.reason)),
        }
    }

    /// Whether the account as a whole is paused.
    pub(super) fn heed_account(&mut self, is_paused: bool) {
        self.of_account = is_paused.then_some(PauseReason::Account);
    }

    /// Shows what is believed to operators, where it has changed.
    pub(super) fn show(&mut self, now: Instant) {
        self.heed_tenure(now);
        let Belief { rate, source, held } = self.belief(now);
        if self.shown_pace != Some((source, rate)) {
            self.metrics.rate_limit(&self.number, source, rate);
            self.shown_pace = Some((source, rate));
        }
        let pause = held.map(|(_, reason)| reason).or(self.of_account);
        if self.shown_pause != pause {
            for (reason, is_paused) in [(self.shown_pause, false), (pause, true)] {
                if let Some(reason) = reason {
                    self.metrics.paused(&self.number, reason, is_paused);
                }
            }
            self.shown_pause = pause;
        }
    }

    fn heed_tenure(&mut self, now: Instant) {
        if self.pace.is_half() && self.tenure.as_ref().is_some_and(Tenure::is_settled) {
            self.pace.settle(now);
        }
    }

    fn slow(&mut self, sent: Instant, now: Instant) -> bool {
        let is_cut = self.pace.refused(sent, now);
        if is_cut {
            let (number, rate) = (&self.number, self.belief(now).rate);
            tracing::info!(%number, rate, "refused for going too fast: slower from here");
        }
        is_cut
    }
}

/// Whether an answer says that its number goes too fast.
fn is_too_fast(failure: &Failure) -> bool {
    failure.scope == Scope::Number && is_beyond_a_limit(failure)
}

/// Whether an answer says that something goes too fast. Maintenance has the same class, and says nothing
/// of any pace.
pub(super) fn is_beyond_a_limit(failure: &Failure) -> bool {
    failure.class == Class::Throttled && !is_maintenance(failure)
}

fn is_maintenance(failure: &Failure) -> bool {
    failure.code.is_some_and(chakra::is_maintenance)
}

/// Why a number is paused after this.
fn reason(failure: &Failure) -> PauseReason {
    match failure.class {
        Class::Throttled if is_maintenance(failure) => PauseReason::Maintenance,
        Class::Throttled => PauseReason::Throttled,
        Class::Blocked
        | Class::Unavailable
        | Class::Ambiguous
        | Class::Refused
        | Class::Invalid => PauseReason::Blocked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    /// A number at 100 a second with a burst of 10, and its queue and metrics.
    struct Story {
        limits: Limits,
        metrics: Arc<Metrics>,
        holds: Holds,
        number: NumberId,
        start: Instant,
    }

    impl Story {
        fn begin() -> Story {
            let (metrics, holds) = (Arc::new(Metrics::new().unwrap()), Holds::default());
            let (number, start) = (NumberId::parse("1027").unwrap(), Instant::now());
            let rate = (Rate::new(100.0, Some(10)).unwrap(), Source::Configured);
            let (shown, told) = (Arc::clone(&metrics), holds.clone());
            let limits = Limits::new(number.clone(), rate, shown, told, start);
            Story { limits, metrics, holds, number, start }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// How many may start at this second.
        fn burst(&mut self, second: u64) -> usize {
            let now = self.at(second);
            std::iter::from_fn(|| self.limits.pass(now)).count()
        }

        /// A request and its failure in the same second.
        fn refused(&mut self, class: Class, code: u32, wait: Option<u64>, second: u64) {
            let (now, wait) = (self.at(second), wait.map(Duration::from_secs));
            let probe = self.limits.pass(now).unwrap();
            let (scope, code) = (Scope::Number, Some(code));
            let failure = Failure { scope, code, wait, ..Failure::new(class, "x") };
            self.limits.ended(probe, Some(&Answer::Failed(failure)), now, now);
        }

        fn accepted(&mut self, second: u64) {
            let now = self.at(second);
            let probe = self.limits.pass(now).unwrap();
            let accepted = Answer::Accepted { whatsapp_message_id: None };
            self.limits.ended(probe, Some(&accepted), now, now);
        }

        fn held_until(&self, second: u64) -> Option<Instant> {
            self.holds.until(&self.number, self.at(second))
        }

        /// The series of pace and pauses.
        fn shown(&self) -> Vec<String> {
            let text = self.metrics.render().unwrap();
            let own = text.lines().filter(|line| line.contains("1027"));
            own.map(|line| line.trim_start_matches("chakra_sender_").to_owned()).collect()
        }
    }

    fn tenure(serial: u64, settled: &CancellationToken) -> Tenure {
        Tenure::new(serial, CancellationToken::new(), settled.clone())
    }

    #[test]
    fn each_tenure_begins_with_nothing_and_at_half_the_pace_until_it_is_settled() {
        let mut story = Story::begin();
        let settled = CancellationToken::new();
        story.limits.begin(&tenure(4, &settled), story.at(10));
        assert_eq!(story.burst(10), 0);
        assert_eq!(story.shown(), [r#"rate_limit{number="1027",source="configured"} 50"#]);
        assert_eq!(story.burst(20), 5);
        // Another job of the same, and a late one of an older.
        for serial in [4, 3] {
            story.limits.begin(&tenure(serial, &CancellationToken::new()), story.at(30));
        }
        assert_eq!(story.burst(30), 5);
        settled.cancel();
        assert!(story.limits.ask(story.at(40)).is_ok());
        assert_eq!(story.burst(40), 1, "what half the pace had saved is lost");
        assert_eq!(story.burst(50), 10);
        story.limits.begin(&tenure(5, &settled), story.at(60));
        assert_eq!(story.burst(60), 0);
        assert_eq!(story.limits.belief(story.at(60)).rate, 100.0);
    }

    #[test]
    fn maintenance_holds_the_number_at_the_queue_as_well_and_is_no_cut() {
        let mut story = Story::begin();
        story.refused(Class::Throttled, 131_057, Some(60), 1);
        assert_eq!(story.held_until(1), Some(story.at(61)));
        assert_eq!(story.burst(60), 0);
        let paused = r#"paused{number="1027",reason="maintenance"} 1"#;
        let pace = r#"rate_limit{number="1027",source="configured"} 100"#;
        assert_eq!(story.shown(), [paused, pace]);
        // Its end, as the metrics are looked over.
        story.limits.show(story.at(61));
        assert_eq!(story.shown(), [pace]);
        // The probe, refused, and the next one.
        story.refused(Class::Throttled, 131_057, Some(60), 61);
        assert_eq!(story.held_until(61), Some(story.at(181)));
        story.accepted(181);
        assert_eq!((story.held_until(62), story.burst(182)), (None, 10));
        assert_eq!(story.shown(), [pace]);
    }

    #[test]
    fn a_throughput_that_is_reached_slows_the_number_and_holds_it_only_where_a_wait_is_named() {
        let mut story = Story::begin();
        story.refused(Class::Throttled, 130_429, None, 1);
        assert_eq!(story.shown(), [r#"rate_limit{number="1027",source="learned"} 49"#]);
        assert_eq!(story.held_until(1), None);
        story.refused(Class::Throttled, 130_429, Some(7), 9);
        assert_eq!(story.held_until(9), Some(story.at(16)));
        let belief = story.limits.belief(story.at(9));
        assert!(belief.rate < 25.0 && belief.held == Some((story.at(16), PauseReason::Throttled)));
    }

    #[test]
    fn other_rates_keep_what_was_learned_and_the_gauge_follows() {
        let mut story = Story::begin();
        story.refused(Class::Throttled, 130_429, None, 1);
        let rate = |rate| Rate::new(rate, None).unwrap();
        story.limits.retune((rate(1_000.0), Source::Override), story.at(2));
        assert_eq!(story.shown(), [r#"rate_limit{number="1027",source="learned"} 49"#]);
        story.limits.retune((rate(20.0), Source::Override), story.at(2));
        assert_eq!(story.shown(), [r#"rate_limit{number="1027",source="override"} 20"#]);
    }

    #[test]
    fn the_accounts_pause_shows_where_the_number_has_none_of_its_own() {
        let mut story = Story::begin();
        story.limits.heed_account(true);
        story.limits.show(story.at(1));
        let paused = |reason| format!(r#"paused{{number="1027",reason="{reason}"}} 1"#);
        assert_eq!(story.shown()[0], paused("account"));
        story.refused(Class::Blocked, 131_048, Some(3_600), 1);
        assert_eq!(story.shown()[0], paused("blocked"));
        assert_eq!(story.shown().len(), 2);
    }
}
