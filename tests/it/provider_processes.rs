//! A ChakraHQ in trouble and the program as operators run it: a key that is rotated in its file, and
//! every call hanging.

use crate::support::broker::Broker;
use crate::support::process::{
    AdminPage, Process, Program, TOKEN, faults, sandbox, wait_for_lines, write,
};
use crate::support::world::{NUMBER, job, text};
use chakra_sender::queue::rabbitmq::topology::Step;
use chakra_sender::sandbox::Sandbox;
use chakra_sender::wire::{NumberId, Priority};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the key is rotated to.
const NEW_TOKEN: &str = "another-very-secret-token";

fn jobs(count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("job-{n}"), "x")).collect()
}

/// A file with the key that is right until [`refused`].
fn token_file(dir: &tempfile::TempDir) -> PathBuf {
    write(dir, "token", &[TOKEN.to_owned()])
}

/// Makes calls one at a time, with the key out of this file.
fn by_file(program: Program, token: &Path) -> Program {
    program
        .set("chakra.token", "")
        .set("chakra.token_file", token.to_str().unwrap())
        .set("chakra.max_in_flight", "1")
}

/// Rotates the key after one job has met a refusal.
async fn rotate_once_refused(process: &mut Process, sandbox: &Sandbox, token: &Path) {
    process.err.line("the brake is on").await;
    std::fs::write(token, "no lawful token\n").unwrap();
    let told = process.err.line("the old token is kept").await;
    assert!(told.contains("chakra.token must be visible ASCII"), "{told}");
    // By the brake: nobody else has tried meanwhile.
    assert_eq!(sandbox.record().count_requests(), 1);
    std::fs::write(token, format!("{NEW_TOKEN}\n")).unwrap();
    process.err.line("took a new token").await;
    process.err.line("the brake is off").await;
}

fn assert_silent_about_tokens(said: &str) {
    assert!(!said.contains(TOKEN) && !said.contains(NEW_TOKEN) && !said.contains("no lawful"));
    assert_eq!(said.matches("the old token is kept").count(), 1, "{said}");
}

#[tokio::test]
async fn a_worker_whose_key_is_refused_waits_for_the_new_one_and_loses_nothing() {
    let (sandbox, broker, dir) =
        (sandbox(|_| {}).await, Broker::shared(), tempfile::tempdir().unwrap());
    let token = token_file(&dir);
    let mut worker = by_file(Program::worker(&sandbox, &broker), &token).start();
    let admin = worker.admin().await;
    admin.ready().await;
    sandbox.set_token(NEW_TOKEN);
    let file = write(&dir, "jobs.jsonl", &jobs(200)).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(&broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    rotate_once_refused(&mut worker, &sandbox, &token).await;
    // The one that met the refusal waits a minute, as the code table has it.
    admin.says("/metrics", 200, &accepted(199)).await;
    worker.signal("TERM");
    let ended = worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert_silent_about_tokens(&ended.said());
    assert_eq!(sandbox.record().count_requests(), 200);
    assert_eq!(waiting(&broker).await, 1);
}

fn accepted(count: usize) -> String {
    format!(r#"results_total{{class="none",number="{NUMBER}",status="accepted"}} {count}"#)
}

/// Jobs that wait outside the workers.
async fn waiting(broker: &Broker) -> u32 {
    let (client, names) = (broker.client().await, broker.names());
    let number = NumberId::parse(NUMBER).unwrap();
    let lanes = [Priority::Urgent, Priority::Normal].map(|urgency| names.lane(&number, urgency));
    let mut jobs = 0;
    for queue in Step::ALL.map(|step| names.wait(step)).into_iter().chain(lanes) {
        jobs += client.depth(&queue).await;
    }
    jobs
}

#[tokio::test]
async fn a_run_over_a_file_takes_a_rotated_key_as_well() {
    let (sandbox, dir) = (sandbox(|_| {}).await, tempfile::tempdir().unwrap());
    sandbox.set_token(NEW_TOKEN);
    let (token, file) = (token_file(&dir), write(&dir, "jobs.jsonl", &jobs(30)));
    let results = dir.path().join("results.jsonl");
    let arguments =
        ["send", "--jobs", file.to_str().unwrap(), "--results", results.to_str().unwrap()];
    let mut run = by_file(Program::new(&arguments).at(&sandbox), &token).start();
    rotate_once_refused(&mut run, &sandbox, &token).await;
    wait_for_lines(&results, 29).await;
    run.signal("TERM");
    let ended = run.end().await;
    assert_silent_about_tokens(&ended.said());
    assert!(ended.said().contains("29 accepted; 1 left for the next run"), "{}", ended.said());
}

/// Many lanes, and few calls at once.
const LANES: usize = 200;
const JOBS_A_LANE: usize = 3;
const IN_FLIGHT: u64 = 64;

#[tokio::test]
async fn when_every_call_hangs_all_lanes_together_stay_within_the_bounds() {
    let (broker, dir) = (Broker::shared(), tempfile::tempdir().unwrap());
    let sandbox = sandbox(|config| (config.any_number, config.any_number_rate) = (true, 0)).await;
    sandbox.set_faults(faults("[[faults]]\nhang = true")).unwrap();
    let mut worker = Program::worker(&sandbox, &broker)
        .set("numbers.accept", "any")
        .set("chakra.max_in_flight", &IN_FLIGHT.to_string())
        .set("chakra.timeout", "1s")
        .set("chakra.connect_timeout", "500ms")
        .start();
    let admin = worker.admin().await;
    admin.ready().await;
    let before = Usage::of(&admin).await;
    let file = write(&dir, "jobs.jsonl", &receipts()).display().to_string();
    let put = Program::new(&["enqueue", &file]).on(&broker).start();

    // All lanes stand, with all their jobs in hand, and a probe has failed.
    let mut most = before;
    let (mut told, goal) = (Usage::default(), (LANES * JOBS_A_LANE) as u64);
    let mut probed = None;
    let watch = async {
        while told.received < goal || probed.is_none_or(|hung| told.requests <= hung) {
            told = Usage::of(&admin).await;
            most = most.max(told);
            if told.brake == 1 && told.in_flight == 0 && probed.is_none() {
                probed = Some(told.requests);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let watched = tokio::time::timeout(Duration::from_secs(40), watch).await;
    assert!(watched.is_ok(), "{told:?}");
    assert_eq!(put.end().await.code, Some(0));
    assert!(most.in_flight <= IN_FLIGHT, "{most:?}");
    // A socket for each call, and some for whoever looks at the metrics.
    assert!(most.open_files <= before.open_files + IN_FLIGHT + 8, "{before:?} {most:?}");
    assert!(most.memory <= before.memory + (64 << 20), "{before:?} {most:?}");
    let hung = sandbox.record().count_hung();
    assert!(hung <= IN_FLIGHT + 10 + 8, "{hung} calls were made");

    sandbox.set_faults(Vec::new()).unwrap();
    let all = async {
        while Usage::of(&admin).await.accepted < goal {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(30), all).await;
    assert!(all.is_ok(), "{:?}", Usage::of(&admin).await);
    admin.says("/metrics", 200, "chakra_sender_held_jobs 0").await;
    worker.signal("TERM");
    let ended = worker.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
}

/// Jobs whose doubt does not matter.
fn receipts() -> Vec<String> {
    let read = r#"{"messaging_product":"whatsapp","status":"read","message_id":"wamid.1"}"#;
    let lane = |n: usize| {
        let number = format!("5550000{n:04}");
        (0..JOBS_A_LANE).map(move |m| job(&format!("{n}-{m}"), read, "").replace(NUMBER, &number))
    };
    (0..LANES).flat_map(lane).collect()
}

/// What `/metrics` says of a process.
#[derive(Debug, Default, Clone, Copy)]
struct Usage {
    received: u64,
    accepted: u64,
    requests: u64,
    in_flight: u64,
    brake: u64,
    open_files: u64,
    /// In bytes.
    memory: u64,
}

impl Usage {
    async fn of(admin: &AdminPage) -> Usage {
        let page = admin.says("/metrics", 200, "").await;
        let sum = |name: &str, part: &str| -> u64 {
            let own = page.lines().filter(|line| line.starts_with(name) && line.contains(part));
            own.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
        };
        Usage {
            received: sum("chakra_sender_jobs_received_total{", ""),
            accepted: sum("chakra_sender_results_total{", r#"status="accepted""#),
            requests: sum("chakra_sender_attempts_total{", ""),
            in_flight: sum("chakra_sender_in_flight ", ""),
            brake: sum("chakra_sender_brake ", ""),
            open_files: sum("process_open_fds ", ""),
            memory: sum("process_resident_memory_bytes ", ""),
        }
    }

    /// The greatest of what must stay bounded.
    fn max(self, other: Usage) -> Usage {
        Usage {
            in_flight: self.in_flight.max(other.in_flight),
            open_files: self.open_files.max(other.open_files),
            memory: self.memory.max(other.memory),
            ..other
        }
    }
}
