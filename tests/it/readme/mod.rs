//! README.md as a stranger follows it: each command is typed into bash, word for word, and what is to be seen
//! after it is seen. ChakraHQ is the sandbox, RabbitMQ that of the tests.

mod document;
mod terminal;

use crate::asyncapi::checked;
use crate::configuration::Given;
use crate::jobs_and_events;
use crate::support::broker::{Broker, SOON};
use crate::support::process::{AdminPage, Process, Program, TOKEN, faults, sandbox, write};
use crate::support::world::{NUMBER, OTHER, text};
use bytes::Bytes;
use chakra_sender::sandbox::{COMPILED_IN, Sandbox, SandboxConfig};
use chakra_sender::wire::SendJob;
pub(crate) use document::readme;
use document::{blocks, commands_in_text, commands_under};
use lapin::BasicProperties;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::path::Path;
use terminal::{Desk, YES};
use tokio::time::timeout;

/// The headings with commands below them; each has its story here.
const INSTALL: &str = "1. Install it";
const REHEARSE: &str = "2. Rehearse it";
const SEND: &str = "3. Send for real";
const DEAD_LETTERS: &str = "Look after the dead letters";
const PAUSE: &str = "Pause a number, end a wrong campaign";

/// The settings of the rehearsal.
const REHEARSAL: &str = include_str!("../../../config/rehearsal.toml");

/// What is not run, and why.
const EXEMPT: [(&str, &str); 3] = [
    ("sudo apt-get install ", "packages of the machine: tests/needs installs them for the tests"),
    ("make test", "this runs within it"),
    ("make chaos", "minutes: CI runs its short form"),
];

fn is_exempt(command: &str) -> bool {
    EXEMPT.iter().any(|(begin, _)| command.starts_with(begin))
}

#[test]
fn every_block_has_a_story_or_a_reader() {
    for block in blocks() {
        let is_read = match &*block.language {
            "sh" => [INSTALL, REHEARSE, SEND, DEAD_LETTERS, PAUSE].contains(&&*block.heading),
            language => ["json", "toml"].contains(&language),
        };
        assert!(is_read, "README.md:{}: nothing tries this:\n{}", block.line, block.text);
    }
}

#[test]
fn what_it_shows_of_jobs_events_and_settings_is_lawful() {
    let (mut jobs, mut events) = (0, Vec::new());
    for block in blocks() {
        match &*block.language {
            "toml" => drop(Given::toml(&block.text).load().unwrap()),
            "json" => {
                let shown: Value = serde_json::from_str(&block.text).unwrap();
                match shown["event"].as_str() {
                    Some(event) => events.push(json!({ "message": event, "payload": shown })),
                    None => {
                        SendJob::parse(&Bytes::from(block.text), None).unwrap();
                        jobs += 1;
                    }
                }
            }
            _ => {}
        }
    }
    assert_eq!((jobs, events.len()), (1, 1));
    checked(&events);
}

#[test]
fn what_operators_are_shown_of_settings_is_lawful() {
    let page = include_str!("../../../docs/operations.md");
    for toml in jobs_and_events::blocks(page, "toml") {
        drop(Given::toml(&toml).load().unwrap());
    }
}

#[test]
fn the_settings_of_the_rehearsal_fit_the_sandbox() {
    let settings = Given::toml(REHEARSAL).load().unwrap();
    let (chakra, sandbox) = (settings.chakra, SandboxConfig::from_toml(COMPILED_IN).unwrap());
    assert_eq!(chakra.base_url, format!("http://{}", sandbox.listen));
    assert_eq!(chakra.plugin_id, Some(sandbox.plugin_id));
    assert_eq!(chakra.token.unwrap().expose_secret(), sandbox.token);
    assert_ne!(settings.rabbitmq.prefix, Given::toml("").load().unwrap().rabbitmq.prefix);
}

#[tokio::test]
async fn it_can_be_installed_and_shown() {
    let tools = tempfile::tempdir().unwrap();
    let (shim, root) = (tools.path().join("shim"), tools.path().join("root"));
    std::fs::create_dir(&shim).unwrap();
    cargo(&shim, &root);
    let mut desk = Desk::bare(&[&shim, &root.join("bin")]);
    // Cargo would build anew in another environment.
    for (name, value) in
        std::env::vars().filter(|(name, _)| name != "PATH" && !name.starts_with("CHAKRA"))
    {
        desk.export(&name, &value);
    }
    for block in commands_under(INSTALL).iter().filter(|block| !is_exempt(&block.text)) {
        desk.follow(block, "").await;
    }
}

/// A `cargo` that lets the real one install, out of what it has built for the tests: in their profile, and with
/// an example more, since it would take dependencies without the features that tests want otherwise, and
/// compile them for minutes.
fn cargo(shim: &Path, root: &Path) {
    let built = Path::new(env!("CARGO_BIN_EXE_chakra-sender")).parent().unwrap();
    let profile = if built.ends_with("debug") { "--debug" } else { "" };
    let (cargo, clone) = (env!("CARGO"), env!("CARGO_MANIFEST_DIR"));
    let (target, root) = (built.parent().unwrap().display(), root.display());
    let script = format!(
        "#!/bin/sh\ncd '{clone}' && exec '{cargo}' \"$@\" --offline {profile} --root '{root}' \
         --target-dir '{target}' --bin chakra-sender --example producer\n"
    );
    let file = shim.join("cargo");
    std::fs::write(&file, script).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&file, executable).unwrap();
}

#[tokio::test]
async fn a_stranger_rehearses_and_sends_a_first_message() {
    let (broker, account) = (Broker::shared(), sandbox(|_| {}).await);
    let mut desk = Desk::new(&broker);
    // Two prefixes are part of it, so both stand in files.
    let [rehearsal, own] = ["rehearsal", "chakra"].map(|of| format!("{}-{of}", broker.prefix));
    desk.write(
        "config/rehearsal.toml",
        &REHEARSAL.replace("\"rehearsal\"", &format!("\"{rehearsal}\"")),
    );
    desk.instead_of("prefix=\"rehearsal\"", format!("prefix=\"{rehearsal}\""));
    desk.instead_of("prefix=\"chakra\"", format!("prefix=\"{own}\""));
    desk.instead_of("chakra-sender sandbox", "chakra-sender sandbox --listen 127.0.0.1:0");
    desk.instead_of("127.0.0.1:8900", "127.0.0.1:…");
    for block in commands_under(REHEARSE) {
        desk.follow(&block, "").await;
    }
    let said = desk.end_all().await.concat();
    assert!(said.iter().any(|line| line.ends_with("gap=0")), "{}", said.join("\n"));

    desk.set("chakra.base_url", &account.base_url());
    let plugin = SandboxConfig::default().plugin_id;
    let settings = format!("plugin_id = \"{plugin}\"\n[rabbitmq]\nprefix = \"{own}\"");
    desk.instead_of("plugin_id = \"…\"", settings);
    desk.instead_of("FROM='…'", format!("FROM='{NUMBER}'"));
    desk.instead_of("TO='…'", "TO='+919901258433'");
    for block in commands_under(SEND) {
        let typed = if block.text.contains("cat > my.token") { TOKEN } else { "" };
        desk.follow(&block, typed).await;
    }
    assert_eq!(account.record().count_accepted(), 1);
    desk.end_all().await;
}

/// A worker that is ready, and where its commands are typed.
struct Shift {
    sandbox: Sandbox,
    broker: Broker,
    worker: Process,
    admin: AdminPage,
    desk: Desk,
}

impl Shift {
    async fn begin(settings: &[(&str, &str)]) -> Shift {
        let (sandbox, broker) = (sandbox(|_| {}).await, Broker::shared());
        let set = |program: Program, (key, value): &(&str, &str)| program.set(key, value);
        let program = Program::worker(&sandbox, &broker);
        let mut worker = settings.iter().fold(program, set).start();
        let admin = worker.admin().await;
        admin.ready().await;
        let mut desk = Desk::new(&broker);
        desk.set("rabbitmq.prefix", &broker.prefix);
        desk.set("chakra.base_url", &sandbox.base_url());
        desk.set("chakra.token", TOKEN);
        desk.set("chakra.plugin_id", &SandboxConfig::default().plugin_id);
        Shift { sandbox, broker, worker, admin, desk }
    }

    async fn enqueue(&self, jobs: &[String]) {
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "jobs", jobs).display().to_string();
        let ended = Program::new(&["enqueue", &file]).on(&self.broker).run().await;
        assert_eq!(ended.code, Some(0), "{}", ended.said());
    }

    /// Types the blocks under a heading, and a yes where the README says that something asks. Returns what came.
    async fn follow(&mut self, heading: &str) -> Vec<String> {
        let mut said = Vec::new();
        for block in commands_under(heading) {
            let typed = if block.text.contains("asks") { YES } else { "" };
            said.extend(self.desk.follow(&block, typed).await);
        }
        said
    }
}

#[tokio::test]
async fn dead_letters_are_looked_after() {
    let mut shift = Shift::begin(&[("retry.max_attempts", "1")]).await;
    let once = "[[faults]]\nfirst = 1\nanswer = { status = 503, code = 131016 }";
    shift.sandbox.set_faults(faults(once)).unwrap();
    shift.enqueue(&[text("order-8812-shipped", "x")]).await;
    let unlawful = text("unlawful", "x").replace(r#""message""#, r#""mesage""#);
    let (client, names) = (shift.broker.client().await, shift.broker.names());
    let to = (&*names.sends(), NUMBER);
    client.publish(to, unlawful.as_bytes(), BasicProperties::default()).await;
    for class in ["unavailable", "invalid"] {
        let counted = format!(r#"dead_letters_total{{class="{class}"}} 1"#);
        shift.admin.says("/metrics", 200, &counted).await;
    }
    let said = shift.follow(DEAD_LETTERS).await;
    shift.admin.says("/metrics", 200, r#"status="accepted"} 1"#).await;
    // The broker tells what is ready a moment late.
    let none_left = async { while client.depth(&names.dead_letters()).await > 0 {} };
    let waited = timeout(SOON, none_left).await;
    assert!(waited.is_ok(), "a dead letter is left:\n{}", said.join("\n"));
}

#[tokio::test]
async fn a_number_is_paused_and_a_campaign_ended() {
    let mut shift = Shift::begin(&[("limits.number.rate", "0.1")]).await;
    let of = |campaign: &str, n: u32| {
        let metadata = format!(r#""metadata":{{"campaign":"{campaign}"}},"message""#);
        text(&format!("{campaign}-{n}"), "x").replace(r#""message""#, &metadata)
    };
    let jobs: Vec<String> = (0..6).map(|n| of("summer", n)).chain([of("autumn", 0)]).collect();
    shift.enqueue(&jobs).await;
    shift.follow(PAUSE).await;
    // The first ones were sent before the pause.
    let page = shift.admin.says("/metrics", 200, r#"status="failed"}"#).await;
    let failed = page.lines().find(|line| line.contains(r#"status="failed"}"#)).unwrap();
    let failed: u64 = failed.rsplit(' ').next().unwrap().parse().unwrap();
    assert!((3..=6).contains(&failed), "{failed} of 6 were dropped");
}

#[tokio::test]
async fn the_commands_within_the_text_do_as_they_say() {
    let mut shift = Shift::begin(&[]).await;
    let jobs = include_str!("../../../config/jobs.example.jsonl");
    shift.desk.write("jobs.jsonl", jobs);
    shift.desk.write("settings.toml", "[limits]\nmax_wait = \"4s\"\n");
    shift.desk.write("people.csv", "phone,name\n+999000000001,Ann\n");
    shift
        .desk
        .write("job.json", &text("to-{{to}}", "Dear {{name}}").replace("+919901258433", "{{to}}"));
    for (there, here) in [
        ("FILE", "settings.toml".to_owned()),
        ("JOB_ID", "order-8812-shipped".to_owned()),
        ("PID", shift.worker.child.id().to_string()),
        ("amqp://user:password@rabbitmq.example.com:5672/%2f", shift.broker.uri().to_owned()),
    ] {
        shift.desk.instead_of(there, here);
    }
    shift.enqueue(&jobs.lines().map(str::to_owned).collect::<Vec<_>>()).await;
    for (number, jobs) in [(NUMBER, 3), (OTHER, 2)] {
        let told = format!(r#"number="{number}",status="accepted"}} {jobs}"#);
        shift.admin.says("/metrics", 200, &told).await;
    }
    let commands = commands_in_text();
    assert!(commands.len() > 5, "{commands:?}");
    for command in commands.iter().filter(|command| !is_exempt(command)) {
        let typed = if command.contains("--template") { YES } else { "" };
        shift.desk.enter(command, typed, None, &format!("README.md, `{command}`")).await;
        shift.desk.end_all().await;
    }
    shift.worker.err.line("the settings were read again").await;
}
