//! One send's way through the fake: known number, lawful message, fault, limits, acceptance.
//!
//! Decides what becomes of a request. It does not wait, close or answer: `serve` does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    answers::Reply,
    checks::{self, Asked, INVALID_PARAMETER, INVALID_VALUE, Message},
    config::{ConfigError, Listings, Plugin, SandboxConfig},
    faults::{Cut, Fault, Faults, Seen},
    latency::Latency,
    limits::Limits,
    listings::{Sends, Sent},
    numbers::Number,
    record::{Ending, KEPT_NUMBERS, Request},
    webhook::{Accepted, Course, Timing, Webhook, course},
};

/// What the caller shall experience.
#[derive(Debug)]
pub(super) enum Act {
    /// This answer.
    Answer(Reply),
    /// The connection closed instead of an answer.
    Close,
    /// This answer's head and half its body, then the connection closed.
    CloseInBody(Reply),
    /// Nothing.
    Hang,
}

/// What is to be done with a request, and what the record shall say of it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) act: Act,
    pub(super) delay: Duration,
    pub(super) entry: Request,
    /// What webhooks will tell of it.
    pub(super) course: Course,
}

/// A request to `/messages`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival<'a> {
    /// Monotonic; must not step back from call to call.
    pub(super) now: Instant,
    /// When it reached this machine, for the record: a sandbox that runs late may refuse what its record shows
    /// within the ceiling.
    pub(super) came: Instant,
    /// Unix time in milliseconds.
    pub(super) wall_ms: i64,
    pub(super) number: &'a str,
    pub(super) body: &'a Bytes,
}

/// Everything that answers depend on.
#[derive(Debug)]
pub(super) struct State {
    pub(super) token: String,
    pub(super) latency: Latency,
    pub(super) listings: Listings,
    pub(super) faults: Faults,
    pub(super) sends: Sends,
    pub(super) plugin: Plugin,
    pub(super) webhook: Arc<Webhook>,
    numbers: Vec<Number>,
    /// Of the plugin's numbers and, where any may send, of those seen.
    ceilings: HashMap<String, Option<u32>>,
    others: Option<Option<u32>>,
    limits: Limits,
    chance: fastrand::Rng,
    /// A chance of its own, so that webhooks change no other story.
    webhook_chance: fastrand::Rng,
    sequence: u64,
}

impl State {
    pub(super) fn new(config: SandboxConfig) -> Self {
        let any_rate = Some(config.any_number_rate).filter(|rate| *rate > 0);
        Self {
            token: config.token,
            latency: config.latency,
            listings: config.listings,
            faults: Faults::new(config.faults),
            sends: Sends::default(),
            plugin: config.plugin,
            webhook: Arc::new(config.webhook),
            ceilings: ceilings(&config.numbers),
            numbers: config.numbers,
            others: config.any_number.then_some(any_rate),
            limits: Limits::new(config.pair),
            chance: fastrand::Rng::with_seed(config.seed),
            webhook_chance: fastrand::Rng::with_seed(config.seed).fork(),
            sequence: 0,
        }
    }

    /// The plugin's numbers.
    pub(super) fn numbers(&self) -> &[Number] {
        &self.numbers
    }

    /// Other numbers from now on. What a number that stays has sent in the last second still counts.
    pub(super) fn set_numbers(&mut self, numbers: Vec<Number>) -> Result<(), ConfigError> {
        Number::check_all(&numbers)?;
        self.ceilings = ceilings(&numbers);
        self.numbers = numbers;
        Ok(())
    }

    /// Another real ceiling of one of the plugin's numbers, whatever is shown of it.
    pub(super) fn set_ceiling(&mut self, id: &str, most: Option<u32>) -> Result<(), ConfigError> {
        let Some(number) = self.numbers.iter_mut().find(|number| number.id == id) else {
            return Err(ConfigError::invalid("numbers", "the plugin has no number with this id"));
        };
        number.rate = Some(most.unwrap_or(0));
        self.ceilings.insert(id.to_owned(), number.ceiling());
        Ok(())
    }

    /// Decides what becomes of a request with a good key and plugin.
    pub(super) fn take(&mut self, arrival: Arrival<'_>) -> Plan {
        let body: Option<Value> = serde_json::from_slice(arrival.body).ok();
        let message = body.as_ref().map(checks::outline).unwrap_or_default();
        let delay = self.latency.draw(self.chance.f64());
        let Some(ceiling) = self.ceiling(arrival.number) else {
            return refused(arrival, message, delay, INVALID_VALUE);
        };
        match body.as_ref().map_or(Err(INVALID_PARAMETER), checks::check) {
            Err(code) => refused(arrival, message, delay, code),
            Ok(asked) => self.pass(arrival, asked, message, delay, ceiling),
        }
    }

    /// The number's ceiling; none when the plugin does not have the number.
    fn ceiling(&mut self, number: &str) -> Option<Option<u32>> {
        if let Some(ceiling) = self.ceilings.get(number) {
            return Some(*ceiling);
        }
        let ceiling = self.others.filter(|_| self.ceilings.len() < KEPT_NUMBERS)?;
        self.ceilings.insert(number.to_owned(), ceiling);
        Some(ceiling)
    }

    /// A lawful request: faults, then limits, then acceptance.
    fn pass(
        &mut self,
        arrival: Arrival<'_>,
        asked: Asked,
        message: Message,
        latency: Duration,
        ceiling: Option<u32>,
    ) -> Plan {
        let (number, to) = (arrival.number, message.to.as_str());
        let seen = Seen { number, to, kind: &message.kind, text: &message.text };
        let fault = self.faults.choose(&seen, || self.chance.f64()).cloned();
        let delay = latency + fault.as_ref().map_or(Duration::ZERO, |fault| fault.delay);
        let (mut wamid, mut course) = (None, Course::default());
        if fault.as_ref().is_none_or(Fault::accepts) {
            match asked {
                Asked::Mark => (),
                Asked::Send => {
                    if let Err(over) = self.limits.admit(arrival.now, number, to, ceiling) {
                        return refused(arrival, message, delay, over.code());
                    }
                    let accepted = self.accept(arrival, &message);
                    course = self.course(arrival, &message, &accepted, delay);
                    wamid = Some(accepted);
                }
            }
        }
        let good = || wamid.as_deref().map_or_else(Reply::marked, Reply::accepted);
        let code = fault.as_ref().and_then(|fault| fault.answer.as_ref()?.code);
        let act = match fault {
            None => Act::Answer(good()),
            Some(fault) => act(&fault, good, wamid.as_deref().unwrap_or_default(), to),
        };
        Plan { course, ..plan(arrival, message, delay, act, code, wamid) }
    }

    /// Meta takes the message: it has an id, and the listings will show it.
    fn accept(&mut self, arrival: Arrival<'_>, message: &Message) -> String {
        self.sequence += 1;
        let wamid = format!("wamid.HBgM{:016X}{:08X}", self.chance.u64(..), self.sequence);
        self.sends.push(Sent {
            wamid: wamid.clone(),
            to: message.to.clone(),
            kind: message.kind.clone(),
            // A copy: the original would hold on to the connection's whole read buffer.
            body: Bytes::copy_from_slice(arrival.body),
            accepted: arrival.now,
            accepted_ms: arrival.wall_ms,
            chance: self.chance.f64(),
        });
        wamid
    }

    /// What webhooks will tell of an accepted message whose send is answered after `delay`.
    fn course(
        &mut self,
        arrival: Arrival<'_>,
        message: &Message,
        wamid: &str,
        delay: Duration,
    ) -> Course {
        let shown = self.numbers.iter().find(|number| number.id == arrival.number);
        let accepted = Accepted {
            wamid: wamid.to_owned(),
            number: arrival.number.to_owned(),
            display_phone_number: shown.map(|n| n.display_phone_number.clone()).unwrap_or_default(),
            to: message.to.clone(),
            is_group: message.is_group,
            kind: message.kind.clone(),
            opaque: message.opaque.clone(),
        };
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        let times = Timing {
            accepted: arrival.now,
            answered: arrival.now + delay,
            answered_ms: arrival.wall_ms.saturating_add(delay_ms),
        };
        course(&self.webhook, &mut self.webhook_chance, accepted, times)
    }

    /// The same of a message that nobody sent. The plugin's numbers take turns.
    pub(super) fn course_of_made_up(
        &mut self,
        message: Accepted,
        turn: u64,
        now: Instant,
        wall_ms: i64,
    ) -> Course {
        let turn = usize::try_from(turn).unwrap_or_default();
        let Some(number) = self.numbers.get(turn % self.numbers.len().max(1)) else {
            return Course::default();
        };
        let accepted = Accepted {
            number: number.id.clone(),
            display_phone_number: number.display_phone_number.clone(),
            ..message
        };
        let times = Timing { accepted: now, answered: now, answered_ms: wall_ms };
        course(&self.webhook, &mut self.webhook_chance, accepted, times)
    }
}

fn ceilings(numbers: &[Number]) -> HashMap<String, Option<u32>> {
    numbers.iter().map(|number| (number.id.clone(), number.ceiling())).collect()
}

/// What a fault does, given what a good answer would be.
fn act(fault: &Fault, good: impl FnOnce() -> Reply, wamid: &str, to: &str) -> Act {
    match (fault.cut, &fault.answer) {
        (Some(Cut::Before | Cut::After), _) => Act::Close,
        (Some(Cut::Headers), _) => Act::CloseInBody(good()),
        (None, Some(answer)) => Act::Answer(Reply::faulty(answer, wamid, to)),
        (None, None) if fault.hang => Act::Hang,
        (None, None) => Act::Answer(good()),
    }
}

fn refused(arrival: Arrival<'_>, message: Message, delay: Duration, code: u32) -> Plan {
    plan(arrival, message, delay, Act::Answer(Reply::refused(code)), Some(code), None)
}

/// A request that is turned away before anyone reads its body: a bad key, an unknown plugin.
pub(super) fn turned_away(arrival: Arrival<'_>, reply: Reply) -> Plan {
    plan(arrival, Message::default(), Duration::ZERO, Act::Answer(reply), None, None)
}

fn plan(
    arrival: Arrival<'_>,
    message: Message,
    delay: Duration,
    act: Act,
    code: Option<u32>,
    wamid: Option<String>,
) -> Plan {
    let ending = match &act {
        Act::Answer(reply) => Ending::Answered { status: reply.status, code },
        Act::Close | Act::CloseInBody(_) => Ending::Cut,
        Act::Hang => Ending::Hung,
    };
    let entry = Request {
        at: arrival.came,
        read: arrival.now,
        number: arrival.number.to_owned(),
        to: message.to,
        opaque: message.opaque,
        wamid,
        ending,
        body: arrival.body.clone(),
    };
    Plan { act, delay, entry, course: Course::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: Bytes = Bytes::from_static(
        br#"{"messaging_product":"whatsapp","to":"49","type":"text","text":{"body":"Hi"}}"#,
    );

    fn config() -> SandboxConfig {
        let number = Number { rate: Some(2), ..Number::new("1") };
        SandboxConfig { numbers: vec![number], ..SandboxConfig::default() }
    }

    fn take(state: &mut State, number: &str, body: &Bytes) -> Plan {
        let now = Instant::now();
        state.take(Arrival { now, came: now, wall_ms: 0, number, body })
    }

    fn code(plan: &Plan) -> Option<u32> {
        match plan.entry.ending {
            Ending::Answered { code, .. } => code,
            Ending::Cut | Ending::Hung => None,
        }
    }

    #[test]
    fn a_message_is_accepted_until_its_number_is_over_its_ceiling() {
        let mut state = State::new(config());
        assert!(take(&mut state, "1", &TEXT).entry.wamid.is_some());
        assert!(take(&mut state, "1", &TEXT).entry.wamid.is_some());
        let third = take(&mut state, "1", &TEXT);
        assert_eq!((third.entry.wamid.is_none(), code(&third)), (true, Some(130_429)));
    }

    #[test]
    fn unknown_numbers_and_unlawful_bodies_are_refused_before_any_fault() {
        let faults = vec![Fault { cut: Some(Cut::Before), ..Fault::default() }];
        let mut state = State::new(SandboxConfig { faults, ..config() });
        assert_eq!(code(&take(&mut state, "2", &TEXT)), Some(INVALID_VALUE));
        let plan = take(&mut state, "1", &Bytes::from_static(b"no json"));
        assert_eq!(code(&plan), Some(INVALID_PARAMETER));
        assert_eq!(take(&mut state, "1", &TEXT).entry.ending, Ending::Cut);
    }

    #[test]
    fn any_number_may_send_where_the_configuration_says_so() {
        let mut state =
            State::new(SandboxConfig { any_number: true, any_number_rate: 1, ..config() });
        assert!(take(&mut state, "2", &TEXT).entry.wamid.is_some());
        assert_eq!(code(&take(&mut state, "2", &TEXT)), Some(130_429));
    }

    #[test]
    fn a_ceiling_that_changes_grants_no_second_burst() {
        let mut state = State::new(config());
        assert!(take(&mut state, "1", &TEXT).entry.wamid.is_some());
        state.set_ceiling("1", Some(1)).unwrap();
        assert_eq!(code(&take(&mut state, "1", &TEXT)), Some(130_429));
        state.set_numbers(vec![Number { rate: Some(2), ..Number::new("1") }]).unwrap();
        assert!(take(&mut state, "1", &TEXT).entry.wamid.is_some());
        assert_eq!(code(&take(&mut state, "1", &TEXT)), Some(130_429));
        state.set_ceiling("1", None).unwrap();
        assert!(take(&mut state, "1", &TEXT).entry.wamid.is_some());
        assert!(state.set_ceiling("2", None).is_err());
    }

    #[test]
    fn a_fault_that_does_not_accept_takes_nothing_from_the_ceiling() {
        let faults = vec![Fault { first: Some(5), hang: true, ..Fault::default() }];
        let mut state = State::new(SandboxConfig { faults, ..config() });
        for _ in 0..5 {
            assert_eq!(take(&mut state, "1", &TEXT).entry.ending, Ending::Hung);
        }
        assert!(take(&mut state, "1", &TEXT).entry.wamid.is_some());
    }

    #[test]
    fn one_seed_tells_one_story() {
        let ids = || {
            let mut state = State::new(config());
            [(); 2].map(|()| take(&mut state, "1", &TEXT).entry.wamid)
        };
        assert_eq!(ids(), ids());
        let [first, second] = ids();
        assert_ne!(first, second);
    }
}
