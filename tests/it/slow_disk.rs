//! What follows where the disk of the ledger stands still. Its one writing thread is stopped from outside; all
//! other threads of the worker go on.

use crate::support::broker::Broker;
use crate::support::process::{Program, sandbox};
use crate::support::story::{plain, until};
use crate::support::world::{NUMBER, text};
use chakra_sender::clock;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::time::Duration;

/// How long the job may be sent: a slow machine takes less to bring it to the disk.
const GOOD_FOR: Duration = Duration::from_secs(8);

/// A ledger that takes nothing in for as long as this lives. What stops the thread has to be who lets it go
/// on: a story of one thread.
struct StandsStill(Pid);

impl StandsStill {
    fn of(worker: u32) -> StandsStill {
        let threads = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
        let mut folders = threads.map(|thread| thread.unwrap().path());
        let is_ledger = |name: String| name.trim_end() == "ledger";
        let folder =
            folders.find(|folder| is_ledger(std::fs::read_to_string(folder.join("comm")).unwrap()));
        let thread =
            Pid::from_raw(folder.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap());
        ptrace::seize(thread, Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        StandsStill(thread)
    }
}

impl Drop for StandsStill {
    fn drop(&mut self) {
        // Gone with its process where the story failed.
        let _gone = ptrace::detach(self.0, None);
    }
}

#[tokio::test]
async fn a_job_that_expires_while_its_beginning_is_recorded_is_not_sent_and_was_not_begun() {
    let (sandbox, broker, dir) =
        (sandbox(|_| {}).await, Broker::shared(), tempfile::tempdir().unwrap());
    let ledger = dir.path().join("ledger").display().to_string();
    let mut worker = Program::worker(&sandbox, &broker).set("ledger.path", &ledger).start();
    let admin = worker.admin().await;
    admin.ready().await;
    let (client, names) = (broker.client().await, broker.names());
    let outcome = async || {
        let event = client.take(&names.results()).await;
        let event: serde_json::Value = serde_json::from_slice(&event.data).unwrap();
        [&event["id"], &event["status"]].map(|text| text.as_str().unwrap().to_owned())
    };

    let disk = StandsStill::of(worker.child.id());
    let end = clock::wall() + GOOD_FOR;
    let lasting = text("order-1", "x");
    let job = lasting.replacen('{', &format!(r#"{{"expires_at":"{end:.3}","#), 1);
    client.publish((&names.sends(), NUMBER), job.as_bytes(), plain()).await;
    admin.says("/metrics", 200, "chakra_sender_wait_seconds_count{gate=\"lane\"} 1").await;
    assert!(clock::wall() < end, "it had its turn too late for this story");
    until(|| clock::wall() > end).await;
    drop(disk);
    assert_eq!(outcome().await, ["order-1", "expired"]);
    assert_eq!(sandbox.record().count_requests(), 0);

    // Not begun: enqueued again it is in no doubt.
    client.publish((&names.sends(), NUMBER), lasting.as_bytes(), plain()).await;
    assert_eq!(outcome().await, ["order-1", "accepted"]);
    assert_eq!(sandbox.record().count_requests(), 1);
}
