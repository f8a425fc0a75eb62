//! What the ledger remembers of jobs, over deliveries and over the death of the process.

use crate::support::world::{NUMBER, OTHER, bounds, job, ledger, text_to};
use bytes::Bytes;
use chakra_sender::clock;
use chakra_sender::ledger::{Delivery, Ledger, LedgerBounds, MOST_STRIKES};
use chakra_sender::policy::{
    self, Answer, Failure, History, Outcome, Past, Reschedule, RetryPolicy, Settlement, Strength,
};
use chakra_sender::wire::{Class, ResultEvent, SendJob, Status};
use std::path::Path;
use std::time::Duration;

const TO: &str = "+919901258433";

fn parse(line: &str) -> SendJob {
    SendJob::parse(&Bytes::from(line.to_owned()), None).unwrap()
}

pub fn named(id: &str) -> SendJob {
    parse(&text_to(id, TO, "x"))
}

pub fn open(folder: &Path) -> Ledger {
    Ledger::open(folder, bounds(), clock::wall()).unwrap()
}

fn receive(ledger: &Ledger, job: &SendJob) -> Delivery {
    ledger.receive(job, None, clock::wall()).unwrap()
}

fn concluded(job: &SendJob, answer: Answer) -> Settlement {
    let retry = RetryPolicy {
        initial: Duration::from_secs(1),
        factor: 2.0,
        max_delay: Duration::from_secs(60),
        max_attempts: 5,
        max_age: Duration::from_secs(600),
    };
    let (now, history) = (clock::wall(), History::fresh(clock::wall()));
    policy::conclude(job, &history, answer, &retry, (now, now), 0.5)
}

fn accepted(job: &SendJob, whatsapp_message_id: &str) -> Outcome {
    let id = Some(whatsapp_message_id.to_owned());
    Outcome::of(&concluded(job, Answer::Accepted { whatsapp_message_id: id })).unwrap()
}

pub async fn finish(ledger: &Ledger, job: &SendJob, whatsapp_message_id: &str) {
    let delivery = receive(ledger, job);
    delivery.begin(1, clock::wall()).await.unwrap();
    delivery.finish(&accepted(job, whatsapp_message_id), clock::wall()).await.unwrap();
}

fn event(past: Past) -> ResultEvent {
    match past {
        Past::Finished(outcome) => outcome.event,
        other => panic!("not finished: {other:?}"),
    }
}

#[tokio::test]
async fn a_job_is_known_by_its_stages_over_deliveries_and_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    for over_a_restart in [false, true] {
        let id = format!("order-{over_a_restart}");
        let job = named(&id);
        let mut ledger = if over_a_restart { open(folder.path()) } else { ledger() };
        let again = |ledger: Ledger| {
            drop(ledger);
            open(folder.path())
        };
        let delivery = receive(&ledger, &job);
        assert!(matches!(delivery.past(), Past::Unseen { deliveries: 0 }));
        let at = clock::wall();
        delivery.begin(1, at).await.unwrap();
        drop(delivery);
        if over_a_restart {
            ledger = again(ledger);
            assert_eq!(ledger.doubts(), 1, "what was left begun is in doubt");
        }

        let delivery = receive(&ledger, &job);
        let Past::Begun { attempt: 1, at: began } = delivery.past() else { panic!("not begun") };
        assert_eq!(began, at);
        let busy = Answer::Failed(Failure::new(Class::Unavailable, "503"));
        let Settlement::Reschedule(Reschedule { history, .. }) = concluded(&job, busy) else {
            panic!("not to be tried again")
        };
        delivery.answered(&history, clock::wall()).await.unwrap();
        drop(delivery);
        if over_a_restart {
            ledger = again(ledger);
            assert_eq!(ledger.doubts(), 0);
        }

        let delivery = receive(&ledger, &job);
        let Past::Answered { history: remembered, .. } = delivery.past() else {
            panic!("not answered")
        };
        assert_eq!((remembered.attempts, remembered.due), (1, history.due));
        delivery.begin(2, clock::wall()).await.unwrap();
        let outcome = accepted(&job, "wamid.1");
        delivery.finish(&outcome, clock::wall()).await.unwrap();
        drop(delivery);
        if over_a_restart {
            ledger = again(ledger);
        }

        let again = event(receive(&ledger, &job).past());
        let said = |event: &ResultEvent| serde_json::to_string(event).unwrap();
        assert_eq!(said(&again), said(&outcome.event));
    }
}

#[tokio::test]
async fn an_id_belongs_to_the_message_that_came_with_it_first() {
    let folder = tempfile::tempdir().unwrap();
    for ledger in [ledger(), open(folder.path())] {
        let other = parse(&text_to("same", TO, "another"));
        let number = parse(&text_to("same", TO, "x").replace(NUMBER, OTHER));
        let first = receive(&ledger, &named("same"));
        assert!(matches!(receive(&ledger, &other).past(), Past::Another), "while it is in hand");
        drop(first);
        finish(&ledger, &named("same"), "wamid.1").await;
        for other in [&other, &number] {
            let delivery = receive(&ledger, other);
            assert!(matches!(delivery.past(), Past::Another));
            delivery.begin(1, clock::wall()).await.unwrap();
            delivery.forget();
        }
        assert_eq!(event(receive(&ledger, &named("same")).past()).status, Status::Accepted);
    }
}

#[tokio::test]
async fn a_replay_is_a_job_of_its_own() {
    let ledger = ledger();
    finish(&ledger, &named("order"), "wamid.1").await;
    let replay = ledger.receive(&named("order"), Some(1), clock::wall()).unwrap();
    assert!(matches!(replay.past(), Past::Unseen { deliveries: 0 }));
}

#[tokio::test]
async fn deliveries_that_began_nothing_are_counted_until_the_message_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let job = named("waiting");
    let ledger = open(folder.path());
    for before in 0..3 {
        let delivery = receive(&ledger, &job);
        assert!(matches!(delivery.past(), Past::Unseen { deliveries } if deliveries == before));
    }
    drop(ledger);
    let ledger = open(folder.path());
    let delivery = receive(&ledger, &job);
    assert!(matches!(delivery.past(), Past::Unseen { deliveries: 3 }));
    delivery.put_off();
    drop(delivery);
    assert!(matches!(receive(&ledger, &job).past(), Past::Unseen { deliveries: 0 }));
}

#[tokio::test]
async fn an_attempt_that_surely_was_not_made_leaves_no_trace() {
    let ledger = ledger();
    let delivery = receive(&ledger, &named("void"));
    delivery.begin(1, clock::wall()).await.unwrap();
    delivery.retract(&History::fresh(clock::wall()), clock::wall()).await.unwrap();
    assert!(matches!(delivery.past(), Past::Unseen { .. }));
}

#[tokio::test]
async fn a_message_of_metas_belongs_to_one_job() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    finish(&ledger, &named("one"), "wamid.1").await;
    drop(ledger);
    for ledger in [open(folder.path()), {
        let ledger = ledger_in_memory(100_000);
        finish(&ledger, &named("one"), "wamid.1").await;
        ledger
    }] {
        assert!(receive(&ledger, &named("two")).is_claimed("wamid.1"));
        assert!(!receive(&ledger, &named("two")).is_claimed("wamid.2"));
        assert!(!receive(&ledger, &named("one")).is_claimed("wamid.1"), "by itself");
    }
}

#[tokio::test]
async fn a_message_of_metas_tells_its_job_for_as_long_as_the_outcome_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let on_disk = open(folder.path());
    finish(&on_disk, &named("one"), "wamid.1").await;
    drop(on_disk);
    let in_memory = ledger_in_memory(10);
    finish(&in_memory, &named("one"), "wamid.1").await;
    for ledger in [&open(folder.path()), &in_memory] {
        let (job, accepted) = ledger.owner_of("wamid.1").unwrap();
        assert_eq!(job, named("one").id);
        assert!(clock::wall().duration_since(accepted).as_secs() < 60);
        assert_eq!(ledger.owner_of("wamid.2"), None);
    }
    for n in 0..20 {
        finish(&in_memory, &named(&format!("job-{n}")), &format!("other.{n}")).await;
    }
    assert_eq!(in_memory.owner_of("wamid.1"), None);
}

#[tokio::test]
async fn identical_content_waits_while_its_twin_is_in_doubt() {
    let folder = tempfile::tempdir().unwrap();
    let doubtful = named("doubtful");
    let spaced = parse(&job(
        "spaced",
        r#"{"messaging_product":"whatsapp","to":"+91 99012-58433","text":{ "body" : "x" },"type":"text"}"#,
        "",
    ));
    let ledger = open(folder.path());
    let delivery = receive(&ledger, &doubtful);
    delivery.begin(1, clock::wall()).await.unwrap();
    delivery.doubt(&doubtful, Strength::Strong).await.unwrap();
    drop((delivery, ledger));

    let ledger = open(folder.path());
    for (other, waits) in [
        (named("other"), true),
        (spaced, true),
        (parse(&text_to("other-text", TO, "y")), false),
        (parse(&text_to("other-person", "+919901258434", "x")), false),
        (doubtful.clone(), false),
    ] {
        assert_eq!(receive(&ledger, &other).identical_in_doubt(&other) > 0, waits, "{}", other.id);
    }
    let delivery = receive(&ledger, &doubtful);
    delivery.finish(&accepted(&doubtful, "wamid.1"), clock::wall()).await.unwrap();
    assert_eq!(receive(&ledger, &named("other")).identical_in_doubt(&named("other")), 0);
}

fn ledger_in_memory(max_entries: u64) -> Ledger {
    Ledger::in_memory(LedgerBounds { max_entries: Some(max_entries), ..bounds() })
}

#[tokio::test]
async fn memory_forgets_the_longest_finished_first_and_never_what_was_begun() {
    let ledger = ledger_in_memory(10);
    let begun = receive(&ledger, &named("begun"));
    begun.begin(1, clock::wall()).await.unwrap();
    drop(begun);
    for n in 0..20 {
        finish(&ledger, &named(&format!("job-{n}")), &format!("wamid.{n}")).await;
    }
    assert!(matches!(receive(&ledger, &named("begun")).past(), Past::Begun { .. }));
    assert!(matches!(receive(&ledger, &named("job-0")).past(), Past::Unseen { .. }));
    assert!(matches!(receive(&ledger, &named("job-19")).past(), Past::Finished(_)));
    assert!(!receive(&ledger, &named("other")).is_claimed("wamid.0"), "its claim went with it");
    assert!(receive(&ledger, &named("other")).is_claimed("wamid.19"));
}

#[tokio::test]
async fn memory_that_is_full_of_doubts_begins_nothing_new() {
    let ledger = ledger_in_memory(10);
    let mut refused = 0;
    for n in 0..12 {
        let delivery = receive(&ledger, &named(&format!("job-{n}")));
        refused += u32::from(delivery.begin(1, clock::wall()).await.is_err());
    }
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn what_is_finished_is_forgotten_after_its_time() {
    let kept = LedgerBounds { keep: Duration::from_secs(60), ..bounds() };
    let ledger = Ledger::in_memory(kept);
    finish(&ledger, &named("old"), "wamid.1").await;
    let later = clock::wall() + Duration::from_secs(61);
    // The next job makes room.
    ledger.receive(&named("new"), None, later).unwrap();
    assert!(matches!(receive(&ledger, &named("old")).past(), Past::Unseen { .. }));
}

#[tokio::test]
async fn what_ends_the_worker_each_time_is_touched_no_more() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..MOST_STRIKES {
        let ledger = open(folder.path());
        let mark = ledger.touch("read", b"poison", None).await.unwrap();
        // The process dies: nobody takes the mark back.
        std::mem::forget(mark.expect("not yet"));
        ledger.close();
    }
    let ledger = open(folder.path());
    assert!(ledger.touch("read", b"poison", None).await.unwrap().is_none());
    assert!(ledger.touch("read", b"poison", Some(1)).await.unwrap().is_some(), "a replay may try");
    assert!(ledger.touch("send", b"poison", None).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_touched_without_harm_is_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..=MOST_STRIKES {
        let ledger = open(folder.path());
        drop(ledger.touch("read", b"harmless", None).await.unwrap().expect("no poison"));
        ledger.close();
    }
}

#[tokio::test]
async fn a_disk_with_too_little_room_lets_nothing_begin() {
    let folder = tempfile::tempdir().unwrap();
    let bounds = LedgerBounds { min_free: u64::MAX, ..bounds() };
    let ledger = Ledger::open(folder.path(), bounds, clock::wall()).unwrap();
    let trouble = ledger.trouble().borrow().clone().expect("no trouble");
    assert!(trouble.contains("ledger.min_free"), "{trouble}");
}

#[tokio::test]
async fn a_job_is_received_and_begun_in_one_commit_and_commits_keep_their_distance() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let (jobs, since) = (50, clock::monotonic());
    for nth in 0..jobs {
        let delivery = receive(&ledger, &named(&format!("order-{nth}")));
        delivery.begin(1, clock::wall()).await.unwrap();
    }
    let took = since.elapsed();
    let commits = std::fs::read(folder.path().join("commits")).unwrap();
    let commits = u64::from_be_bytes(commits[..8].try_into().unwrap());
    assert!(commits < jobs * 3 / 2, "{commits} commits of {jobs} jobs");
    assert!(took >= Duration::from_millis(2 * (jobs - 1)), "{commits} commits in {took:?}");
}
