//! What the control stream says, put together entry by entry: lanes, pauses, drops. Values in, values
//! out. All readers come to the same record, since each entry is weighed by those before it alone;
//! nonsense in an entry harms nobody.

use crate::policy::{DropRule, MetadataFilter};
use crate::queue::{OperatorPause, Orders};
use crate::wire::NumberId;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A drop reads its number's backlog no longer than this, also when who began it is gone.
pub const LONGEST_DROP: Duration = Duration::from_secs(3_600);

/// Reasons, and who gave them, are cut to so many characters.
pub const MAX_REASON_CHARS: usize = 200;

/// Numbers that are paused at once. Five times the lanes that a worker can serve.
const MAX_PAUSES: usize = 10_000;

/// Drops that are remembered, so that they reach what comes back from a wait.
const MAX_DROPS: usize = 64;

/// Of a drop's own name, and of a filter's two texts: a job's metadata has at most 4 KiB.
const MAX_TEXT_BYTES: usize = 4 * 1024;

/// One entry. Those of a later version are passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub(super) enum Entry {
    /// From here on the number has a lane.
    LaneMade { number: NumberId, at: Timestamp },
    /// From here on it has none.
    LaneGone { number: NumberId, at: Timestamp },
    /// It is not to send until then, or until it is resumed.
    NumberPaused {
        number: NumberId,
        until: Option<Timestamp>,
        reason: String,
        by: Option<String>,
        at: Timestamp,
    },
    /// It may send again.
    NumberResumed { number: NumberId, at: Timestamp },
    /// Its backlog is to be read, and jobs of it dropped.
    DropBegun(DropBegun),
    /// The backlog was read.
    DropEnded { id: String, at: Timestamp },
    /// Written by a reader, who has read all that stood before when it sees it.
    Mark { by: String },
    #[serde(other)]
    Unknown,
}

/// A drop that says more, or less, than is understood drops nothing: a filter of a later version must
/// not be taken for none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DropBegun {
    pub(super) id: String,
    pub(super) number: NumberId,
    #[serde(deserialize_with = "written")]
    pub(super) metadata: Option<MetadataFilter>,
    pub(super) reason: String,
    pub(super) at: Timestamp,
    pub(super) until: Timestamp,
}

/// Null is lawful, left out is not.
fn written<'de, D: Deserializer<'de>>(from: D) -> Result<Option<MetadataFilter>, D::Error> {
    Option::deserialize(from)
}

impl Entry {
    /// Reads an entry, whatever it holds.
    pub(super) fn read(body: &[u8]) -> Entry {
        serde_json::from_slice(body).unwrap_or(Entry::Unknown)
    }

    pub(super) fn pause(number: &NumberId, pause: &OperatorPause) -> Entry {
        let OperatorPause { until, reason, by, at } = pause.clone();
        Entry::NumberPaused { number: number.clone(), until, reason, by, at }
    }

    pub(super) fn drop(rule: &DropRule) -> Entry {
        let DropRule { id, number, metadata, reason, from, until } = rule.clone();
        Entry::DropBegun(DropBegun { id, number, metadata, reason, at: from, until })
    }
}

/// What an entry, or the passing of time, changed. The record says how it stands now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The number has a lane; it may have had one before.
    LaneMade(NumberId),
    /// It has none any more.
    LaneGone(NumberId),
    /// Its pause began, became another, or is over.
    Pause(NumberId),
    /// A drop of its jobs began, or is over.
    Drop(NumberId),
}

/// All that stands in the stream.
#[derive(Debug, Default)]
pub struct Record {
    lanes: BTreeSet<NumberId>,
    pauses: BTreeMap<NumberId, OperatorPause>,
    /// In the order in which they began.
    drops: Vec<StandingDrop>,
}

#[derive(Debug)]
struct StandingDrop {
    rule: DropRule,
    is_over: bool,
}

impl Record {
    /// Takes the next entry. None where nothing that matters changed.
    pub(super) fn apply(&mut self, entry: Entry) -> Option<Change> {
        match entry {
            Entry::LaneMade { number, .. } => {
                self.lanes.insert(number.clone());
                Some(Change::LaneMade(number))
            }
            Entry::LaneGone { number, .. } => {
                self.lanes.remove(&number).then_some(Change::LaneGone(number))
            }
            Entry::NumberPaused { number, until, reason, by, at } => {
                let (reason, by) = (tame(&reason), by.as_deref().map(tame));
                self.pause(number, OperatorPause { until, reason, by, at })
            }
            Entry::NumberResumed { number, .. } => {
                self.pauses.remove(&number).map(|_| Change::Pause(number))
            }
            Entry::DropBegun(begun) => self.begin_drop(begun),
            Entry::DropEnded { id, at } => {
                let mut drops = self.drops.iter_mut();
                let ended = drops.find(|drop| drop.rule.id == id && !drop.is_over)?;
                ended.is_over = true;
                ended.rule.until = ended.rule.until.min(at.max(ended.rule.from));
                Some(Change::Drop(ended.rule.number.clone()))
            }
            Entry::Mark { .. } | Entry::Unknown => None,
        }
    }

    /// Ends one thing whose time has come; none when nothing is left to end.
    pub(super) fn expire(&mut self, now: Timestamp) -> Option<Change> {
        let over = self.pauses.iter().find(|(_, pause)| !pause.holds(now));
        if let Some(number) = over.map(|(number, _)| number.clone()) {
            self.pauses.remove(&number);
            return Some(Change::Pause(number));
        }
        let over = self.drops.iter_mut().find(|drop| !drop.is_over && drop.rule.until <= now)?;
        over.is_over = true;
        Some(Change::Drop(over.rule.number.clone()))
    }

    /// When the next thing ends by itself.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        let pauses = self.pauses.values().filter_map(|pause| pause.until);
        pauses.chain(self.running().map(|rule| rule.until)).min()
    }

    /// The numbers that have a lane.
    pub fn lanes(&self) -> &BTreeSet<NumberId> {
        &self.lanes
    }

    /// The pause of a number that holds now.
    pub fn paused(&self, number: &NumberId, now: Timestamp) -> Option<&OperatorPause> {
        self.pauses.get(number).filter(|pause| pause.holds(now))
    }

    /// The numbers that are paused now.
    pub fn paused_numbers(&self, now: Timestamp) -> impl Iterator<Item = &NumberId> {
        self.pauses.iter().filter(move |(_, pause)| pause.holds(now)).map(|(number, _)| number)
    }

    /// Whether a drop goes through a number's backlog: its lane is to be read, paused or not.
    pub fn is_dropping(&self, number: &NumberId, now: Timestamp) -> bool {
        self.running().any(|rule| rule.number == *number && now < rule.until)
    }

    /// As the hall needs them.
    pub(super) fn orders(&self) -> Orders {
        Orders {
            pauses: self.pauses.clone(),
            drops: self.drops.iter().map(|drop| drop.rule.clone()).collect(),
            dropping: self.running().map(|rule| rule.number.clone()).collect(),
        }
    }

    /// The drops that are not over, but for what `expire` would still find.
    pub(super) fn running(&self) -> impl Iterator<Item = &DropRule> {
        self.drops.iter().filter(|drop| !drop.is_over).map(|drop| &drop.rule)
    }

    /// One more number than may be takes the place of one whose pause is over by then.
    fn pause(&mut self, number: NumberId, pause: OperatorPause) -> Option<Change> {
        if self.pauses.len() >= MAX_PAUSES && !self.pauses.contains_key(&number) {
            let over = self.pauses.iter().find(|(_, other)| !other.holds(pause.at));
            let over = over.map(|(number, _)| number.clone())?;
            self.pauses.remove(&over);
        }
        self.pauses.insert(number.clone(), pause);
        Some(Change::Pause(number))
    }

    /// One more drop than may be takes the place of the oldest that is over.
    fn begin_drop(&mut self, begun: DropBegun) -> Option<Change> {
        let DropBegun { id, number, metadata, reason, at, until } = begun;
        let texts = metadata.iter().flat_map(|filter| [&filter.key, &filter.value]);
        let too_long = texts.chain([&id]).any(|text| text.len() > MAX_TEXT_BYTES);
        if too_long || self.drops.iter().any(|drop| drop.rule.id == id) {
            return None;
        }
        if self.drops.len() >= MAX_DROPS {
            let is_over = |drop: &StandingDrop| drop.is_over || drop.rule.until <= at;
            let oldest = self.drops.iter().position(is_over)?;
            self.drops.remove(oldest);
        }
        let last = at.checked_add(LONGEST_DROP).unwrap_or(Timestamp::MAX);
        let (reason, until) = (tame(&reason), until.clamp(at, last));
        let rule = DropRule { id, number: number.clone(), metadata, reason, from: at, until };
        self.drops.push(StandingDrop { rule, is_over: false });
        Some(Change::Drop(number))
    }
}

/// A person's text of bounded length, in which nothing moves a cursor.
fn tame(text: &str) -> String {
    text.chars().take(MAX_REASON_CHARS).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn number(digits: &str) -> NumberId {
        NumberId::parse(digits).unwrap()
    }

    fn paused(digits: &str, since: i64, until: Option<i64>) -> Entry {
        let (until, reason) = (until.map(at), "why".into());
        Entry::NumberPaused { number: number(digits), until, reason, by: None, at: at(since) }
    }

    fn resumed(digits: &str) -> Entry {
        Entry::NumberResumed { number: number(digits), at: at(0) }
    }

    fn begun(id: &str, from: i64, until: i64) -> Entry {
        let (reason, metadata) = ("why".into(), None);
        let (id, number) = (id.into(), number("1"));
        Entry::DropBegun(DropBegun { id, number, metadata, reason, at: at(from), until: at(until) })
    }

    fn ended(id: &str, seconds: i64) -> Entry {
        Entry::DropEnded { id: id.into(), at: at(seconds) }
    }

    fn record(entries: impl IntoIterator<Item = Entry>) -> Record {
        let mut record = Record::default();
        for entry in entries {
            record.apply(entry);
        }
        record
    }

    #[test]
    fn an_entry_is_json_with_its_kind() {
        let made = Entry::LaneMade { number: number("1027"), at: Timestamp::UNIX_EPOCH };
        let json = serde_json::to_string(&made).unwrap();
        assert_eq!(json, r#"{"entry":"lane-made","number":"1027","at":"1970-01-01T00:00:00Z"}"#);
        for entry in [made, paused("1", 0, None), resumed("1"), begun("d", 0, 9), ended("d", 3)] {
            assert_eq!(Entry::read(&serde_json::to_vec(&entry).unwrap()), entry);
        }
    }

    #[test]
    fn an_entry_of_a_later_version_is_passed_over_and_a_drop_is_never_wider_than_it_says() {
        for later in [
            r#"{"entry":"number-renamed","number":"1027","why":["x"]}"#,
            r#"{"entry":"lane-made","number":"no number","at":"1970-01-01T00:00:00Z"}"#,
            r#"{"entry":"drop-begun","id":"d","number":"1","reason":"","at":"2026-01-01T00:00:00Z","until":"2026-01-01T01:00:00Z"}"#,
            r#"{"entry":"drop-begun","id":"d","number":"1","metadata":null,"type":"text","reason":"","at":"2026-01-01T00:00:00Z","until":"2026-01-01T01:00:00Z"}"#,
            r#"{"entry":"drop-begun","id":"d","number":"1","metadata":{"key":"a","value":"b","or":"c"},"reason":"","at":"2026-01-01T00:00:00Z","until":"2026-01-01T01:00:00Z"}"#,
            "",
            "[]",
        ] {
            assert_eq!(Entry::read(later.as_bytes()), Entry::Unknown, "{later}");
        }
        let all = r#"{"entry":"drop-begun","id":"d","number":"1","metadata":null,"reason":"","at":"2026-01-01T00:00:00Z","until":"2026-01-01T01:00:00Z"}"#;
        assert!(matches!(Entry::read(all.as_bytes()), Entry::DropBegun(_)));
    }

    #[test]
    fn a_lane_comes_and_goes() {
        let mut record = Record::default();
        let made = || Entry::LaneMade { number: number("1"), at: at(0) };
        let gone = || Entry::LaneGone { number: number("1"), at: at(0) };
        assert_eq!(record.apply(gone()), None);
        assert_eq!(record.apply(made()), Some(Change::LaneMade(number("1"))));
        assert_eq!(
            record.apply(made()),
            Some(Change::LaneMade(number("1"))),
            "somebody waits for it"
        );
        assert_eq!(record.apply(gone()), Some(Change::LaneGone(number("1"))));
        assert!(record.lanes().is_empty());
    }

    #[test]
    fn a_pause_holds_until_its_end_or_until_it_is_resumed() {
        let mut record = record([paused("1", 0, Some(10)), paused("2", 0, None)]);
        assert!(record.paused(&number("1"), at(9)).is_some());
        assert!(record.paused(&number("1"), at(10)).is_none());
        assert_eq!(record.next_expiry(), Some(at(10)));
        assert_eq!(record.expire(at(9)), None);
        assert_eq!(record.expire(at(10)), Some(Change::Pause(number("1"))));
        assert_eq!((record.expire(at(10)), record.next_expiry()), (None, None));
        assert!(record.paused(&number("2"), at(1_000_000)).is_some());
        assert_eq!(record.apply(resumed("2")), Some(Change::Pause(number("2"))));
        assert_eq!(record.apply(resumed("2")), None);
        assert!(record.paused(&number("2"), at(0)).is_none());
    }

    #[test]
    fn the_latest_word_about_a_number_counts() {
        let record = record([paused("1", 0, None), resumed("1"), paused("1", 5, Some(20))]);
        assert_eq!(record.paused(&number("1"), at(0)).unwrap().until, Some(at(20)));
    }

    #[test]
    fn a_drop_reads_the_backlog_until_it_ends_and_its_rule_stays_for_what_waits() {
        let mut record = record([begun("d", 0, 100)]);
        assert!(
            record.is_dropping(&number("1"), at(99)) && !record.is_dropping(&number("2"), at(9))
        );
        assert!(!record.is_dropping(&number("1"), at(100)));
        assert_eq!(record.apply(ended("d", 40)), Some(Change::Drop(number("1"))));
        assert_eq!(record.apply(ended("d", 41)), None);
        assert!(!record.is_dropping(&number("1"), at(20)));
        let orders = record.orders();
        assert_eq!((orders.drops[0].until, orders.dropping.len()), (at(40), 0));
    }

    #[test]
    fn a_drop_that_nobody_ends_is_over_by_itself() {
        let mut record = record([begun("d", 0, 1_000_000), begun("d", 5, 50)]);
        assert_eq!(record.next_expiry(), Some(at(3_600)), "no drop is longer than an hour");
        assert_eq!(record.expire(at(3_600)), Some(Change::Drop(number("1"))));
        assert_eq!((record.expire(at(3_600)), record.next_expiry()), (None, None));
        assert_eq!(record.orders().drops.len(), 1, "a name counts once");
    }

    #[test]
    fn a_full_record_forgets_the_oldest_drop_that_is_over_and_none_that_runs() {
        let names: Vec<String> = (0..MAX_DROPS).map(|n| format!("d{n}")).collect();
        let mut record = record(names.iter().map(|name| begun(name, 0, 100)));
        assert_eq!(record.apply(begun("one more", 1, 100)), None);
        record.apply(ended("d7", 2));
        assert!(record.apply(begun("one more", 3, 100)).is_some());
        let orders = record.orders();
        assert_eq!(orders.drops.len(), MAX_DROPS);
        assert!(!orders.drops.iter().any(|rule| rule.id == "d7"));
    }

    #[test]
    fn pauses_are_bounded_and_one_that_holds_gives_way_to_none() {
        let numbers = (0..MAX_PAUSES).map(|n| n.to_string());
        let mut record = record(numbers.map(|n| paused(&n, 0, (n == "5").then_some(10))));
        assert_eq!(record.apply(paused("99999", 9, None)), None);
        assert!(record.apply(paused("7", 9, Some(50))).is_some(), "it was paused before");
        assert!(record.apply(paused("99999", 10, None)).is_some());
        assert_eq!(record.paused_numbers(at(0)).count(), MAX_PAUSES);
        assert!(record.paused(&number("5"), at(0)).is_none());
    }

    #[test]
    fn a_reason_is_cut_and_moves_no_cursor() {
        let mut entry = paused("1", 0, None);
        let Entry::NumberPaused { reason, by, .. } = &mut entry else { panic!() };
        *reason = format!("\u{1b}[2J{}", "x".repeat(1_000));
        *by = Some("a\nb".into());
        let record = record([entry]);
        let pause = record.paused(&number("1"), at(0)).unwrap();
        assert!(pause.reason.starts_with(" [2Jx") && pause.reason.len() == MAX_REASON_CHARS);
        assert_eq!(pause.by.as_deref(), Some("a b"));
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let moments = || {
            prop_oneof![Just(Timestamp::MIN), Just(Timestamp::MAX), (-9i64..9_000).prop_map(at),]
        };
        let numbers = || prop::sample::select(vec!["1", "2", "3"]).prop_map(number);
        let names = || prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned);
        prop_oneof![
            (numbers(), moments()).prop_map(|(number, at)| Entry::LaneMade { number, at }),
            (numbers(), moments()).prop_map(|(number, at)| Entry::LaneGone { number, at }),
            (numbers(), moments()).prop_map(|(number, at)| Entry::NumberResumed { number, at }),
            (numbers(), prop::option::of(moments()), moments(), "\\PC{0,9}").prop_map(
                |(number, until, at, reason)| {
                    Entry::NumberPaused { number, until, reason, by: None, at }
                }
            ),
            (names(), numbers(), moments(), moments(), "\\PC{0,9}").prop_map(
                |(id, number, at, until, reason)| {
                    Entry::DropBegun(DropBegun { id, number, metadata: None, reason, at, until })
                }
            ),
            (names(), moments()).prop_map(|(id, at)| Entry::DropEnded { id, at }),
        ]
    }

    proptest! {
        #[test]
        fn no_entry_makes_it_panic_and_all_that_is_due_comes_to_an_end(
            entries in prop::collection::vec(entries(), 0..30),
            now in (-9i64..9_000).prop_map(at),
        ) {
            let mut record = record(entries);
            for _ in 0..100 {
                if record.expire(now).is_none() {
                    break;
                }
            }
            prop_assert_eq!(record.expire(now), None);
            prop_assert!(record.next_expiry().is_none_or(|next| next > now));
        }
    }
}
