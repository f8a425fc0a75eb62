//! Settings that change while a worker runs, as its operator changes them: the file, then SIGHUP.

use crate::support::broker::Broker;
use crate::support::process::{
    AdminPage, IN_TIME, Process, Program, TOKEN, faults, sandbox, write,
};
use crate::support::world::{NUMBER, text};
use chakra_sender::sandbox::{Record, Sandbox};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// A worker by a file that can be rewritten.
struct Story {
    sandbox: Sandbox,
    broker: Broker,
    dir: tempfile::TempDir,
    worker: Process,
    admin: AdminPage,
}

impl Story {
    async fn begin(settings: &str) -> Story {
        let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "settings.toml", &[settings.to_owned()]);
        let mut worker = Program::new(&["worker", "--config", file.to_str().unwrap()])
            .at(&sandbox)
            .on(&broker)
            .set("admin.listen", "127.0.0.1:0")
            .start();
        let admin = worker.admin().await;
        Story { sandbox, broker, dir, worker, admin }
    }

    /// Puts a new text into the file and tells the worker; waits until it has said this.
    async fn reload(&mut self, settings: &str, says: &str) -> String {
        write(&self.dir, "settings.toml", &[settings.to_owned()]);
        self.worker.signal("HUP");
        self.worker.err.line(says).await
    }

    /// Puts a new text into the file and asks over HTTP, with this token; the status and what is said.
    async fn post(&self, settings: &str, token: Option<&str>) -> (u16, String) {
        write(&self.dir, "settings.toml", &[settings.to_owned()]);
        let header = token.map(|token| format!("authorization: Bearer {token}\r\n"));
        let request = format!("POST /reload HTTP/1.0\r\n{}", header.unwrap_or_default());
        self.admin.ask(&request).await.unwrap()
    }

    async fn enqueue(&self, jobs: &[String]) {
        let file: PathBuf = write(&self.dir, "jobs.jsonl", jobs);
        let put = Program::new(&["enqueue", file.to_str().unwrap()]).on(&self.broker).run().await;
        assert_eq!(put.code, Some(0), "{}", put.said());
    }

    fn record(&self) -> Arc<Record> {
        self.sandbox.record()
    }

    async fn requests(&self, count: usize) {
        let record = self.record();
        let come = record.wait_for(|record| record.count_requests() >= count as u64);
        let come = tokio::time::timeout(IN_TIME, come);
        assert!(come.await.is_ok(), "{} of {count} requests", record.count_requests());
    }

    /// When each request came.
    fn moments(&self) -> Vec<Instant> {
        self.record().requests().iter().map(|request| request.at).collect()
    }

    async fn counts(&self, part: &str) {
        self.admin.says("/metrics", 200, part).await;
    }

    /// Stops it; a signal to read the settings again meanwhile does no harm.
    async fn end(self) -> String {
        self.worker.signal("TERM");
        self.worker.signal("HUP");
        let ended = self.worker.end().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
        let said = ended.said();
        assert!(!said.contains(TOKEN));
        said
    }
}

fn jobs(count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("job-{n}"), "x")).collect()
}

fn pace(rate: u32) -> String {
    format!("[limits.number]\nrate = {rate}\nburst = 2\n")
}

/// The most of these moments in a sliding second.
fn busiest(moments: &[Instant]) -> usize {
    let ends = moments.iter().enumerate().map(|(first, start)| {
        moments[first..].iter().take_while(|moment| **moment - *start < SECOND).count()
    });
    ends.max().unwrap_or(0)
}

#[tokio::test]
async fn a_new_pace_holds_at_once_and_gives_no_burst() {
    let mut story = Story::begin(&pace(5)).await;
    // Before the worker is ready: harmless.
    story.reload(&pace(5), r#""changed":0"#).await;
    story.admin.ready().await;
    story.enqueue(&jobs(200)).await;
    story.requests(6).await;
    assert!(busiest(&story.moments()) <= 5 + 2);
    let faster = story.reload(&pace(50), "limits.number.rate").await;
    assert!(faster.contains("limits.number.rate: 5 -> 50"), "{faster}");
    story.counts(&format!(r#"rate_limit{{number="{NUMBER}",source="configured"}} 50"#)).await;
    let changed = story.moments().len();
    story.requests(changed + 100).await;
    story.reload(&pace(5), "limits.number.rate: 50 -> 5").await;
    let slower = story.moments().len();
    story.requests(slower + 12).await;

    let moments = story.moments();
    assert!(busiest(&moments) <= 50 + 2, "{} in a second", busiest(&moments));
    // At the old pace a hundred jobs take 20 s.
    let fast = moments[changed + 99] - moments[changed];
    assert!(fast < 6 * SECOND, "{fast:?}");
    // Some may have been on their way when the log told of the change.
    let slow = &moments[slower + 3..];
    assert!(busiest(slow) <= 5 + 2, "{} in a second", busiest(slow));
    story.end().await;
}

#[tokio::test]
async fn a_file_with_mistakes_changes_nothing_and_all_of_them_are_told() {
    let mut story = Story::begin(&pace(200)).await;
    story.admin.ready().await;
    let wrong = "[limits.number]\nrate = 0\n[retry]\nmax_attempts = 3\nfactor = 0.5\n[chakra]\ntokn = 'x'\n";
    let told = story.reload(wrong, "chakra.tokn").await;
    assert!(told.contains("the new settings are refused, nothing changes"), "{told}");
    story.counts(r#"reloads_total{outcome="refused"} 1"#).await;
    story.enqueue(&jobs(50)).await;
    story.requests(50).await;
    story.counts(&format!(r#"rate_limit{{number="{NUMBER}",source="configured"}} 200"#)).await;
    story.reload(&pace(300), "limits.number.rate: 200 -> 300").await;
    story.counts(r#"reloads_total{outcome="applied"} 1"#).await;
    let said = story.end().await;
    for reason in [
        "limits.number.rate = 0: must be a number from 0.1 to 1000000",
        "retry.factor = 0.5: must be a number from 1 to 100",
        "chakra.tokn: unknown key; the nearest known one is chakra.token",
    ] {
        assert!(said.contains(reason), "{reason:?} is not told:\n{said}");
    }
}

#[tokio::test]
async fn what_needs_a_restart_is_named_each_time_and_the_rest_is_taken() {
    let mut story = Story::begin("").await;
    let new = "[chakra]\ntimeout = '20s'\n[log]\nlevel = 'debug'\n";
    story.reload(new, r#"log.level: \"info\" -> \"debug\""#).await;
    let told = story.worker.err.line("takes effect at the next start").await;
    assert!(told.contains(r#"chakra.timeout: \"30s\" -> \"20s\""#), "{told}");
    story.reload(new, r#""changed":0"#).await;
    let said = story.end().await;
    assert!(said.matches("takes effect at the next start").count() >= 2, "{said}");
}

#[tokio::test]
async fn a_row_of_the_code_table_that_is_overridden_holds_for_the_next_answer() {
    let mut story = Story::begin(&pace(200)).await;
    story.admin.ready().await;
    let refused = "[[faults]]\nfirst = 1\nanswer = { status = 400, code = 131026 }";
    story.sandbox.set_faults(faults(refused)).unwrap();
    story.enqueue(&[text("before", "x")]).await;
    story.counts(&format!(r#"class="refused",number="{NUMBER}",status="failed"}} 1"#)).await;

    let row = "[[chakra.code]]\ncode = 131026\nclass = 'blocked'\nscope = 'number'\nwait = '1s'\n";
    story.reload(&(pace(200) + row), r#""changed":4"#).await;
    story.sandbox.set_faults(faults(refused)).unwrap();
    story.enqueue(&[text("after", "x")]).await;
    story.counts(&format!(r#"class="none",number="{NUMBER}",status="accepted"}} 1"#)).await;
    assert_eq!(story.record().accepted_by_opaque("after"), 1);
    assert_eq!(story.record().refused_by_code().get(&131_026), Some(&2));
    story.end().await;
}

#[tokio::test]
async fn jobs_that_wait_for_their_next_attempt_obey_the_new_bound() {
    let retry =
        |most: u32| format!("[retry]\ninitial = '3s'\nfactor = 1.0\nmax_attempts = {most}\n");
    let mut story = Story::begin(&retry(12)).await;
    story.admin.ready().await;
    let down = "[[faults]]\nanswer = { status = 503, code = 131016 }";
    story.sandbox.set_faults(faults(down)).unwrap();
    story.enqueue(&[text("waits", "x")]).await;
    story.requests(1).await;
    story.reload(&retry(2), "retry.max_attempts: 12 -> 2").await;
    story.counts(&format!(r#"class="unavailable",number="{NUMBER}",status="failed"}} 1"#)).await;
    assert_eq!(story.record().count_requests(), 2);
    story.end().await;
}

#[tokio::test]
async fn who_has_the_token_changes_the_settings_over_http() {
    let by = |rate| pace(rate) + "[admin]\ntoken = 'open-sesame-1234'\n";
    let token = Some("open-sesame-1234");
    let story = Story::begin(&by(1)).await;
    story.admin.ready().await;
    story.enqueue(&jobs(100)).await;
    story.requests(3).await;
    for wrong in [None, Some("open-sesame-1235")] {
        assert_eq!(story.post(&by(200), wrong).await.0, 401);
    }
    let mistaken = format!("chakra.tokn = '{TOKEN}'\n{}", by(0));
    let (status, told) = story.post(&mistaken, token).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let problems = told["problems"].as_array().unwrap().iter().map(|problem| problem.to_string());
    let problems: Vec<String> = problems.collect();
    assert_eq!((status, problems.len()), (422, 2), "{problems:?}");
    assert!(problems[0].contains("settings.toml: limits.number.rate = 0: must be"), "{problems:?}");
    assert!(problems[1].contains("chakra.tokn: unknown key"), "{problems:?}");
    assert!(!problems.concat().contains(TOKEN), "{problems:?}");
    story.counts(&format!(r#"rate_limit{{number="{NUMBER}",source="configured"}} 1"#)).await;

    let (status, told) = story.post(&(by(200) + "[chakra]\ntimeout = '20s'\n"), token).await;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((status, &told["changed"][0]), (200, &"limits.number.rate: 1 -> 200".into()));
    assert_eq!(told["at_restart"], serde_json::json!([r#"chakra.timeout: "30s" -> "20s""#]));
    // At the old pace they take 100 s.
    story.requests(100).await;
    story.counts(r#"reloads_total{outcome="applied"} 1"#).await;
    story.counts(r#"reloads_total{outcome="refused"} 1"#).await;
    let said = story.end().await;
    assert!(!said.contains("sesame"), "{said}");
}

#[tokio::test]
async fn without_a_token_nothing_is_changed_over_http() {
    let story = Story::begin(&pace(5)).await;
    story.admin.ready().await;
    assert_eq!(story.post(&pace(6), Some("")).await, (403, "set admin.token\n".to_owned()));
    story.counts(r#"reloads_total{outcome="applied"} 0"#).await;
    story.end().await;
}

#[tokio::test]
async fn a_file_that_cannot_be_read_to_its_end_holds_nothing_up() {
    let story = Story::begin("").await;
    let file = story.dir.path().join("settings.toml");
    std::fs::remove_file(&file).unwrap();
    // As a disk of the network that does not answer: whoever opens it waits.
    let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
    assert!(made.success());
    story.worker.signal("HUP");
    story.enqueue(&[text("after", "x")]).await;
    story.requests(1).await;
    story.admin.says("/livez", 200, "").await;
    story.worker.signal("TERM");
    let ended = story.worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
}
