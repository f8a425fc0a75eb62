//! The other commands as their users run them: real processes, files, pipes and exit codes.

use crate::support::broker::Broker;
use crate::support::process::{
    Ended, Program, TOKEN, faults, lines, sandbox, use_both_lanes, wait_for_lines, write,
};
use crate::support::world::{NUMBER, OTHER, job, text, text_to};
use chakra_sender::clock;
use chakra_sender::sandbox::{Latency, Sandbox, SandboxConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use tempfile::tempdir;

fn jobs(count: usize) -> Vec<String> {
    (0..count).map(|n| text(&format!("job-{n}"), "x")).collect()
}

/// The ids of these results by their status. No id may stand there twice.
fn by_status(results: &[String]) -> BTreeMap<String, BTreeSet<String>> {
    let (mut all, mut of) = (BTreeSet::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for line in results {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let [id, status] = ["id", "status"].map(|key| event[key].as_str().unwrap().to_owned());
        assert!(all.insert(id.clone()), "{id} has two results");
        of.entry(status).or_default().insert(id);
    }
    of
}

fn send(sandbox: &Sandbox, jobs: &Path, results: &Path, more: &[&str]) -> Program {
    let [jobs, results] = [jobs, results].map(|path| path.to_str().unwrap());
    let arguments = [&["send", "--jobs", jobs, "--results", results], more].concat();
    Program::new(&arguments).at(sandbox).set("limits.number.rate", "300")
}

#[tokio::test]
async fn a_run_over_a_file_that_is_killed_again_and_again_answers_each_job_once() {
    let (sandbox, dir) = (sandbox(|_| {}).await, tempdir().unwrap());
    sandbox.set_latency(Latency::fixed(Duration::from_millis(50))).unwrap();
    let (file, results) = (write(&dir, "jobs", &jobs(600)), dir.path().join("results.jsonl"));
    for more in [1, 40, 90, 150] {
        let had = lines(&results).len();
        let run = send(&sandbox, &file, &results, &[]).start();
        wait_for_lines(&results, had + more).await;
        assert_eq!(run.kill().await.signal, Some(9));
    }
    let last = send(&sandbox, &file, &results, &[]).run().await;
    assert_eq!(last.code, Some(0), "{}", last.said());

    let of = by_status(&lines(&results));
    assert_eq!(of.values().map(BTreeSet::len).sum::<usize>(), 600);
    let none = BTreeSet::new();
    for (status, count) in [("accepted", 1), ("unknown", 0)] {
        for id in of.get(status).unwrap_or(&none) {
            assert_eq!(sandbox.record().accepted_by_opaque(id), count, "{id} is {status}");
        }
    }

    let again = send(&sandbox, &file, &results, &[]).run().await;
    assert_eq!(again.code, Some(0));
    let closing = again.err.last().unwrap();
    assert_eq!(closing, "600 lines: no new results; 600 had their result already");
}

#[tokio::test]
async fn a_run_that_is_told_to_stop_ends_soon_and_the_next_one_does_the_rest() {
    let (sandbox, dir) = (sandbox(|_| {}).await, tempdir().unwrap());
    sandbox.set_latency(Latency::fixed(Duration::from_millis(50))).unwrap();
    let (file, results) = (write(&dir, "jobs", &jobs(600)), dir.path().join("results.jsonl"));
    let run = send(&sandbox, &file, &results, &[]).start();
    wait_for_lines(&results, 30).await;
    let asked = clock::monotonic();
    run.signal("TERM");
    let ended = run.end().await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_eq!(ended.code, Some(1), "not every job has its outcome: {}", ended.said());
    assert!(ended.err.last().unwrap().contains(" left for the next run"), "{}", ended.said());
    let rest = send(&sandbox, &file, &results, &["--fail-on", "unknown"]).run().await;
    assert_eq!(rest.code, Some(0), "{}", rest.said());
    assert_eq!(by_status(&lines(&results))["accepted"].len(), 600);
    assert_eq!(sandbox.record().count_requests(), 600);
}

#[tokio::test]
async fn jobs_from_a_pipe_become_results_on_a_pipe() {
    let sandbox = sandbox(|_| {}).await;
    let mut run = send(&sandbox, Path::new("-"), Path::new("-"), &[]).start();
    run.write(&(jobs(5).join("\n") + "\n"));
    run.close_stdin();
    let ended = run.end().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert_eq!(by_status(&ended.out)["accepted"].len(), 5);
    assert_eq!(ended.err.last().unwrap(), "5 lines: 5 accepted");
}

#[tokio::test]
async fn a_silent_pipe_does_not_keep_a_run_from_stopping() {
    let sandbox = sandbox(|_| {}).await;
    let mut run = send(&sandbox, Path::new("-"), Path::new("-"), &[]).start();
    run.write(&(jobs(2).join("\n") + "\n"));
    run.out.count(2).await;
    run.signal("TERM");
    let ended = run.end().await;
    assert_eq!(ended.signal, None, "{}", ended.said());
    assert!(ended.err.last().unwrap().starts_with("2 lines: 2 accepted"), "{}", ended.said());
}

#[tokio::test]
async fn a_status_to_fail_on_is_told_by_the_exit_code() {
    let (sandbox, dir) = (sandbox(|_| {}).await, tempdir().unwrap());
    sandbox.set_faults(faults("[[faults]]\nanswer = { code = 131026 }")).unwrap();
    let file = write(&dir, "jobs", &jobs(1));
    for (name, fail_on, code) in
        [("a", vec![], 0), ("b", vec!["unknown"], 0), ("c", vec!["unknown,failed"], 1)]
    {
        let more: Vec<&str> = fail_on.iter().flat_map(|on| ["--fail-on", on]).collect();
        let ended = send(&sandbox, &file, &dir.path().join(name), &more).run().await;
        assert_eq!(ended.code, Some(code), "{fail_on:?}: {}", ended.said());
    }
}

#[tokio::test]
async fn files_named_by_mistake_are_refused_and_stay_as_they_are() {
    let (sandbox, dir) = (sandbox(|_| {}).await, tempdir().unwrap());
    let (one, other) = (write(&dir, "one", &jobs(1)), dir.path().join("other"));
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let (dead_letters, results) = (dir.path().join("r.dead-letters"), dir.path().join("r"));
    for copy in [&other, &dead_letters] {
        std::fs::copy(&one, copy).unwrap();
    }
    let folder = dir.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    let before = std::fs::read(&one).unwrap();
    let is_jobs = " is the file of the jobs: it would be read and written at once";
    for (jobs, results, code, part) in [
        (&one, &one, 2, is_jobs),
        (&one, &link, 2, is_jobs),
        (&dead_letters, &results, 2, is_jobs),
        (&one, &other, 1, "other: line 1 is not what this program writes (it does not begin with"),
        (&one, &folder, 1, "folder: it is no regular file"),
        (&folder, &results, 1, "folder is a directory: name a file of jobs"),
    ] {
        let ended = send(&sandbox, jobs, results, &[]).run().await;
        assert_eq!(ended.code, Some(code), "{}", ended.said());
        let [said] = &ended.err[..] else { panic!("{}", ended.said()) };
        assert_eq!(said.matches(part).count(), 1, "{part}\n{said}");
    }
    assert!(
        [&one, &other, &dead_letters].iter().all(|file| std::fs::read(file).unwrap() == before)
    );
    let mut names: Vec<_> =
        dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["folder", "link", "one", "other", "r.dead-letters"], "leftovers");
    assert_eq!(sandbox.record().count_requests(), 0);
}

#[tokio::test]
async fn every_problem_of_the_configuration_is_told_at_once_and_no_secret() {
    let dir = tempdir().unwrap();
    let file = write(
        &dir,
        "settings.toml",
        &[
            "[chakra]\ntoken = \"secret\\u0007of-the-file\"\ntimout = \"5s\"".to_owned(),
            "[limits.number]\nrate = 0\n[log]\nformat = \"xml\"".to_owned(),
        ],
    );
    let ended = Program::new(&["worker", "--config", file.to_str().unwrap()])
        .set("chakra.timeout", "banana")
        .set("rabbitmq.uri", "http://user:secret-of-the-uri@host")
        .set("rabbitmq.password", "secret-of-the-environment")
        .run()
        .await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert!(ended.out.is_empty());
    let file = file.display();
    for start in [
        format!("  {file}: chakra.timout: "),
        "  CHAKRA_SENDER__CHAKRA__TIMEOUT: chakra.timeout = \"banana\": ".into(),
        format!("  {file}: limits.number.rate = 0: "),
        format!("  {file}: log.format = \"xml\": "),
        "  CHAKRA_SENDER__RABBITMQ__URI: rabbitmq.uri = (hidden): ".into(),
        format!("  {file}: chakra.token = (hidden): "),
    ] {
        let told = ended.err.iter().filter(|line| line.starts_with(&start)).count();
        assert_eq!(told, 1, "{start:?} in:\n{}", ended.said());
    }
    assert_eq!(ended.err[0], "chakra-sender: the configuration has 6 problems:");
    assert_eq!(ended.err.len(), 7, "{}", ended.said());
    assert!(!ended.said().contains("secret"), "{}", ended.said());
}

#[tokio::test]
async fn without_an_account_a_worker_says_what_it_needs() {
    let ended = Program::new(&["worker"]).run().await;
    assert_eq!(ended.code, Some(2));
    for key in ["chakra.token: is needed", "chakra.plugin_id: is needed"] {
        assert!(ended.said().contains(key), "{}", ended.said());
    }
}

#[tokio::test]
async fn a_wrong_command_line_is_told_by_exit_code_2() {
    for arguments in [
        vec![],
        vec!["nonsense"],
        vec!["send"],
        vec!["schema", "neither"],
        vec!["results", "--take", "--status", "failed"],
        vec!["results", "--status", "delivered"],
    ] {
        let ended = Program::new(&arguments).run().await;
        assert_eq!(ended.code, Some(2), "{arguments:?}: {}", ended.said());
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{arguments:?}");
    }
}

#[tokio::test]
async fn the_schemas_are_json() {
    for (what, part) in [("job", "phone_number_id"), ("event", "whatsapp_message_id")] {
        let ended = Program::new(&["schema", what]).run().await;
        assert_eq!((ended.code, ended.err.len()), (Some(0), 0));
        let schema: serde_json::Value = serde_json::from_str(&ended.out.join("\n")).unwrap();
        assert!(schema.is_object() && schema.to_string().contains(part));
    }
}

#[tokio::test]
async fn shells_complete_commands_and_each_command_has_a_page() {
    for (shell, part) in
        [("bash", "dead-letters"), ("zsh", "#compdef chakra-sender"), ("fish", "why")]
    {
        let ended = Program::new(&["completions", shell]).run().await;
        assert_eq!((ended.code, ended.err.len()), (Some(0), 0), "{shell}");
        assert!(ended.out.join("\n").contains(part), "{shell}");
    }
    let page = Program::new(&["man"]).run().await;
    assert!(page.out.join("\n").contains(".TH chakra-sender 1"), "{:?}", page.out.first());
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().display().to_string();
    let ended = Program::new(&["man", "--out", &folder]).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    for page in ["chakra-sender.1", "chakra-sender-why.1", "chakra-sender-numbers-pause.1"] {
        assert!(dir.path().join(page).is_file(), "{page}");
    }
    let nowhere = Program::new(&["man", "--out", &format!("{folder}/missing")]).run().await;
    assert_eq!(nowhere.code, Some(1));
    assert!(nowhere.said().contains("missing"), "{}", nowhere.said());
}

#[tokio::test]
async fn a_run_that_chakrahq_does_not_let_in_says_what_to_check() {
    let (sandbox, dir) = (sandbox(|_| {}).await, tempdir().unwrap());
    let file = write(&dir, "jobs", &jobs(1));
    for (key, remedy) in
        [("chakra.token", "chakra.token"), ("chakra.plugin_id", "chakra.plugin_id")]
    {
        let results = dir.path().join(key);
        let mut run = send(&sandbox, &file, &results, &[]).set(key, "wrong").start();
        let told = run.err.line(&format!("check {remedy}")).await;
        assert!(told.contains("WARN"), "{told}");
        assert_eq!(run.kill().await.signal, Some(9));
    }
}

async fn check(program: Program) -> Ended {
    program.set("log.level", "off").run().await
}

#[tokio::test]
async fn a_check_ticks_what_is_in_place() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    let fresh = check(Program::new(&["check"]).at(&sandbox).on(&broker)).await;
    assert_eq!(fresh.code, Some(0), "{}", fresh.said());
    assert!(fresh.said().contains("· ") && fresh.said().contains("a worker makes them"));
    let mut worker = Program::worker(&sandbox, &broker).start();
    let admin = worker.admin().await;
    admin.ready().await;
    use_both_lanes(&broker, &admin).await;
    let made = check(Program::new(&["check"]).at(&sandbox).on(&broker)).await;
    assert_eq!(made.code, Some(0), "{}", made.said());
    let is_well = |line: &String| line.starts_with("✓ ") || line.starts_with("· number ");
    assert!(made.out.iter().all(is_well), "{}", made.said());
    let number = format!("· number {NUMBER} (Sandbox): at most ");
    assert!(made.out.iter().any(|line| line.starts_with(&number)), "{}", made.said());
}

#[tokio::test]
async fn a_check_crosses_what_is_wrong_and_says_what_to_do() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    for (key, value, cross, remedy) in [
        ("chakra.token", "wrong", "✗ ChakraHQ at http", "set chakra.token"),
        ("chakra.plugin_id", "stranger", "✗ ChakraHQ at http", "correct chakra.plugin_id"),
        ("chakra.base_url", "http://127.0.0.1:1", "✗ ChakraHQ at http", "check chakra.base_url"),
        (
            "ledger.path",
            "/dev/null/ledger",
            "✗ ledger.path: /dev/null is no folder",
            "name a folder",
        ),
        ("ledger.path", "/proc/ledger", "✗ ledger.path: /proc: 0 bytes are free", "name a folder"),
        (
            "rabbitmq.uri",
            "amqp://someone:hidden-password@127.0.0.1:1/%2f",
            "✗ RabbitMQ at 127.0.0.1:1: ",
            "check that it runs, rabbitmq.uri (host, port, user, password, virtual host)",
        ),
    ] {
        let program = Program::new(&["check"]).at(&sandbox).on(&broker).set(key, value);
        let ended = check(program).await;
        assert_eq!(ended.code, Some(1), "{key}: {}", ended.said());
        let at = ended.out.iter().position(|line| line.starts_with(cross));
        let at = at.unwrap_or_else(|| panic!("no {cross:?}: {}", ended.said()));
        let told = &ended.out[at + 1];
        assert!(told.starts_with(&format!("  → {remedy}")), "{told}");
        let crosses = ended.out.iter().filter(|line| line.starts_with('✗')).count();
        assert_eq!(crosses, 1, "{}", ended.said());
        assert!(!ended.said().contains("hidden-password") && !ended.said().contains(TOKEN));
    }
}

#[tokio::test]
async fn results_are_taken_out_of_their_queue_once() {
    let (sandbox, broker, dir) = (sandbox(|_| {}).await, Broker::shared(), tempdir().unwrap());
    let mut worker = Program::worker(&sandbox, &broker).start();
    let admin = worker.admin().await;
    admin.ready().await;
    let mut failed =
        Program::new(&["results", "--status", "failed", "--number", NUMBER]).on(&broker).start();
    failed.err.line("following").await;
    sandbox
        .set_faults(faults("[[faults]]\ntext_contains = 'no'\nanswer = { code = 131026 }"))
        .unwrap();
    let other = text("other-no", "no").replace(NUMBER, OTHER);
    let file = write(
        &dir,
        "jobs",
        &[text("good", "x"), other, text("first-no", "no"), text("second-no", "no")],
    );
    let put = Program::new(&["enqueue", file.to_str().unwrap()]).on(&broker).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    let all = |status: &str, count| format!(r#"status="{status}"}} {count}"#);
    for told in [all("accepted", 1), all("failed", 2)] {
        admin.says("/metrics", 200, &told).await;
    }
    admin.says("/metrics", 200, "chakra_sender_held_jobs 0").await;

    let of = by_status(&failed.out.count(2).await);
    let both = ["first-no", "second-no"].map(str::to_owned).into();
    assert_eq!(of, BTreeMap::from([("failed".to_owned(), both)]));
    let taken = Program::new(&["results", "--take"]).on(&broker).run().await;
    assert_eq!(taken.code, Some(0), "{}", taken.said());
    let of = by_status(&taken.out);
    assert_eq!((of["accepted"].len(), of["failed"].len()), (1, 3));
    let empty = Program::new(&["results", "--take"]).on(&broker).run().await;
    assert_eq!((empty.code, empty.out.len()), (Some(0), 0), "{}", empty.said());
    failed.signal("INT");
    assert_eq!(failed.end().await.out.len(), 2, "it saw only what it asked for");
}

#[tokio::test]
async fn the_demo_sends_nothing_twice() {
    let ended = Program::new(&["demo"]).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(
        ended.out.iter().any(|line| line.ends_with("messages sent twice: 0.")),
        "{}",
        ended.said()
    );
    for status in ["sent", "delivered", "read"] {
        assert!(ended.statuses(status) > 0, "{}", ended.said());
    }
}

#[tokio::test]
async fn neither_token_nor_recipient_nor_text_show_in_a_log_of_everything() {
    const RECIPIENT: &str = "919901258433";
    const TEXT: &str = "the text that nobody may read";
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
    sandbox
        .set_faults(faults(&format!(
            "[[faults]]\nfirst = 1\nanswer = {{ status = 503 }}\n\
             [[faults]]\nfirst = 1\nanswer = {{ status = 502, text = '{RECIPIENT} {TEXT}' }}\n\
             [[faults]]\nfirst = 1\nanswer = {{ code = 131026, text = '+{RECIPIENT} cannot get {TEXT}' }}"
        )))
        .unwrap();
    let mut worker = Program::worker(&sandbox, &broker)
        .set("log.level", "trace")
        .set("retry.initial", "10ms")
        .set("doubt.give_up", "1s")
        .start();
    let admin = worker.admin().await;
    admin.ready().await;
    let lines: Vec<String> = (0..4)
        .map(|n| text_to(&format!("job-{n}"), &format!("+{RECIPIENT}"), TEXT))
        .chain([job("misread", &format!(r#"{{"to":"+{RECIPIENT}","text":"{TEXT}"}}"#), "")])
        .collect();
    let client = broker.client().await;
    let exchange = format!("{}.sends", broker.prefix);
    for line in &lines {
        let properties = lapin::BasicProperties::default();
        client.publish((&exchange, NUMBER), line.as_bytes(), properties).await;
    }
    admin.says("/metrics", 200, r#"status="unknown"} 1"#).await;
    admin.says("/metrics", 200, r#"class="refused""#).await;
    admin.says("/metrics", 200, "chakra_sender_held_jobs 0").await;
    worker.signal("TERM");
    let ended = worker.end().await;
    assert_eq!(ended.code, Some(0));
    for hidden in [TOKEN, RECIPIENT, TEXT, &SandboxConfig::default().token] {
        let shown: Vec<&String> =
            ended.out.iter().chain(&ended.err).filter(|line| line.contains(hidden)).collect();
        assert!(shown.is_empty(), "{} lines show {hidden:?}, such as {}", shown.len(), shown[0]);
    }
}
