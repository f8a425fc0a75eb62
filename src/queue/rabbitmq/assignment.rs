//! Which lanes this worker consumes right now. Quiet: who is here, which lanes there are and what is held
//! come in as arguments; what to open and what to leave comes out.

use std::time::Duration;
use tokio::time::Instant;

/// A hold that lasts no longer is sat out: the lane's few jobs in hand wait in the worker, and nothing is
/// cancelled. It is `limits.max_wait`'s default: longer waits are the broker's everywhere.
pub(super) const SAT_OUT: Duration = Duration::from_secs(5);

/// Workers and lanes must not have changed for so long before a number is surely one worker's alone:
/// longer than it takes to notice a dead worker (2 s), or a lane to be handed over (1 s).
pub(super) const SETTLES_AFTER: Duration = Duration::from_secs(2);

/// What keeps a lane from being consumed, or does not.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hindrance {
    /// An answer asked to leave the number alone until then.
    pub(super) held_until: Option<Instant>,
    /// An operator paused it until then, as far ahead as is known.
    pub(super) paused_until: Option<Instant>,
    /// Its backlog is to be read nevertheless: an operator ends what is in it.
    pub(super) is_dropping: bool,
}

/// What to do about one lane of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    /// Consume it. Look again then, if it is open by a hold that is sat out.
    Open,
    /// Do not consume it before then.
    Shut(Instant),
}

/// Whether a lane that is ours is to be consumed now. `is_open` says whether it is: one that was left for
/// a hold stays left until its end.
pub(super) fn stand(hindrance: Hindrance, is_open: bool, now: Instant) -> Stand {
    let Hindrance { held_until, paused_until, is_dropping } = hindrance;
    let paused = paused_until.filter(|until| *until > now && !is_dropping);
    let sat_out = if is_open { SAT_OUT } else { Duration::ZERO };
    let held = held_until.filter(|until| *until > now + sat_out && !is_dropping);
    paused.max(held).map_or(Stand::Open, Stand::Shut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_hold_or_a_pause_shuts_a_lane_until_its_end() {
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        let free = Hindrance::default();
        let held = |seconds| Hindrance { held_until: at(seconds), ..free };
        let paused = |seconds| Hindrance { paused_until: at(seconds), ..free };
        let shut = |seconds| Stand::Shut(now + Duration::from_secs(seconds));
        for (hindrance, is_open, expected) in [
            (free, true, Stand::Open),
            (free, false, Stand::Open),
            (held(5), true, Stand::Open),
            (held(6), true, shut(6)),
            (held(1), false, shut(1)),
            (paused(1), true, shut(1)),
            (paused(0), true, Stand::Open),
            (Hindrance { held_until: at(60), ..paused(9) }, true, shut(60)),
            (Hindrance { is_dropping: true, ..paused(9) }, true, Stand::Open),
            (Hindrance { is_dropping: true, ..held(60) }, false, Stand::Open),
        ] {
            assert_eq!(stand(hindrance, is_open, now), expected, "{hindrance:?}, open: {is_open}");
        }
    }
}
