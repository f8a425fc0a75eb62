//! Whether a job's own times let it go now.

use super::{History, Why};
use crate::wire::SendJob;
use jiff::Timestamp;
use std::time::Duration;

/// A promise of the recipient's gate that is used later than this is void: had many lapsed while the
/// worker stood still, using them all at once would be the burst that the gate exists to prevent.
const PROMISE_LAPSES: Duration = Duration::from_secs(6);

/// A job that waits for its next attempt sleeps only so much of the rest in hand: it came by its
/// number's urgent queue, and many sleepers there would fill its prefetch before a fresh urgent job.
const RETRY_SLEEPS: Duration = Duration::from_secs(1);

/// What a job's times say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timing {
    /// It may go.
    Now,
    /// It may go after this rest, short enough to be slept.
    Sleep(Duration),
    /// It must wait outside the worker.
    Later(Timestamp, Why),
    /// Its time has passed.
    Expired,
}

/// Reads `expires_at`, `not_before` and the end of an earlier wait. Rests up to `max_wait` are slept.
/// A job that came back before its wait was over goes on waiting for the same thing.
pub fn timing(
    job: &SendJob,
    history: &History,
    waited_for: Option<Why>,
    max_wait: Duration,
    now: Timestamp,
) -> Timing {
    if is_expired(job, now) {
        return Timing::Expired;
    }
    let again = waited_for.unwrap_or(Why::HandedBack);
    let (due, why) = match (job.not_before, history.due) {
        (Some(start), Some(due)) if due > start => (due, again),
        (Some(start), _) => (start, Why::NotBefore),
        (None, Some(due)) => (due, again),
        (None, None) => return Timing::Now,
    };
    let longest = match why {
        Why::Retry | Why::Doubt => max_wait.min(RETRY_SLEEPS),
        Why::NotBefore | Why::Recipient | Why::Hold | Why::Identical | Why::HandedBack => max_wait,
    };
    match rest(due, now) {
        Duration::ZERO => Timing::Now,
        rest if rest <= longest => Timing::Sleep(rest),
        _ => Timing::Later(due, why),
    }
}

/// Whether `expires_at` has come.
pub fn is_expired(job: &SendJob, now: Timestamp) -> bool {
    job.expires_at.is_some_and(|end| end <= now)
}

/// How long until `due`, none when it has come.
pub fn rest(due: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO)
}

/// Whether the job waited for a moment that its recipient's gate promised, and comes in time for it:
/// then it has passed that gate.
pub fn keeps_promise(history: &History, waited_for: Option<Why>, now: Timestamp) -> bool {
    waited_for == Some(Why::Recipient)
        && history.due.is_some_and(|due| rest(now, due) <= PROMISE_LAPSES)
}

/// Since when the job could have been sent, had nobody been before it: when it was enqueued (as far as its
/// producer says so, else when a worker first saw it), or the end of a wait of its own since. A pause of its
/// number or a lane that changes hands is no wait of its own.
pub fn ready_since(job: &SendJob, history: &History, waited_for: Option<Why>) -> Timestamp {
    let enqueued = history.enqueued_at.unwrap_or(history.first_received);
    let ready = match waited_for {
        Some(Why::Retry | Why::NotBefore | Why::Recipient | Why::Doubt | Why::Identical) => {
            history.due.unwrap_or(enqueued)
        }
        Some(Why::Hold | Why::HandedBack) | None => enqueued,
    };
    job.not_before.map_or(ready, |start| start.max(ready))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const MAX_WAIT: Duration = Duration::from_secs(5);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn job(not_before: Option<i64>, expires_at: Option<i64>) -> SendJob {
        let mut job = SendJob::parse(
            &Bytes::from_static(
                br#"{"id":"a","phone_number_id":"1","message":{"messaging_product":"whatsapp","to":"+919901258433","text":{"body":"x"}}}"#,
            ),
            None,
        )
        .unwrap();
        job.not_before = not_before.map(at);
        job.expires_at = expires_at.map(at);
        job
    }

    fn due(seconds: Option<i64>) -> History {
        History { due: seconds.map(at), ..History::fresh(at(0)) }
    }

    fn timing_of(job: &SendJob, history: &History) -> Timing {
        timing(job, history, Some(Why::Retry), MAX_WAIT, at(0))
    }

    #[test]
    fn a_job_is_ready_since_it_was_enqueued_or_since_the_end_of_a_wait_of_its_own() {
        let stamped = History { enqueued_at: Some(at(-90)), ..History::fresh(at(-60)) };
        let waited = |due| History { due: Some(at(due)), ..stamped.clone() };
        for (history, waited_for, not_before, since) in [
            (History::fresh(at(-60)), None, None, -60),
            (stamped.clone(), None, None, -90),
            (stamped.clone(), None, Some(-30), -30),
            (stamped.clone(), None, Some(-100), -90),
            (waited(-5), Some(Why::Retry), None, -5),
            (waited(-5), Some(Why::Recipient), Some(-30), -5),
            (waited(-5), Some(Why::Hold), None, -90),
            (stamped.clone(), Some(Why::HandedBack), None, -90),
        ] {
            let ready = ready_since(&job(not_before, None), &history, waited_for);
            assert_eq!(ready, at(since), "{history:?} {waited_for:?} {not_before:?}");
        }
    }

    #[test]
    fn a_job_without_times_goes_now() {
        assert_eq!(timing_of(&job(None, None), &due(None)), Timing::Now);
        assert_eq!(timing_of(&job(Some(-1), Some(1)), &due(Some(-1))), Timing::Now);
    }

    #[test]
    fn it_expires_at_the_instant_and_not_before() {
        assert_eq!(timing_of(&job(None, Some(0)), &due(None)), Timing::Expired);
        assert_eq!(timing_of(&job(None, Some(1)), &due(None)), Timing::Now);
    }

    #[test]
    fn a_short_rest_is_slept_and_a_long_one_is_not() {
        assert_eq!(timing_of(&job(Some(5), None), &due(None)), Timing::Sleep(MAX_WAIT));
        assert_eq!(
            timing_of(&job(Some(6), None), &due(None)),
            Timing::Later(at(6), Why::NotBefore)
        );
    }

    #[test]
    fn a_retry_sleeps_no_more_than_a_second_in_the_urgent_queue() {
        assert_eq!(
            timing_of(&job(None, None), &due(Some(1))),
            Timing::Sleep(Duration::from_secs(1))
        );
        assert_eq!(timing_of(&job(None, None), &due(Some(2))), Timing::Later(at(2), Why::Retry));
    }

    #[test]
    fn the_later_of_two_times_counts_and_keeps_its_reason() {
        assert_eq!(
            timing_of(&job(Some(60), None), &due(Some(90))),
            Timing::Later(at(90), Why::Retry)
        );
        assert_eq!(
            timing_of(&job(Some(60), None), &due(Some(30))),
            Timing::Later(at(60), Why::NotBefore)
        );
    }

    #[test]
    fn a_promise_is_kept_in_time_only_and_for_the_recipient_only() {
        let history = due(Some(0));
        assert!(keeps_promise(&history, Some(Why::Recipient), at(5)));
        assert!(!keeps_promise(&history, Some(Why::Recipient), at(7)));
        assert!(!keeps_promise(&history, Some(Why::Retry), at(5)));
    }
}
