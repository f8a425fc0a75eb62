//! Stories of jobs that come, wait and leave.

use super::*;
use crate::metrics::Metrics;
use crate::policy::{self, Failure};
use crate::queue::Tenure;
use crate::wire::{Class, Priority, Status};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

fn job(id: &str) -> SendJob {
    let body = format!(
        r#"{{"id":"{id}","phone_number_id":"1","message":{{"messaging_product":"whatsapp",
            "to":"+4915123456789","text":{{"body":"x"}}}}}}"#
    );
    SendJob::parse(&Bytes::from(body), None).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn enter(all: &Whereabouts, id: &str, waited_for: Option<Why>) -> Arc<Track> {
    let metrics = Metrics::new().unwrap();
    enter_counted(all, id, waited_for, &metrics)
}

fn enter_counted(
    all: &Whereabouts,
    id: &str,
    waited_for: Option<Why>,
    metrics: &Metrics,
) -> Arc<Track> {
    let job = job(id);
    let incoming = Incoming {
        lane: None,
        job: Ok(job.clone()),
        history: History::fresh(at(0)),
        waited_for,
        priority: Priority::Normal,
        earlier: 0,
        tenure: Tenure::alone(CancellationToken::new()),
        receipt: (),
        token: metrics.received(None, Priority::Normal),
    };
    all.enter(&job, &incoming)
}

fn accepted(id: &str) -> Settlement {
    policy::accepted(&job(id), &History::fresh(at(0)), Some("wamid.1".into()), at(9))
}

fn put_off(id: &str) -> Settlement {
    policy::later(&job(id), &History::fresh(at(0)), at(60), Why::Recipient)
}

fn names(steps: &Steps) -> Vec<&'static str> {
    let name = |step: &Step| match step {
        Step::Brought { .. } => "brought",
        Step::Received { .. } => "received",
        Step::Waited { .. } => "waited",
        Step::Attempted { .. } => "attempted",
        Step::PutOff { .. } => "put off",
        Step::Ended { .. } => "ended",
        Step::Unknown => "unknown",
    };
    steps.kept.iter().map(name).collect()
}

#[test]
fn a_job_that_went_through_leaves_nothing_and_one_that_was_put_off_goes_on_with_its_story() {
    let all = Whereabouts::default();
    let id = |id| JobId::parse(id).unwrap();
    let through = enter(&all, "through", None);
    all.left(&through, &accepted("through"));
    drop(through);
    let (here, gone) = all.find(&id("through"));
    assert!(here.is_empty() && gone.is_none());

    let track = enter(&all, "late", None);
    let failure = Answer::Failed(Failure::new(Class::Throttled, "x"));
    all.answered(&track, 1, &failure, (at(1), at(2)));
    all.left(&track, &put_off("late"));
    drop(track);
    let gone = all.find(&id("late")).1.unwrap();
    assert_eq!(names(&gone.steps), ["received", "attempted", "put off"]);

    let back = enter(&all, "late", Some(Why::Recipient));
    let (here, gone) = all.find(&id("late"));
    assert!(here.len() == 1 && gone.is_none());
    let steps = back.here().steps;
    assert_eq!(names(&steps), ["received", "attempted", "put off", "received"]);
    all.left(&back, &accepted("late"));
    assert_eq!(names(&all.find(&id("late")).1.unwrap().steps).last(), Some(&"ended"));
}

#[test]
fn what_it_brings_along_is_told_where_its_story_is_not_known() {
    let all = Whereabouts::default();
    let track = enter(&all, "elsewhere", Some(Why::Retry));
    assert_eq!(names(&track.here().steps), ["brought", "received"]);
}

#[test]
fn an_outcome_that_no_ledger_remembers_is_remembered_here() {
    let all = Whereabouts::default();
    let track = enter(&all, "expired", None);
    let expired = policy::expired(&job("expired"), &History::fresh(at(0)), at(9));
    all.left(&track, &expired);
    let gone = all.find(&track.id).1.unwrap();
    let Some(Step::Ended { status, .. }) = gone.steps.kept.back() else { panic!("{gone:?}") };
    assert_eq!(status, Status::Expired.name());
}

#[test]
fn only_a_long_wait_is_told_afterwards() {
    let all = Whereabouts::default();
    let track = enter(&all, "waits", None);
    track.turn(At::Line, None, at(0));
    track.turn(At::Due, None, at(1));
    track.turn(At::Lane, Some(at(40)), at(31));
    let here = track.here();
    assert_eq!((here.at, here.since, here.until), (At::Lane, at(31), Some(at(40))));
    let told = Step::Waited { at: at(1), of: "due".into(), seconds: 30.0 };
    assert_eq!(here.steps.kept.back(), Some(&told));
}

#[test]
fn who_stands_in_the_line_is_behind_who_has_left_it() {
    let all = Whereabouts::default();
    let (first, second) = (enter(&all, "first", None), enter(&all, "second", None));
    first.is_at(At::Lane);
    second.is_at(At::Line);
    assert_eq!(all.before_it(&second), Some(first.id.clone()));
    drop(first);
    assert_eq!(all.before_it(&second), None);
}

#[test]
fn a_job_that_goes_round_takes_its_room_once_and_no_more_than_it_needs() {
    let (all, metrics) = (Whereabouts::default(), Metrics::new().unwrap());
    all.left(&enter(&all, "first", None), &put_off("first"));
    for _ in 0..200 {
        let track = enter_counted(&all, "round", Some(Why::Recipient), &metrics);
        all.left(&track, &put_off("round"));
    }
    // The second delivery of a job that has not come back.
    all.left(&enter(&all, "first", None), &put_off("first"));
    let gone = lock(&all.gone);
    assert_eq!((gone.jobs.len(), gone.order.len(), gone.steps), (2, 2, MOST_STEPS + 2));
    for (_, Gone { steps, .. }) in gone.jobs.values() {
        assert_eq!(steps.kept.capacity(), steps.kept.len());
    }
}

#[test]
fn the_list_of_jobs_in_hand_gets_shorter_when_they_have_left() {
    let (all, metrics) = (Whereabouts::default(), Metrics::new().unwrap());
    let enter = |n: usize| enter_counted(&all, &format!("job-{n}"), None, &metrics);
    let rush: Vec<_> = (0..4 * SHORT).map(enter).collect();
    let room = lock(&all.here).capacity();
    assert!(room >= rush.len());
    drop(rush);
    for n in 0..room {
        drop(enter(n));
    }
    assert!(lock(&all.here).capacity() <= 2 * SHORT, "{}", lock(&all.here).capacity());
}

#[test]
fn everything_is_bounded() {
    let (all, metrics) = (Whereabouts::default(), Metrics::new().unwrap());
    // Of each it is kept that it came and that it was put off.
    let (most, later) = (MOST_GONE / 2, put_off("later"));
    for n in 0..=most {
        let id = format!("job-{n}");
        let track = enter_counted(&all, &id, None, &metrics);
        all.left(&track, &later);
    }
    let gone = lock(&all.gone);
    assert_eq!((gone.jobs.len(), gone.order.len(), gone.steps), (most, most, MOST_GONE));
    assert!(!gone.jobs.contains_key(&JobId::parse("job-0").unwrap()));
    drop(gone);
    assert!(lock(&all.here).len() <= 2 * SHORT, "{}", lock(&all.here).len());

    let track = enter(&all, "unlucky", None);
    for attempt in 1..=100 {
        let failure = Answer::Failed(Failure::new(Class::Throttled, "x"));
        all.answered(&track, attempt, &failure, (at(1), at(2)));
    }
    let steps = track.here().steps;
    assert_eq!((steps.kept.len(), names(&steps)[0]), (MOST_STEPS, "received"));
    assert_eq!(steps.left_out, 101 - 24);
    assert!(matches!(steps.kept.back(), Some(Step::Attempted { attempt: 100, .. })));
}
