//! A lane that goes elsewhere: to another worker, or back to the broker while its number is left alone.

use crate::support::broker::SOON;
use crate::support::story::{NUMBER, Story, accepted, id, job, number, plain, until};
use chakra_sender::clock;
use chakra_sender::policy;
use chakra_sender::queue::rabbitmq::RabbitReceipt;
use chakra_sender::queue::{Incoming, Receipt};
use chakra_sender::wire::Priority;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

/// Waits until the lane's normal queue holds so many jobs and has so many consumers that are served.
async fn lane_has(story: &Story, jobs: u32, consumers: u32) {
    let lane = story.broker.names().lane(&number(NUMBER), Priority::Normal);
    let waiting = async {
        loop {
            let declared = story.client.ask(&lane).await.unwrap();
            if (declared.message_count(), declared.consumer_count()) == (jobs, consumers) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(SOON, waiting).await;
    reached.unwrap_or_else(|_| panic!("never {jobs} jobs and {consumers} consumers"));
}

/// Waits until the lane by which a job came has gone elsewhere.
async fn lane_goes(job: &Incoming<RabbitReceipt>) {
    let gone = job.tenure.unless_over(tokio::time::sleep(SOON)).await;
    assert!(gone.is_none(), "the lane stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_is_held_for_long_waits_in_the_broker_and_comes_when_it_is_released() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("held"), plain()).await;
    let held = story.next().await;
    let holds = story.queue.notices().holds;
    holds.hold(&number(NUMBER), clock::monotonic() + LONG);
    lane_goes(&held).await;
    let back = policy::given_back(&held.history);
    held.receipt.settle(&back, ()).await.unwrap();
    story.publish(NUMBER, &job("later"), plain()).await;
    // The one that was held is back after its second in the wait queue.
    lane_has(&story, 2, 0).await;

    holds.release(&number(NUMBER));
    let again = [story.next().await, story.next().await];
    assert_eq!(again.each_ref().map(id), ["later", "held"]);
    assert!(again.iter().all(|job| job.earlier == 0), "neither was given back by the broker");
    assert!(again.iter().all(|job| job.tenure.serial() > held.tenure.serial()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_hold_is_sat_out() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("one"), plain()).await;
    let one = story.next().await;
    story.queue.notices().holds.hold(&number(NUMBER), clock::monotonic() + Duration::from_secs(4));
    story.publish(NUMBER, &job("two"), plain()).await;
    let two = story.next().await;
    assert_eq!(one.tenure.serial(), two.tenure.serial());
    lane_has(&story, 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_when_a_lane_goes_is_settled_and_does_not_come_again() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("under-way"), plain()).await;
    let under_way = story.next().await;
    let holds = story.queue.notices().holds;
    holds.hold(&number(NUMBER), clock::monotonic() + LONG);
    lane_goes(&under_way).await;
    assert!(under_way.receipt.is_ours());
    // The lane is consumed anew before the call has ended.
    holds.release(&number(NUMBER));
    let settlement = accepted(&under_way);
    under_way.receipt.settle(&settlement, ()).await.unwrap();
    assert_eq!(story.result().await.0["id"], "under-way");
    story.publish(NUMBER, &job("next"), plain()).await;
    assert_eq!(id(&story.next().await), "next");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_dropped_while_its_lane_goes_comes_again() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("dropped"), plain()).await;
    let dropped = story.next().await;
    let holds = story.queue.notices().holds;
    holds.hold(&number(NUMBER), clock::monotonic() + LONG);
    lane_goes(&dropped).await;
    drop(dropped);
    holds.release(&number(NUMBER));
    let again = story.next().await;
    assert_eq!((id(&again), again.earlier), ("dropped", 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_alone_is_settled_after_two_seconds_and_then_at_once() {
    let mut story = Story::with_lane().await;
    story.publish(NUMBER, &job("first"), plain()).await;
    let first = story.next().await;
    let settled = tokio::time::timeout(SOON, first.tenure.settled()).await;
    settled.expect("nobody else is here");
    let holds = story.queue.notices().holds;
    holds.hold(&number(NUMBER), clock::monotonic() + LONG);
    lane_goes(&first).await;
    holds.release(&number(NUMBER));
    story.publish(NUMBER, &job("second"), plain()).await;
    let second = story.next().await;
    assert!(second.tenure.is_settled(), "nothing but our own hold happened");
    until(|| second.receipt.is_ours()).await;
}
