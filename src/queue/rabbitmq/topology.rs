//! What stands in RabbitMQ behind each name, as data. Declares nothing itself.

pub use super::names::{Names, lane_key, read_lane_key};

use crate::wire::{NumberId, Priority};
use std::fmt;
use std::time::Duration;

/// How often a quorum queue delivers a message before it gives it up. Never -1 (3.x then gives up at
/// the first return), never the 20 of 4.x (21 lost connections would empty a queue that was only
/// read): large enough to be never reached.
const DELIVERY_LIMIT: i64 = 1_000_000;

/// The longest time to live that RabbitMQ takes: 49 days.
const MAX_TTL_MILLIS: i64 = 4_294_967_295;

/// Which names and bounds this product has.
#[derive(Debug, Clone)]
pub struct TopologySettings {
    /// Every name begins with it.
    pub prefix: String,
    /// Create what is missing; else only check.
    pub declare: bool,
    /// A lane's queue refuses producers beyond this many jobs; none: never.
    pub lane_max_length: Option<u64>,
    /// Events stay in the results queue for so long,
    pub results_keep: Duration,
    /// and for so many bytes, the oldest dropped first.
    pub results_max_bytes: u64,
    /// Dead letters stay for so long.
    pub dead_letters_keep: Duration,
}

/// A queue in which jobs wait for a fixed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// One second.
    Second,
    /// Five seconds.
    Seconds5,
    /// Half a minute.
    Seconds30,
    /// Two minutes.
    Minutes2,
    /// Ten minutes.
    Minutes10,
    /// One hour.
    Hour,
    /// Six hours.
    Hours6,
}

impl Step {
    /// From the shortest to the longest.
    pub const ALL: [Step; 7] = [
        Step::Second,
        Step::Seconds5,
        Step::Seconds30,
        Step::Minutes2,
        Step::Minutes10,
        Step::Hour,
        Step::Hours6,
    ];

    /// How long a job stays.
    pub const fn length(self) -> Duration {
        Duration::from_secs(match self {
            Step::Second => 1,
            Step::Seconds5 => 5,
            Step::Seconds30 => 30,
            Step::Minutes2 => 120,
            Step::Minutes10 => 600,
            Step::Hour => 3_600,
            Step::Hours6 => 21_600,
        })
    }

    /// The end of its names.
    pub fn name(self) -> &'static str {
        match self {
            Step::Second => "1s",
            Step::Seconds5 => "5s",
            Step::Seconds30 => "30s",
            Step::Minutes2 => "2m",
            Step::Minutes10 => "10m",
            Step::Hour => "1h",
            Step::Hours6 => "6h",
        }
    }
}

/// The longest step that fits into the rest of a wait; the shortest where none does.
pub fn step_for(rest: Duration) -> Step {
    let fits = Step::ALL.into_iter().rev().find(|step| step.length() <= rest);
    fits.unwrap_or(Step::Second)
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A word or a name.
    Text(String),
    /// A count, bytes or milliseconds.
    Number(i64),
    /// Yes or no.
    Flag(bool),
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Text(text) => f.write_str(text),
            Argument::Number(number) => write!(f, "{number}"),
            Argument::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// Named arguments, in the order in which they are shown.
pub type Arguments = Vec<(&'static str, Argument)>;

/// The kinds of exchange in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the whole key.
    Direct,
    /// To every queue.
    Fanout,
    /// By a pattern.
    Topic,
}

/// A durable exchange.
#[derive(Debug, Clone)]
pub struct Exchange {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Its arguments.
    pub arguments: Arguments,
}

/// A durable queue.
#[derive(Debug, Clone)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments, the type included.
    pub arguments: Arguments,
}

/// What goes from an exchange into a queue.
#[derive(Debug, Clone)]
pub struct Binding {
    /// From.
    pub exchange: String,
    /// To.
    pub queue: String,
    /// By which key.
    pub key: String,
}

/// What is to stand in the broker.
#[derive(Debug, Clone, Default)]
pub struct Topology {
    /// Exchanges.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

impl Topology {
    /// What all lanes share.
    pub fn shared(names: &Names, settings: &TopologySettings) -> Topology {
        let mut all = Topology::default();
        // Where no queue is bound, jobs are not lost: the broker confirms what goes nowhere.
        let unrouted = vec![("alternate-exchange", Argument::Text(names.unrouted()))];
        all.exchange(names.sends(), Kind::Direct, unrouted.clone());
        all.exchange(names.unrouted(), Kind::Fanout, Vec::new());
        all.queue(names.unrouted(), quorum());
        all.bind(names.unrouted(), names.unrouted(), "");
        all.queue(names.control(), vec![("x-queue-type", Argument::Text("stream".into()))]);
        for step in Step::ALL {
            let mut arguments = quorum();
            arguments.push(("x-message-ttl", millis(step.length())));
            // No dead-letter routing key: the job's own brings it back to its lane.
            arguments.extend(dead_lettering_to(names.sends()));
            all.exchange(names.wait(step), Kind::Fanout, unrouted.clone());
            all.queue(names.wait(step), arguments);
            all.bind(names.wait(step), names.wait(step), "");
        }
        all.exchange(names.presence(), Kind::Fanout, Vec::new());
        let mut results = quorum();
        let most = i64::try_from(settings.results_max_bytes).unwrap_or(i64::MAX);
        results.push(("x-message-ttl", millis(settings.results_keep)));
        results.push(("x-max-length-bytes", Argument::Number(most)));
        results.push(("x-overflow", Argument::Text("drop-head".into())));
        all.exchange(names.results(), Kind::Topic, Vec::new());
        all.queue(names.results(), results);
        all.bind(names.results(), names.results(), "#");
        let mut dead_letters = quorum();
        dead_letters.push(("x-message-ttl", millis(settings.dead_letters_keep)));
        all.queue(names.dead_letters(), dead_letters);
        all
    }

    /// One number's two queues.
    pub fn lane(names: &Names, settings: &TopologySettings, number: &NumberId) -> Topology {
        let mut lane = Topology::default();
        for priority in [Priority::Normal, Priority::Urgent] {
            let mut arguments = quorum();
            arguments.push(("x-single-active-consumer", Argument::Flag(true)));
            arguments.extend(dead_lettering_to(names.unrouted()));
            if let Some(most) = settings.lane_max_length {
                let most = i64::try_from(most).unwrap_or(i64::MAX);
                arguments.push(("x-max-length", Argument::Number(most)));
            }
            lane.queue(names.lane(number, priority), arguments);
            let key = lane_key(number, priority);
            lane.bind(names.sends(), names.lane(number, priority), &key);
        }
        lane
    }

    /// Adds what stands in another.
    pub fn extend(&mut self, other: Topology) {
        self.exchanges.extend(other.exchanges);
        self.queues.extend(other.queues);
        self.bindings.extend(other.bindings);
    }

    fn exchange(&mut self, name: String, kind: Kind, arguments: Arguments) {
        self.exchanges.push(Exchange { name, kind, arguments });
    }

    fn queue(&mut self, name: String, arguments: Arguments) {
        self.queues.push(Queue { name, arguments });
    }

    fn bind(&mut self, exchange: String, queue: String, key: &str) {
        self.bindings.push(Binding { exchange, queue, key: key.to_owned() });
    }
}

fn quorum() -> Arguments {
    vec![
        ("x-queue-type", Argument::Text("quorum".into())),
        ("x-delivery-limit", Argument::Number(DELIVERY_LIMIT)),
    ]
}

/// At least once works only together with `reject-publish`; else it silently becomes at most once.
fn dead_lettering_to(exchange: String) -> Arguments {
    vec![
        ("x-dead-letter-exchange", Argument::Text(exchange)),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".into())),
        ("x-overflow", Argument::Text("reject-publish".into())),
    ]
}

fn millis(length: Duration) -> Argument {
    Argument::Number(i64::try_from(length.as_millis()).unwrap_or(i64::MAX).min(MAX_TTL_MILLIS))
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Exchange { name, kind, arguments } in &self.exchanges {
            let kind = match kind {
                Kind::Direct => "direct",
                Kind::Fanout => "fanout",
                Kind::Topic => "topic",
            };
            writeln!(f, "exchange {name} {kind}{}", Shown(arguments))?;
        }
        for Queue { name, arguments } in &self.queues {
            writeln!(f, "queue {name}{}", Shown(arguments))?;
        }
        for Binding { exchange, queue, key } in &self.bindings {
            writeln!(f, "binding {exchange} -> {queue} {key:?}")?;
        }
        Ok(())
    }
}

struct Shown<'a>(&'a Arguments);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, value)| write!(f, " {name}={value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> TopologySettings {
        TopologySettings {
            prefix: "chakra".into(),
            declare: true,
            lane_max_length: Some(5),
            results_keep: Duration::from_secs(7 * 86_400),
            results_max_bytes: 1 << 30,
            dead_letters_keep: Duration::from_secs(30 * 86_400),
        }
    }

    /// As text, each argument on a line of its own; of the waits only the shortest.
    fn shown(topology: &Topology) -> String {
        let others = |line: &&str| !line.contains(".wait.") || line.contains(".wait.1s");
        let lines: Vec<String> = topology.to_string().lines().filter(others).map(broken).collect();
        lines.join("\n")
    }

    fn broken(line: &str) -> String {
        line.replace(" x-", "\n    x-").replace(" alternate", "\n    alternate")
    }

    #[test]
    fn what_all_lanes_share() {
        insta::assert_snapshot!(shown(&Topology::shared(&Names::new("chakra"), &settings())), @r##"
        exchange chakra.sends direct
            alternate-exchange=chakra.unrouted
        exchange chakra.unrouted fanout
        exchange chakra.wait.1s fanout
            alternate-exchange=chakra.unrouted
        exchange chakra.presence fanout
        exchange chakra.results topic
        queue chakra.unrouted
            x-queue-type=quorum
            x-delivery-limit=1000000
        queue chakra.control
            x-queue-type=stream
        queue chakra.wait.1s
            x-queue-type=quorum
            x-delivery-limit=1000000
            x-message-ttl=1000
            x-dead-letter-exchange=chakra.sends
            x-dead-letter-strategy=at-least-once
            x-overflow=reject-publish
        queue chakra.results
            x-queue-type=quorum
            x-delivery-limit=1000000
            x-message-ttl=604800000
            x-max-length-bytes=1073741824
            x-overflow=drop-head
        queue chakra.dead-letters
            x-queue-type=quorum
            x-delivery-limit=1000000
            x-message-ttl=2592000000
        binding chakra.unrouted -> chakra.unrouted ""
        binding chakra.wait.1s -> chakra.wait.1s ""
        binding chakra.results -> chakra.results "#"
        "##);
    }

    #[test]
    fn what_a_lane_is() {
        let number = NumberId::parse("1027").unwrap();
        insta::assert_snapshot!(shown(&Topology::lane(&Names::new("chakra"), &settings(), &number)), @r##"
        queue chakra.sends.1027
            x-queue-type=quorum
            x-delivery-limit=1000000
            x-single-active-consumer=true
            x-dead-letter-exchange=chakra.unrouted
            x-dead-letter-strategy=at-least-once
            x-overflow=reject-publish
            x-max-length=5
        queue chakra.sends.1027.urgent
            x-queue-type=quorum
            x-delivery-limit=1000000
            x-single-active-consumer=true
            x-dead-letter-exchange=chakra.unrouted
            x-dead-letter-strategy=at-least-once
            x-overflow=reject-publish
            x-max-length=5
        binding chakra.sends -> chakra.sends.1027 "1027"
        binding chakra.sends -> chakra.sends.1027.urgent "1027.urgent"
        "##);
    }

    #[test]
    fn a_wait_takes_the_longest_step_that_fits_into_its_rest() {
        let steps = |seconds: f64| step_for(Duration::from_secs_f64(seconds)).name();
        let taken = [0.0, 0.3, 1.0, 4.9, 5.0, 29.0, 90.0, 3_599.0, 3_600.0, 1e6].map(steps);
        assert_eq!(taken, ["1s", "1s", "1s", "1s", "5s", "5s", "30s", "10m", "1h", "6h"]);
    }
}
