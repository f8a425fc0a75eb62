//! The numbers of a scenario: what the plugin says of each, what each bears, and the pace that follows.

use chakra_sender::sandbox::{Number, ThroughputLevel};
use chakra_sender::wire::NumberId;

/// The part of a ceiling that is used (DESIGN, limits).
const USED: f64 = 0.875;

/// What a number is; the slowest first, as the tables have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// In the WhatsApp Business app too.
    App,
    /// Of level `STANDARD`.
    Standard,
    /// Of level `HIGH`.
    High,
}

impl Kind {
    /// What the plugin says of such a number.
    pub(crate) fn number(self, id: &str) -> Number {
        let number = Number::new(id);
        match self {
            Kind::App => Number { is_on_biz_app: true, ..number },
            Kind::Standard => number,
            Kind::High => Number { throughput_level: ThroughputLevel::High, ..number },
        }
    }

    /// What the service takes of it in any second.
    pub(crate) fn ceiling(self) -> u32 {
        self.number("1").ceiling().unwrap()
    }

    /// What is to be sent of it in a second.
    pub(crate) fn pace(self) -> f64 {
        f64::from(self.ceiling()) * USED
    }
}

/// One number.
#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) id: NumberId,
    pub(crate) kind: Kind,
}

/// So many numbers of each kind.
pub(crate) fn lanes(counts: [(Kind, usize); 3]) -> Vec<Lane> {
    let kinds = counts.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count));
    let lane = |(index, kind)| Lane {
        id: NumberId::parse(&format!("10277293404{index:05}")).unwrap(),
        kind,
    };
    kinds.enumerate().map(lane).collect()
}
