//! Which numbers may have a lane, which should have one already, and whose lanes are to go. Has the
//! plugin asked before it refuses a number, though not often. Makes and removes no lane itself.

use super::topology::{Step, step_for};
use crate::clock;
use crate::queue::{Listing, PluginNumbers};
use crate::wire::NumberId;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The plugin is not asked more often for the sake of unknown numbers.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// A job waits in hand for the plugin's answer until the question is so old; then it waits outside, so
/// that a silent plugin holds up no job of another number.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// A number must be missing from this many complete lists before its lane goes: one alone may be a slip
/// of theirs.
const VANISHED_FROM: u32 = 2;

/// Who may have a lane.
#[derive(Debug, Clone)]
pub enum Accept {
    /// Any number, at first sight.
    Any,
    /// The plugin's numbers, and those that have a lane from the start.
    Plugin(PluginNumbers),
}

/// What is known about a number.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Verdict {
    /// It may have a lane.
    Lane,
    /// Not known yet: ask again after a wait. Before this is over nothing new can be known.
    Later(Duration),
    /// It may not, and this is why.
    Refuse(String),
}

/// The numbers that may have a lane.
#[derive(Debug)]
pub(super) struct Directory {
    accept: Accept,
    /// These may have one whatever the plugin says.
    always: BTreeSet<NumberId>,
    /// When it last had the plugin asked.
    wanted: Mutex<Option<Instant>>,
    /// For so long a number must be missing before its lane goes.
    retire_after: Duration,
    vanishing: Mutex<Vanishing>,
}

impl Directory {
    pub(super) fn new(accept: Accept, always: &[NumberId], retire_after: Duration) -> Directory {
        Directory {
            accept,
            always: always.iter().cloned().collect(),
            wanted: Mutex::default(),
            retire_after,
            vanishing: Mutex::default(),
        }
    }

    /// Judges about a job that a worker first saw at `arrived`.
    pub(super) async fn judge(&self, number: &NumberId, arrived: Timestamp) -> Verdict {
        let Accept::Plugin(plugin) = &self.accept else { return Verdict::Lane };
        if self.always.contains(number) {
            return Verdict::Lane;
        }
        let mut listing = plugin.listing.clone();
        loop {
            match self.consult(&mut listing, number, arrived) {
                Advice::Say(verdict) => return verdict,
                Advice::Ask => plugin.refresher.ask_now(),
                Advice::WaitUntil(at) => {
                    let changed = tokio::time::timeout_at(at, listing.changed()).await;
                    // Nobody asks any more: the worker ends.
                    if let Ok(Err(_)) = changed {
                        return Verdict::Later(ASK_EVERY);
                    }
                }
            }
        }
    }

    fn consult(
        &self,
        listing: &mut watch::Receiver<Listing>,
        number: &NumberId,
        arrived: Timestamp,
    ) -> Advice {
        // Held over the decision, so that many ask once.
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        let advice = consult(&listing.borrow_and_update(), number, arrived, *wanted, now);
        if advice == Advice::Ask {
            *wanted = Some(now);
        }
        advice
    }

    /// The numbers that should have a lane, those with settings of their own first.
    pub(super) fn with_lane(&self) -> Vec<NumberId> {
        let mut numbers: Vec<NumberId> = self.always.iter().cloned().collect();
        if let Accept::Plugin(plugin) = &self.accept {
            let listing = plugin.listing.borrow();
            let listed = listing.numbers().keys().filter(|number| !self.always.contains(*number));
            numbers.extend(listed.cloned());
        }
        numbers
    }

    /// Has the plugin asked where one of these is not known, although it has a lane: another worker heard
    /// of it first, and until it is known here its pace is the lowest.
    pub(super) fn refresh_for<'a>(&self, mut lanes: impl Iterator<Item = &'a NumberId>) {
        if let Accept::Plugin(plugin) = &self.accept
            && lanes.any(|number| plugin.listing.borrow().get(number).is_none())
        {
            plugin.refresher.ask_now();
        }
    }

    /// Which of these lanes are to go, since the plugin has their numbers no more.
    pub(super) fn vanished(&self, lanes: &BTreeSet<NumberId>) -> BTreeSet<NumberId> {
        let Accept::Plugin(plugin) = &self.accept else { return BTreeSet::new() };
        let lanes = lanes.iter().filter(|number| !self.always.contains(*number));
        let mut vanishing = self.vanishing.lock().unwrap_or_else(PoisonError::into_inner);
        vanishing.vanished(lanes, &plugin.listing.borrow(), self.retire_after)
    }

    /// Comes when the plugin has this number; never where it is not asked.
    pub(super) async fn returned(&self, number: &NumberId) {
        let Accept::Plugin(plugin) = &self.accept else { return std::future::pending().await };
        let mut listing = plugin.listing.clone();
        if listing.wait_for(|listing| listing.get(number).is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// For so long a number must be missing before its lane goes.
    pub(super) fn retire_after(&self) -> Duration {
        self.retire_after
    }

    /// Tells when the numbers that should have a lane may have changed.
    pub(super) fn changes(&self) -> Changes {
        Changes(match &self.accept {
            Accept::Plugin(plugin) => Some(plugin.listing.clone()),
            Accept::Any => None,
        })
    }
}

/// News of the numbers that should have a lane.
pub(super) struct Changes(Option<watch::Receiver<Listing>>);

impl Changes {
    /// Comes with the next change, if there can be one. Cancelled, it misses none.
    pub(super) async fn next(&mut self) {
        let Some(listing) = &mut self.0 else { return std::future::pending().await };
        if listing.changed().await.is_err() {
            self.0 = None;
            std::future::pending().await
        }
    }
}

/// What is to be done about a job.
#[derive(Debug, PartialEq)]
enum Advice {
    Say(Verdict),
    /// Have the plugin asked.
    Ask,
    /// The answer may come until then.
    WaitUntil(Instant),
}

/// `wanted` is when the plugin was last to be asked for a number's sake. Only a list that was asked
/// for after the job's arrival may say no.
fn consult(
    listing: &Listing,
    number: &NumberId,
    arrived: Timestamp,
    wanted: Option<Instant>,
    now: Instant,
) -> Advice {
    if listing.get(number).is_some() {
        return Advice::Say(Verdict::Lane);
    }
    if listing.complete().is_some_and(|(_, asked)| asked >= arrived) {
        return Advice::Say(Verdict::Refuse(format!(
            "phone number {number} is not one of the plugin's: correct phone_number_id, or add the \
             number to the plugin in ChakraHQ and replay the job"
        )));
    }
    let unheard = wanted.filter(|wanted| listing.asked().is_none_or(|asked| asked < *wanted));
    let latest = listing.asking().or(unheard);
    if let Some(until) = latest.map(|asked| asked + ANSWERS_WITHIN).filter(|until| now < *until) {
        return Advice::WaitUntil(until);
    }
    let latest = latest.or(listing.asked());
    let again = latest.map(|asked| (asked + ASK_EVERY).saturating_duration_since(now));
    match again.filter(|rest| !rest.is_zero()) {
        Some(rest) => Advice::Say(Verdict::Later(rest)),
        None => Advice::Ask,
    }
}

/// How long a job waits outside that is `age` old and has no lane yet: until there can be news (`news`
/// from now), and ever longer, so that many of them do not go round as fast as the broker can.
pub(super) fn wait(age: Duration, news: Duration) -> Step {
    let by_age = match age {
        age if age < Duration::from_secs(5) => Step::Second,
        age if age < Duration::from_secs(30) => Step::Seconds5,
        _ => Step::Seconds30,
    };
    by_age.max(step_for(news).min(Step::Seconds30))
}

/// Lanes whose numbers the plugin has no more.
#[derive(Debug, Default)]
pub(super) struct Vanishing {
    heard: Option<Instant>,
    absent: BTreeMap<NumberId, Absence>,
}

/// Since when a number is missing, and from how many lists.
#[derive(Debug)]
struct Absence {
    since: Instant,
    lists: u32,
}

impl Vanishing {
    /// Which of these lanes are to go, after each change of the listing. `lanes` are those whose numbers
    /// have no settings of their own.
    pub(super) fn vanished<'a>(
        &mut self,
        lanes: impl IntoIterator<Item = &'a NumberId>,
        listing: &Listing,
        after: Duration,
    ) -> BTreeSet<NumberId> {
        let Some((asked, _)) = listing.complete().filter(|_| !listing.numbers().is_empty()) else {
            return BTreeSet::new();
        };
        let is_new = self.heard != Some(asked);
        self.heard = Some(asked);
        let mut before = std::mem::take(&mut self.absent);
        for number in lanes {
            if listing.get(number).is_some() {
                continue;
            }
            let known = before.remove(number).unwrap_or(Absence { since: asked, lists: 0 });
            let lists = known.lists + u32::from(is_new || known.lists == 0);
            self.absent.insert(number.clone(), Absence { lists, ..known });
        }
        let gone = |absence: &Absence| {
            absence.lists >= VANISHED_FROM && asked.duration_since(absence.since) >= after
        };
        let absent = self.absent.iter().filter(|(_, absence)| gone(absence));
        absent.map(|(number, _)| number.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Answer, Listed};

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    /// One time scale by both clocks.
    #[derive(Clone, Copy)]
    struct Scale(Instant, Timestamp);

    impl Scale {
        fn new() -> Scale {
            Scale(clock::monotonic(), clock::wall())
        }

        fn at(self, millis: u64) -> (Instant, Timestamp) {
            let since = Duration::from_millis(millis);
            (self.0 + since, self.1.checked_add(since).unwrap())
        }
    }

    fn hear(listing: &mut Listing, asked: (Instant, Timestamp), all: &[&str], is_complete: bool) {
        let listed = Listed { ceiling: 80, status: None };
        let numbers = all.iter().map(|id| (number(id), listed.clone())).collect();
        listing.begin(asked);
        listing.hear(Ok(Answer { numbers, is_complete }));
    }

    /// What is advised about number 2 at `now`, for a job seen at `arrived`, both in milliseconds.
    fn about_2(
        listing: &Listing,
        scale: Scale,
        (arrived, wanted, now): (u64, Option<u64>, u64),
    ) -> Advice {
        let wanted = wanted.map(|wanted| scale.at(wanted).0);
        consult(listing, &number("2"), scale.at(arrived).1, wanted, scale.at(now).0)
    }

    fn later(seconds: u64) -> Advice {
        Advice::Say(Verdict::Later(Duration::from_secs(seconds)))
    }

    fn refuses(advice: &Advice) -> bool {
        matches!(advice, Advice::Say(Verdict::Refuse(reason)) if reason.contains("number 2 "))
    }

    #[test]
    fn a_number_of_the_list_is_not_asked_for_and_another_one_is() {
        let (mut listing, scale) = (Listing::default(), Scale::new());
        assert_eq!(about_2(&listing, scale, (0, None, 0)), Advice::Ask);
        hear(&mut listing, scale.at(0), &["2"], false);
        assert_eq!(about_2(&listing, scale, (0, None, 0)), Advice::Say(Verdict::Lane));
    }

    #[test]
    fn only_a_complete_list_asked_for_after_the_arrival_says_no_and_it_is_asked_for_every_ten_seconds()
     {
        let (mut listing, scale) = (Listing::default(), Scale::new());
        hear(&mut listing, scale.at(1_000), &["1"], true);
        assert!(refuses(&about_2(&listing, scale, (1_000, None, 1_000))));
        assert_eq!(about_2(&listing, scale, (3_000, None, 3_000)), later(8));
        assert_eq!(about_2(&listing, scale, (3_000, None, 11_000)), Advice::Ask);
        hear(&mut listing, scale.at(11_000), &["1"], false);
        assert_eq!(about_2(&listing, scale, (3_000, Some(11_000), 12_000)), later(9));
        hear(&mut listing, scale.at(21_000), &["1"], true);
        assert!(refuses(&about_2(&listing, scale, (3_000, None, 21_000))));
    }

    #[test]
    fn a_job_waits_in_hand_for_an_answer_only_while_the_question_is_young() {
        let (mut listing, scale) = (Listing::default(), Scale::new());
        // Wanted, and not asked yet.
        let until = Advice::WaitUntil(scale.at(1_000).0);
        assert_eq!(about_2(&listing, scale, (0, Some(0), 400)), until);
        listing.begin(scale.at(100));
        let until = Advice::WaitUntil(scale.at(1_100).0);
        assert_eq!(about_2(&listing, scale, (0, Some(0), 400)), until);
        assert_eq!(about_2(&listing, scale, (0, Some(0), 1_100)), later(9));
        listing.hear(Err("down".into()));
        assert_eq!(about_2(&listing, scale, (0, Some(0), 1_100)), later(9));
        assert_eq!(about_2(&listing, scale, (0, Some(0), 10_100)), Advice::Ask);
    }

    #[test]
    fn a_wait_grows_with_age_and_lasts_until_there_can_be_news() {
        for (age, news, step) in [
            (0, 0, Step::Second),
            (4, 0, Step::Second),
            (5, 0, Step::Seconds5),
            (29, 1, Step::Seconds5),
            (30, 0, Step::Seconds30),
            (86_400, 10, Step::Seconds30),
            (0, 4, Step::Second),
            (0, 8, Step::Seconds5),
            (0, 3_600, Step::Seconds30),
        ] {
            let [age, news] = [age, news].map(Duration::from_secs);
            assert_eq!(wait(age, news), step, "{age:?} {news:?}");
        }
    }

    /// The lanes of 1 and 2 after these lists of (second, numbers, complete), the time set to a minute.
    fn vanished(lists: &[(u64, &[&str], bool)]) -> Vec<String> {
        let (mut listing, scale) = (Listing::default(), Scale::new());
        let (mut vanishing, lanes) = (Vanishing::default(), ["1", "2"].map(number));
        let mut last = BTreeSet::new();
        for (second, numbers, is_complete) in lists {
            hear(&mut listing, scale.at(second * 1_000), numbers, *is_complete);
            last = vanishing.vanished(&lanes, &listing, Duration::from_secs(60));
            // A change that is no new list, such as the next question.
            assert_eq!(vanishing.vanished(&lanes, &listing, Duration::from_secs(60)), last);
        }
        last.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_number_that_is_missing_from_two_lists_for_long_enough_has_vanished() {
        let both: &[&str] = &["1", "2"];
        let one: &[&str] = &["1"];
        let gone = ["2".to_owned()];
        assert_eq!(vanished(&[(0, both, true), (10, one, true), (70, one, true)]), gone);
        assert_eq!(vanished(&[(0, one, true), (60, one, true)]), gone, "it was never seen");
        let none = Vec::<String>::new();
        assert_eq!(vanished(&[(0, both, true), (70, one, true)]), none, "one list");
        assert_eq!(vanished(&[(0, one, true), (30, one, true), (59, one, true)]), none, "soon");
        assert_eq!(vanished(&[(0, one, true), (30, both, true), (70, one, true)]), none, "back");
        assert_eq!(vanished(&[(0, one, true), (70, one, false)]), none, "incomplete");
        assert_eq!(vanished(&[(0, both, true), (10, &[], true), (90, &[], true)]), none, "empty");
        assert_eq!(vanished(&[(0, &[], true), (90, &[], true)]), none, "always empty");
    }
}
