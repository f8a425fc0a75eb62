//! `enqueue` from a table and a template, as its users run it, and `--wait` with real results.

use crate::support::broker::Broker;
use crate::support::process::{Ended, IN_TIME, Process, Program, faults, sandbox};
use crate::support::world::{NUMBER, OTHER};
use chakra_sender::sandbox::{Record, Sandbox};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// Between two looks at a queue.
const LOOK: Duration = Duration::from_millis(20);

const TEMPLATE: &str = r#"{
  "phone_number_id": "1027729340496751",
  "message": {
    "messaging_product": "whatsapp",
    "to": "{{to}}",
    "type": "text",
    "text": { "body": "Dear {{name}}, your order is on its way." }
  }
}"#;

/// Files of one story.
struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        Desk { dir: tempfile::tempdir().unwrap() }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// `enqueue` of this table by [`TEMPLATE`], or another.
    fn enqueue(&self, table: &str, template: &str, more: &[&str]) -> Program {
        let table = self.write("table.csv", table).display().to_string();
        let template = self.write("body.json", template).display().to_string();
        let mut arguments = vec!["enqueue", &table, "--template", &template, "--map", "to=phone"];
        arguments.extend(more);
        Program::new(&arguments)
    }
}

/// This many people with a number of their own.
fn people(count: usize) -> String {
    let rows = (0..count).map(|n| format!("+9990000{n:05},Person {n}\n"));
    "phone,name\n".to_owned() + &rows.collect::<String>()
}

async fn ready_worker(sandbox: &Sandbox, broker: &Broker) -> Process {
    let mut worker = Program::worker(sandbox, broker).start();
    worker.admin().await.ready().await;
    worker
}

async fn wait_for(sandbox: &Sandbox, reached: impl FnMut(&Record) -> bool) {
    let waited = timeout(IN_TIME, sandbox.record().wait_for(reached)).await;
    assert!(waited.is_ok(), "the sandbox saw no more than {:?}", sandbox.record().summary());
}

fn summary(ended: &Ended) -> Value {
    serde_json::from_str(ended.out.last().unwrap_or_else(|| panic!("{}", ended.said()))).unwrap()
}

#[tokio::test]
async fn a_table_is_sent_to_its_people_and_its_results_are_waited_for() {
    let (sandbox, broker, desk) = (sandbox(|_| {}).await, Broker::shared(), Desk::new());
    let _worker = ready_worker(&sandbox, &broker).await;
    let program = desk.enqueue(&people(60), TEMPLATE, &["--yes", "--wait", "--json"]);
    let ended = program.on(&broker).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    let [forecast, put, results] = &ended.err[..] else { panic!("{}", ended.said()) };
    assert!(forecast.starts_with("60 jobs, about 1 s at "), "{forecast}");
    assert!(put.starts_with("60 enqueued and confirmed, 0 invalid"), "{put}");
    assert_eq!(results, "results: 60 accepted");
    let results =
        json!({ "accepted": 60, "failed": 0, "expired": 0, "unknown": 0, "open": 0, "errors": [] });
    assert_eq!(summary(&ended)["results"], results);
    assert_eq!(sandbox.record().count_accepted(), 60);
    // Real consumers have missed nothing.
    let kept = Program::new(&["results", "--take"]).on(&broker).run().await;
    assert_eq!(kept.out.len(), 60, "{}", kept.said());
}

#[tokio::test]
async fn the_same_table_once_more_messages_nobody_twice_however_it_is_laid_out() {
    let (sandbox, broker, desk) = (sandbox(|_| {}).await, Broker::shared(), Desk::new());
    let _worker = ready_worker(&sandbox, &broker).await;
    let wait = ["--yes", "--wait"];
    let first = desk.enqueue(&people(20), TEMPLATE, &wait).on(&broker).run().await;
    assert_eq!(first.code, Some(0), "{}", first.said());
    // Two more people, another order, another column between, another end of the lines, a mark before
    // all; a template with other white space and an end.
    let again = people(22);
    let rows = again
        .trim_start_matches("phone,name\n")
        .lines()
        .rev()
        .map(|row| row.replace(',', ";x;"))
        .collect::<Vec<_>>();
    let again = format!("\u{feff}phone;note;name\r\n{}\r\n;;\r\n", rows.join("\r\n"));
    let template = TEMPLATE
        .replace("  ", "\t")
        .replace("{\n\t\"ph", "{\"expires_at\":\"2099-01-01T00:00:00Z\",\"ph");
    let program = desk.enqueue(&again, &template, &["--delimiter", ";", "--yes", "--wait"]);
    let second = program.on(&broker).run().await;
    assert_eq!(second.code, Some(0), "{}", second.said());
    assert!(second.err.contains(&"results: 22 accepted".to_owned()), "{}", second.said());
    assert_eq!(sandbox.record().count_requests(), 22, "twenty had been sent");
}

#[tokio::test]
async fn a_dry_run_shows_the_first_job_names_bad_lines_and_enqueues_nothing() {
    let (broker, desk) = (Broker::shared(), Desk::new());
    let table = "name,phone\n\
         \"Ann \"\"A\"\" Smith\",+91 99012-58433\n\
         Bob,+919901258434,too much\n\
         Eve,9.19901E+11\n\
         \n\
         \"Two\nlines\",+919901258435\n\
         Ann \"A\" Smith,919901258433\n";
    let template =
        TEMPLATE.replace("\"phone_number_id\"", "\"priority\": \"urgent\", \"phone_number_id\"");
    let ended = desk.enqueue(table, &template, &["--dry-run"]).on(&broker).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let said = ended.said();
    for part in [
        "line 3: not enqueued: it has 3 columns, the header has 2",
        "line 4: not enqueued: message.to must be a phone number of 5 to 20 digits",
        "line 8: not enqueued: an earlier line asks for the same message",
        "the first job (line 2, id csv-",
        "    \"to\": \"…33\",",
        r#""body": "Dear Ann \"A\" Smith, your order"#,
        "2 jobs, about 1 s at 17/s (by these settings: no worker tells its pace)",
        "nothing enqueued: 2 could be, 3 not",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    assert!(!said.contains("58433"), "a recipient in full\n{said}");
    let shown = ["--dry-run", "--show-recipient", "--json"];
    let ended = desk.enqueue(table, TEMPLATE, &shown).on(&broker).run().await;
    let nothing = json!({ "enqueued": 0, "could_be": 2, "invalid": 3, "unroutable": 0, "refused": 0,
        "results": null });
    assert_eq!(summary(&ended), nothing);
    assert!(ended.said().contains("\"to\": \"+91 99012-58433\""), "{}", ended.said());
}

#[tokio::test]
async fn without_a_terminal_a_table_needs_a_yes_and_content_is_not_shown() {
    let (broker, desk) = (Broker::shared(), Desk::new());
    let ended = desk.enqueue(&people(3), TEMPLATE, &[]).on(&broker).run().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said());
    assert!(ended.said().contains("without a terminal it needs --yes"), "{}", ended.said());
    let ended = desk.enqueue(&people(3), TEMPLATE, &["--yes"]).on(&broker).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(!ended.said().contains("Person"), "{}", ended.said());
}

#[tokio::test]
async fn ids_of_a_column_priorities_and_numbers_of_columns_are_the_jobs() {
    let (sandbox, broker, desk) = (sandbox(|_| {}).await, Broker::shared(), Desk::new());
    let template = TEMPLATE.replace(NUMBER, "{{sender}}").replacen(
        '{',
        r#"{ "id": "order-{{order}}", "priority": "{{priority}}","#,
        1,
    );
    let table = format!(
        "phone,name,order,sender,priority\n\
         +999000000001,Ann,1,{NUMBER},normal\n\
         +999000000002,Bob,2,{OTHER},urgent\n\
         +999000000003,Eve,2,{OTHER},urgent\n\
         +999000000004,Ivy,4,{OTHER},soon\n"
    );
    let program = desk.enqueue(&table, &template, &["--yes", "--json"]).on(&broker);
    let ended = program.run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    for part in [
        "line 4: not enqueued: an earlier line has the id \"order-2\" too",
        "line 5: not enqueued: not a send job: unknown variant `soon`",
        "1027729340496751: 1 job, ",
        "1027729340496752: 1 job, ",
    ] {
        assert!(ended.said().contains(part), "{part}\n{}", ended.said());
    }
    assert_eq!(summary(&ended)["enqueued"], 2);
    assert_eq!(summary(&ended)["results"], Value::Null);
    let _worker = ready_worker(&sandbox, &broker).await;
    wait_for(&sandbox, |record| record.count_accepted() == 2).await;
    let client = broker.client().await;
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let event = client.take(&broker.names().results()).await;
        let event: Value = serde_json::from_slice(&event.data).unwrap();
        ids.insert(event["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids, ["order-1", "order-2"].map(str::to_owned).into());
}

#[tokio::test]
async fn outcomes_that_are_minded_make_the_exit_code_and_the_summary_says_why() {
    let (sandbox, broker, desk) = (sandbox(|_| {}).await, Broker::shared(), Desk::new());
    let refuse = "[[faults]]\nto = \"999000000001\"\nanswer = { code = 131026 }";
    sandbox.set_faults(faults(refuse)).unwrap();
    let _worker = ready_worker(&sandbox, &broker).await;
    let minded = ["--yes", "--wait", "--fail-on", "failed,unknown"];
    let ended = desk.enqueue(&people(3), TEMPLATE, &minded).on(&broker).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let told = ["results: 2 accepted, 1 failed", "  1 refused 131026"];
    assert!(ended.said().contains(&told.join("\n")), "{}", ended.said());
    let not_minded = desk.enqueue(&people(3), TEMPLATE, &["--yes", "--wait"]).on(&broker).run();
    assert_eq!(not_minded.await.code, Some(0));
}

#[tokio::test]
async fn who_stops_waiting_is_told_what_is_open_and_the_jobs_go_on() {
    let (sandbox, broker, desk) = (sandbox(|_| {}).await, Broker::shared(), Desk::new());
    let program = desk.enqueue(&people(3), TEMPLATE, &["--yes", "--wait"]);
    let mut waiting = program.on(&broker).start();
    waiting.close_stdin();
    stand_in(&broker, &broker.names().unrouted(), 3).await;
    waiting.signal("INT");
    let ended = waiting.end().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let open = "without a result yet: 3, which the worker goes on with";
    assert!(ended.said().contains(open), "{}", ended.said());
    let _worker = ready_worker(&sandbox, &broker).await;
    wait_for(&sandbox, |record| record.count_accepted() == 3).await;
}

/// Waits until so many jobs stand in a queue, which may not exist yet.
async fn stand_in(broker: &Broker, queue: &str, jobs: u32) {
    let client = broker.client().await;
    let standing = timeout(IN_TIME, async {
        while client.ask(queue).await.map_or(0, |queue| queue.message_count()) < jobs {
            tokio::time::sleep(LOOK).await;
        }
    });
    standing.await.unwrap_or_else(|_| panic!("{queue} never had {jobs} jobs"));
}

#[tokio::test]
async fn what_is_wrong_with_a_template_or_a_table_is_said_before_anything_is_done() {
    let (broker, desk) = (Broker::shared(), Desk::new());
    let no_name = TEMPLATE.replace("{{name}}", "{{nam}}");
    let cases = [
        (people(1), "{", "body.json: it is no JSON object: EOF"),
        (
            people(1),
            no_name.as_str(),
            "body.json: {{nam}}: the table has no column \"nam\"; it has phone, name",
        ),
        (
            "phone;name\n1;2\n".into(),
            TEMPLATE,
            "no column \"phone\"; it has phone;name (is it one column? else --delimiter ';')",
        ),
        ("phone\tname\n1\t2\n".into(), TEMPLATE, "(is it one column? else --delimiter '\\t')"),
        (String::new(), TEMPLATE, "table.csv: the table is empty"),
        ("\n\n".into(), TEMPLATE, "table.csv: the table is empty"),
        ("phone,\"name\n1,2\n".into(), TEMPLATE, "table.csv: line 1: a quote is not closed"),
    ];
    for (table, template, part) in cases {
        let ended = desk.enqueue(&table, template, &["--dry-run"]).on(&broker).run().await;
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(ended.said().contains(part), "{part}\n{}", ended.said());
    }
    let open_quote = format!("{}+999000000001,\"Ann\n{}", people(1), "x,y\n".repeat(500_000));
    let ended = desk.enqueue(&open_quote, TEMPLATE, &["--dry-run"]).on(&broker).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let part = "line 3: the row is longer than 1048576 bytes: is a quote not closed?";
    assert!(ended.said().contains(part), "{}", ended.said());
}

#[tokio::test]
async fn a_table_that_is_no_utf_8_is_to_be_saved_anew() {
    let desk = Desk::new();
    let template = desk.write("body.json", TEMPLATE).display().to_string();
    let utf_16 = |text: &str| -> Vec<u8> {
        [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    let cases = [
        (utf_16("phone,name\n1,2\n"), "table.csv: the table is UTF-16: save it as UTF-8"),
        (b"phone,gr\xf6sse\n1,2\n".to_vec(), "the header is no UTF-8: save the table as UTF-8"),
    ];
    for (text, part) in cases {
        let table = desk.dir.path().join("table.csv");
        std::fs::write(&table, text).unwrap();
        let table = table.display().to_string();
        let program = Program::new(&["enqueue", &table, "--template", &template, "--dry-run"]);
        let ended = program.run().await;
        assert_eq!(ended.code, Some(2), "{}", ended.said());
        assert!(ended.said().contains(part), "{part}\n{}", ended.said());
    }
}

#[tokio::test]
async fn a_quote_that_is_not_closed_gives_nobody_the_rows_of_others() {
    let (broker, desk) = (Broker::shared(), Desk::new());
    let table = "phone,name\n+999000000001,\"Ann\n+999000000002,Bob\n+999000000003,Eve\n";
    let ended = desk.enqueue(table, TEMPLATE, &["--yes"]).on(&broker).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let last = ended.err.last().unwrap();
    assert!(last.ends_with("reading the table: line 2: a quote is not closed"), "{}", ended.said());
    assert!(!ended.said().contains("enqueued and confirmed"), "{}", ended.said());
}

#[tokio::test]
async fn refused_rows_are_told_by_their_lines_twenty_of_them_and_the_rest_counted() {
    let (broker, desk) = (Broker::shared(), Desk::new());
    let table = format!("phone,name\r\n\r\n1,Ann\r\n{}", "2,Bob\r\n".repeat(1253));
    let ended = desk.enqueue(&table, TEMPLATE, &["--dry-run"]).on(&broker).run().await;
    assert_eq!(ended.code, Some(1), "{}", ended.said());
    let told: Vec<&String> =
        ended.err.iter().filter(|line| line.contains(": not enqueued: ")).collect();
    assert_eq!(told.len(), 20, "{}", ended.said());
    assert!(told[0].contains("line 3: ") && told[19].contains("line 22: "), "{}", ended.said());
    assert!(ended.said().contains("and 1,234 more lines not enqueued"), "{}", ended.said());
}
