//! What goes wrong on purpose: rules, and which of them takes a request.
//!
//! Chooses and counts. It closes no connection and writes no answer.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::{config::ConfigError, latency::duration};

/// One rule: which requests, how often, and what happens to them.
///
/// The filters must all match; the frequencies must all fire. Then exactly one of `answer`, `cut`
/// and `hang` happens, or only `delay`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fault {
    /// Only requests of this sending number.
    pub number: Option<String>,
    /// Only requests to this recipient, in digits.
    pub to: Option<String>,
    /// Only messages of this type.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Only texts that contain this.
    pub text_contains: Option<String>,
    /// Only the first N requests that match.
    pub first: Option<u64>,
    /// Only each Nth request that matches.
    pub every: Option<u64>,
    /// Only this share of the requests that match, 0 to 1.
    pub share: Option<f64>,
    /// A bad answer.
    pub answer: Option<Answer>,
    /// The connection is closed.
    pub cut: Option<Cut>,
    /// No answer comes until the caller leaves.
    pub hang: bool,
    /// Added to the latency.
    #[serde(deserialize_with = "duration")]
    pub delay: Duration,
    /// Whether the message counts as sent although the answer is bad. Unset: see [`Fault::accepts`].
    pub accept: Option<bool>,
}

/// When the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cut {
    /// Before the message is accepted; no byte of an answer.
    Before,
    /// After the message is accepted; no byte of an answer.
    After,
    /// After the message is accepted, within the answer's body.
    Headers,
}

/// A bad answer.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Answer {
    /// The HTTP status; unset 400, or 200 for the shapes of success.
    pub status: Option<u16>,
    /// Meta's code.
    pub code: Option<u32>,
    /// The text behind the code; unset Meta's title of it.
    pub text: Option<String>,
    /// How it is wrapped.
    pub shape: Shape,
    /// Further headers, such as `retry-after`.
    pub headers: BTreeMap<String, String>,
    /// This very text instead of a shape.
    pub body: Option<String>,
}

/// How an answer is wrapped: each has been met or is guarded against by clients of ChakraHQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `{"_data":[],"_errors":["(#code) title"]}`, captured from a live answer.
    #[default]
    Chakra,
    /// Meta's own `{"error":{…}}`.
    Meta,
    /// `{"_data":{"error":{…}}}`.
    Nested,
    /// `{"_data":[],"_errors":[{"message","code"}]}`.
    Objects,
    /// A gateway's page.
    Html,
    /// No byte.
    Empty,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// A success that names no message.
    OkWithoutId,
    /// A success in Meta's raw form.
    RawMetaOk,
    /// A success in Meta's raw form under `data`.
    WrappedMetaOk,
}

impl Shape {
    /// Whether the answer names an accepted message.
    pub(super) fn names_a_message(self) -> bool {
        matches!(self, Self::RawMetaOk | Self::WrappedMetaOk)
    }
}

impl Fault {
    /// Whether the message counts as sent: what `accept` says; unset only where the fault implies it.
    pub fn accepts(&self) -> bool {
        self.implied().or(self.accept).unwrap_or(self.delays_only())
    }

    fn implied(&self) -> Option<bool> {
        match self.cut {
            Some(Cut::Before) => Some(false),
            Some(Cut::After | Cut::Headers) => Some(true),
            None => self.answer.as_ref().filter(|a| a.shape.names_a_message()).map(|_| true),
        }
    }

    fn delays_only(&self) -> bool {
        self.answer.is_none() && self.cut.is_none() && !self.hang
    }

    fn matches(&self, seen: &Seen<'_>) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        same(&self.number, seen.number)
            && same(&self.to, seen.to)
            && same(&self.kind, seen.kind)
            && self.text_contains.as_deref().is_none_or(|part| seen.text.contains(part))
    }

    pub(super) fn check_all(faults: &[Self]) -> Result<(), ConfigError> {
        for (index, fault) in faults.iter().enumerate() {
            fault.check().map_err(|why| ConfigError::invalid(format!("faults[{index}]"), why))?;
        }
        Ok(())
    }

    fn check(&self) -> Result<(), &'static str> {
        let actions = [self.answer.is_some(), self.cut.is_some(), self.hang];
        match actions.iter().filter(|action| **action).count() {
            0 if self.delay.is_zero() => return Err("needs `answer`, `cut`, `hang` or `delay`"),
            0 | 1 => (),
            _ => return Err("takes only one of `answer`, `cut` and `hang`"),
        }
        if self.accept.is_some() && self.delays_only() {
            return Err("`accept` needs `answer` or `hang`");
        }
        if self.implied().zip(self.accept).is_some_and(|(implied, said)| implied != said) {
            return Err("`accept` contradicts the cut or the shape");
        }
        if self.every == Some(0) {
            return Err("`every` must be above zero");
        }
        if self.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err("`share` must be between 0 and 1");
        }
        self.answer.as_ref().map_or(Ok(()), Answer::check)
    }
}

impl Answer {
    fn check(&self) -> Result<(), &'static str> {
        if self.status.is_some_and(|status| !(200..=599).contains(&status)) {
            return Err("`answer.status` must be between 200 and 599");
        }
        let lawful = |(name, value): (&String, &String)| {
            hyper::header::HeaderName::try_from(name).is_ok()
                && hyper::header::HeaderValue::try_from(value).is_ok()
        };
        if !self.headers.iter().all(lawful) {
            return Err("`answer.headers` must be lawful names and values of HTTP");
        }
        Ok(())
    }
}

/// What a rule can see of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) number: &'a str,
    pub(super) to: &'a str,
    pub(super) kind: &'a str,
    pub(super) text: &'a str,
}

/// The rules, with how many requests each has matched.
#[derive(Debug)]
pub(super) struct Faults(Vec<(Fault, u64)>);

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(faults.into_iter().map(|fault| (fault, 0)).collect())
    }

    /// The first rule that takes this request. Rules behind it neither see nor count it.
    pub(super) fn choose(
        &mut self,
        seen: &Seen<'_>,
        mut chance: impl FnMut() -> f64,
    ) -> Option<&Fault> {
        for (fault, matched) in &mut self.0 {
            if !fault.matches(seen) {
                continue;
            }
            *matched += 1;
            let fires = fault.first.is_none_or(|first| *matched <= first)
                && fault.every.is_none_or(|every| *matched % every == 0)
                && fault.share.is_none_or(|share| chance() < share);
            if fires {
                return Some(fault);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Seen<'_> = Seen { number: "1", to: "4915", kind: "text", text: "hello there" };

    fn cut(rule: Fault) -> Fault {
        Fault { cut: Some(Cut::Before), ..rule }
    }

    /// Which of `requests` equal requests the only rule takes.
    fn taken(rule: Fault, requests: u32) -> Vec<u32> {
        let mut faults = Faults::new(vec![rule]);
        (1..=requests).filter(|_| faults.choose(&SEEN, || 0.5).is_some()).collect()
    }

    #[test]
    fn a_rule_fires_as_often_as_it_says() {
        for (rule, expected) in [
            (Fault::default(), vec![1, 2, 3, 4, 5, 6]),
            (Fault { first: Some(2), ..Fault::default() }, vec![1, 2]),
            (Fault { every: Some(3), ..Fault::default() }, vec![3, 6]),
            (Fault { first: Some(4), every: Some(2), ..Fault::default() }, vec![2, 4]),
            (Fault { share: Some(0.4), ..Fault::default() }, vec![]),
            (Fault { share: Some(0.6), ..Fault::default() }, vec![1, 2, 3, 4, 5, 6]),
        ] {
            assert_eq!(taken(cut(rule.clone()), 6), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_rule_takes_only_what_all_its_filters_match() {
        let some = |text: &str| Some(text.to_owned());
        for (rule, expected) in [
            (Fault { number: some("1"), to: some("4915"), ..Fault::default() }, true),
            (Fault { number: some("1"), to: some("4916"), ..Fault::default() }, false),
            (Fault { kind: some("image"), ..Fault::default() }, false),
            (Fault { text_contains: some("there"), ..Fault::default() }, true),
            (Fault { text_contains: some("where"), ..Fault::default() }, false),
        ] {
            assert_eq!(!taken(cut(rule.clone()), 1).is_empty(), expected, "{rule:?}");
        }
    }

    #[test]
    fn rules_take_turns_since_a_taken_request_is_not_counted_behind() {
        let once = Fault { first: Some(1), ..Fault::default() };
        let hang = Fault { hang: true, ..once.clone() };
        let mut faults = Faults::new(vec![cut(once), hang.clone()]);
        assert!(faults.choose(&SEEN, || 0.0).unwrap().cut.is_some());
        assert_eq!(faults.choose(&SEEN, || 0.0), Some(&hang));
        assert_eq!(faults.choose(&SEEN, || 0.0), None);
    }

    #[test]
    fn what_counts_as_sent_follows_from_the_fault() {
        let answer = |shape| Some(Answer { shape, ..Answer::default() });
        for (fault, expected) in [
            (Fault { cut: Some(Cut::Before), ..Fault::default() }, false),
            (Fault { cut: Some(Cut::After), ..Fault::default() }, true),
            (Fault { cut: Some(Cut::Headers), ..Fault::default() }, true),
            (Fault { hang: true, ..Fault::default() }, false),
            (Fault { hang: true, accept: Some(true), ..Fault::default() }, true),
            (Fault { answer: answer(Shape::Html), ..Fault::default() }, false),
            (Fault { answer: answer(Shape::RawMetaOk), ..Fault::default() }, true),
            (Fault { delay: Duration::from_secs(1), ..Fault::default() }, true),
        ] {
            assert_eq!(fault.accepts(), expected, "{fault:?}");
            assert_eq!(fault.check(), Ok(()), "{fault:?}");
        }
    }

    #[test]
    fn a_rule_that_contradicts_itself_is_refused() {
        let answer = |answer| Fault { answer: Some(answer), ..Fault::default() };
        let headers = BTreeMap::from([("bad name".to_owned(), "x".to_owned())]);
        for fault in [
            Fault::default(),
            Fault { hang: true, ..cut(Fault::default()) },
            Fault { accept: Some(true), ..cut(Fault::default()) },
            Fault { every: Some(0), ..cut(Fault::default()) },
            Fault { share: Some(1.5), ..cut(Fault::default()) },
            answer(Answer { status: Some(101), ..Answer::default() }),
            answer(Answer { headers, ..Answer::default() }),
        ] {
            assert!(fault.check().is_err(), "{fault:?}");
        }
    }
}
