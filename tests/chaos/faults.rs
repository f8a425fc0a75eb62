//! The faults: which there are, what each needs, and what must follow. What they do is `strikes`'.

use crate::table::{Listing, Row};
use crate::world::Plan;
use chakra_sender::crash::Stage;
use std::time::Duration;

/// How often a worker ends itself at the same stage.
pub(crate) const CRASHES: usize = 3;

/// Which passing of the stage ends it: by then it is under load (`strikes`).
const PASSING: usize = 80;

/// SIGKILL at random.
pub(crate) const KILLS: usize = 50;

/// SIGTERM under load.
pub(crate) const STOPS: usize = 10;

/// In seconds, where two missed heartbeats are waited for.
const SHORT_HEARTBEAT: u32 = 2;

/// After the broker's return jobs are consumed again within this (DESIGN, targets).
const BROKER_RECOVERY: Duration = Duration::from_secs(5);

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Crash(Stage),
    BytesHalfWritten,
    WrittenUnanswered,
    RandomKills,
    Stops,
    Freeze,
    BrokerRestart,
    BrokerKill,
    CutLine,
    SilentLine,
    MemoryAlarm,
    LaneDeleted,
    WaitExchangeDeleted,
    Refused,
    Hangs,
    CutInAnswer,
    CutBeforeAnswer,
    Storm503,
    KeyRotated,
    Throttled429,
    LedgerDiskFull,
}

/// Who is in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Party {
    Worker,
    Broker,
    ChakraHq,
}

impl Fault {
    /// All of them, in the table's order.
    pub(crate) fn all() -> Vec<Fault> {
        use Fault::*;
        let stages = Stage::ALL.map(Crash);
        let others = [
            BytesHalfWritten,
            WrittenUnanswered,
            RandomKills,
            Stops,
            Freeze,
            BrokerRestart,
            BrokerKill,
            CutLine,
            SilentLine,
            MemoryAlarm,
            LaneDeleted,
            WaitExchangeDeleted,
            Refused,
            Hangs,
            CutInAnswer,
            CutBeforeAnswer,
            Storm503,
            KeyRotated,
            Throttled429,
            LedgerDiskFull,
        ];
        stages.into_iter().chain(others).collect()
    }

    /// Those of the short form, with one listing each.
    pub(crate) fn short() -> Vec<(Fault, Listing)> {
        use Fault::*;
        let at_once = Listing::ALL[0];
        let shown = [
            Crash(Stage::AfterBegin),
            Crash(Stage::Answered),
            Crash(Stage::Published),
            BytesHalfWritten,
            WrittenUnanswered,
            Stops,
            CutLine,
            CutBeforeAnswer,
            Storm503,
        ];
        let never = [(Crash(Stage::AfterBegin), Listing::Never)];
        never.into_iter().chain(shown.map(|fault| (fault, at_once))).collect()
    }

    /// As the table has it.
    pub(crate) fn name(self) -> String {
        let name = match self {
            Fault::Crash(stage) => return format!("SIGKILL x{}, {}", CRASHES, stage.name()),
            Fault::RandomKills => return format!("SIGKILL x{KILLS}, at random"),
            Fault::Stops => return format!("SIGTERM x{STOPS}"),
            Fault::BytesHalfWritten => "SIGKILL, requests half written",
            Fault::WrittenUnanswered => "SIGKILL, requests written and unanswered",
            Fault::Freeze => "SIGSTOP beyond the heartbeats, another worker takes over, SIGCONT",
            Fault::BrokerRestart => "broker: restart",
            Fault::BrokerKill => "broker: SIGKILL and start",
            Fault::CutLine => "broker: line cut",
            Fault::SilentLine => "broker: line silent, not closed",
            Fault::MemoryAlarm => "broker: memory alarm",
            Fault::LaneDeleted => "broker: a lane's queue deleted",
            Fault::WaitExchangeDeleted => "broker: a wait exchange deleted",
            Fault::Refused => "ChakraHQ: connections refused",
            Fault::Hangs => "ChakraHQ: no answer in time",
            Fault::CutInAnswer => "ChakraHQ: cut within the answer",
            Fault::CutBeforeAnswer => "ChakraHQ: cut before the answer",
            Fault::Storm503 => "ChakraHQ: a storm of 503",
            Fault::KeyRotated => "ChakraHQ: 401 until the key's file is rotated",
            Fault::Throttled429 => "ChakraHQ: 429 with a hint",
            Fault::LedgerDiskFull => "the ledger's disk full",
        };
        name.to_owned()
    }

    /// What its scenario needs.
    pub(crate) fn plan(self) -> Plan {
        let mut plan = Plan {
            jobs: 300,
            rate: 60,
            private_broker: false,
            heartbeat: 10,
            crash_at: None,
            token_file: false,
            small_disk: false,
            identical: true,
            within: Duration::from_secs(150),
        };
        match self {
            Fault::Crash(stage) => plan.crash_at = Some(format!("{}:{}", stage.name(), PASSING)),
            Fault::RandomKills => {
                (plan.jobs, plan.rate, plan.within) = (1_000, 40, Duration::from_secs(300));
            }
            Fault::Stops => plan.jobs = 600,
            Fault::Freeze => (plan.heartbeat, plan.identical) = (SHORT_HEARTBEAT, false),
            Fault::SilentLine => plan.heartbeat = SHORT_HEARTBEAT,
            Fault::BrokerRestart | Fault::BrokerKill | Fault::MemoryAlarm => {
                plan.private_broker = true;
            }
            Fault::LaneDeleted => plan.jobs = 100,
            Fault::KeyRotated => plan.token_file = true,
            Fault::LedgerDiskFull => plan.small_disk = true,
            Fault::BytesHalfWritten
            | Fault::WrittenUnanswered
            | Fault::CutLine
            | Fault::WaitExchangeDeleted
            | Fault::Refused
            | Fault::Hangs
            | Fault::CutInAnswer
            | Fault::CutBeforeAnswer
            | Fault::Storm503
            | Fault::Throttled429 => {}
        }
        plan
    }

    /// Who is in trouble.
    pub(crate) fn party(self) -> Party {
        match self {
            Fault::Crash(_)
            | Fault::BytesHalfWritten
            | Fault::WrittenUnanswered
            | Fault::RandomKills
            | Fault::Stops
            | Fault::Freeze
            | Fault::LedgerDiskFull => Party::Worker,
            Fault::BrokerRestart
            | Fault::BrokerKill
            | Fault::CutLine
            | Fault::SilentLine
            | Fault::MemoryAlarm
            | Fault::LaneDeleted
            | Fault::WaitExchangeDeleted => Party::Broker,
            Fault::Refused
            | Fault::Hangs
            | Fault::CutInAnswer
            | Fault::CutBeforeAnswer
            | Fault::Storm503
            | Fault::KeyRotated
            | Fault::Throttled429 => Party::ChakraHq,
        }
    }

    /// Whether it can leave a request without an answer that anybody reads.
    fn leaves_doubt(self) -> bool {
        match self {
            Fault::Crash(_)
            | Fault::BytesHalfWritten
            | Fault::WrittenUnanswered
            | Fault::RandomKills
            | Fault::Freeze
            // It cuts the connections that stand, with the calls on them.
            | Fault::Refused
            | Fault::Hangs
            | Fault::CutInAnswer
            | Fault::CutBeforeAnswer => true,
            Fault::Stops
            | Fault::BrokerRestart
            | Fault::BrokerKill
            | Fault::CutLine
            | Fault::SilentLine
            | Fault::MemoryAlarm
            | Fault::LaneDeleted
            | Fault::WaitExchangeDeleted
            | Fault::Storm503
            | Fault::KeyRotated
            | Fault::Throttled429
            | Fault::LedgerDiskFull => false,
        }
    }

    /// What was expected of it beside nothing lost and nothing twice, and did not come true.
    pub(crate) fn complaints(self, listing: Listing, row: &Row) -> Vec<String> {
        let mut complaints = Vec::new();
        let unknown = row.unknown_sent + row.unknown_unsent;
        // What the broker delivered into a line that was gone was never seen: somebody else may have
        // had it, and a chat that shows nothing decides nothing.
        let unseen = self.party() == Party::Broker && listing == Listing::Never;
        if unknown > 0 && !self.leaves_doubt() && !unseen {
            complaints.push(format!("{unknown} unknown, though every request was answered"));
        }
        if row.unknown_sent > 0 && listing != Listing::Never {
            let sent = row.unknown_sent;
            complaints.push(format!("{sent} unknown that the listing shows as sent"));
        }
        if let Some(recovery) = row.recovery
            && self.party() == Party::Broker
            && recovery > BROKER_RECOVERY
        {
            let (took, most) = (recovery.as_secs_f64(), BROKER_RECOVERY.as_secs());
            complaints.push(format!("consuming again after {took:.1} s, not within {most} s"));
        }
        complaints
    }
}
