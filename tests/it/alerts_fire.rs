//! Each alert fires in a real Prometheus where its trouble is, and none where a worker is well: real
//! workers with the sandbox's faults. The rules are those of `deploy`, with shorter times.

use crate::support::broker::Broker;
use crate::support::load::{Producer, full_queue, webhooks};
use crate::support::process::{AdminPage, IN_TIME, Process, Program, faults, sandbox};
use crate::support::prometheus::Prometheus;
use crate::support::webhook::{Hook, SECRET, of_meta};
use crate::support::world::{NUMBER, OTHER};
use chakra_sender::clock;
use chakra_sender::sandbox::{ListingMode, Number, Sandbox, Webhook};
use lapin::BasicProperties;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, block_in_place};
use tokio::time::timeout;

const RULES: &str = include_str!("../../deploy/prometheus/alerts.yaml");

/// Numbers of the sick worker, by what befalls them.
const FAST: &str = "2001";
const REFUSED: &str = "2002";
const DOUBTFUL: &str = "2003";
const HELD: &str = "2004";
const SLOW: &str = "2005";

/// A worker that is well: nothing fires, but for these, which are true of a machine that is busy with tests.
const HEALTHY: &str = "chakra-sender/healthy";
const OF_A_BUSY_MACHINE: [&str; 2] = ["WebhooksSlow", "WebhooksUnconfirmed"];

/// What else is scraped under which name, and which alerts fire there.
const SICK: (&str, &[&str]) = (
    "chakra-sender/sick",
    &[
        "BacklogLate",
        "DeadLetters",
        "DoubtGrows",
        "JobsFail",
        "JobsWaitLong",
        "LaneStands",
        "NoStatuses",
        "NumberHeld",
        "PublishesFail",
        "ServiceFails",
        "SettingsRefused",
        "TooFast",
        "UnknownResults",
        "WebhooksRefused",
    ],
);
/// Its key is refused.
const BARRED: (&str, &[&str]) = ("chakra-sender/barred", &["AccountRefused", "Braked"]);
/// It reaches no RabbitMQ, and its disk has too little room.
const CUT: (&str, &[&str]) = ("chakra-sender/cut", &["BrokerDown", "LedgerDown", "NotReady"]);
/// A worker beside the healthy one, that was given another prefix.
const SPLIT: (&str, &[&str]) = ("chakra-sender/split", &["ViewsDiffer", "WebhooksSlow"]);
/// One of two workers, as if the other were not there.
const HALF: (&str, &[&str]) = ("chakra-sender/half", &["LanesUnowned", "WebhooksSlow"]);
/// No fault provokes a gap: here the story has altered a worker's page.
const DEFECT: (&str, &[&str]) = ("chakra-sender/defect", &["ConservationGap"]);
const TROUBLES: [(&str, &[&str]); 6] = [SICK, BARRED, CUT, SPLIT, HALF, DEFECT];

/// Its broker has an alarm.
const BLOCKED: (&str, &[&str]) =
    ("chakra-sender/blocked", &["BrokerBlocked", "WebhooksUnconfirmed"]);
/// The healthy one, killed.
const GONE: (&str, &[&str]) = (HEALTHY, &["NotScraped"]);
/// What no job can tell.
const NOBODY: (&str, &[&str]) = ("", &["Absent"]);

/// The rules with times that fit a story.
fn hurried(rules: &str) -> String {
    let mut hurried = String::new();
    for line in rules.lines() {
        let line = line.replace("offset 1h", "offset 5s").replace("offset 30m", "offset 5s");
        let indent = &line[..line.len() - line.trim_start().len()];
        if line.trim_start().starts_with("for: ") {
            hurried += &format!("{indent}for: 2s\n");
            continue;
        }
        let mut parts = line.split('[');
        hurried += parts.next().unwrap();
        for part in parts {
            let (window, rest) = part.split_once(']').unwrap();
            assert!(window.starts_with(|c: char| c.is_ascii_digit()), "{line}");
            hurried += &format!("[5s]{rest}");
        }
        hurried.push('\n');
    }
    hurried
}

/// A worker, and its admin listener.
struct Worker {
    process: Process,
    admin: AdminPage,
}

impl Worker {
    async fn start(program: Program) -> Worker {
        let mut process = program.start();
        let admin = process.admin().await;
        Worker { process, admin }
    }

    async fn hook(&mut self) -> Hook {
        Hook::of(&mut self.process).await
    }
}

/// The worker hears webhooks.
fn listening(program: Program) -> Program {
    program.set("webhook.listen", "127.0.0.1:0").set("webhook.secret", SECRET)
}

/// A page of metrics that stays as it is.
async fn serve(page: String, tasks: &mut JoinSet<()>) -> AdminPage {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            // One read holds a scraper's header, and another's absence harms nobody.
            drop(stream.read(&mut request).await);
            let head = format!("HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n", page.len());
            drop(stream.write_all((head + &page).as_bytes()).await);
        }
    });
    AdminPage::at(&address)
}

/// Posts webhooks all the time, the bodies of which come slowly.
async fn post_slowly(hook: Hook) {
    let body = of_meta(NUMBER, &[]).to_string();
    loop {
        hook.post_slowly(body.as_bytes(), Duration::from_millis(150)).await;
    }
}

/// Everything that stands when Prometheus begins to look.
struct Installation {
    broker: Broker,
    healthy: Worker,
    sick: Worker,
    barred: Worker,
    cut: Worker,
    pair: [Worker; 2],
    _well: Sandbox,
    ill: Sandbox,
    dir: tempfile::TempDir,
    tasks: JoinSet<()>,
}

impl Installation {
    async fn begin() -> Installation {
        let (broker, dir) = (Broker::shared(), tempfile::tempdir().unwrap());
        let well = sandbox(|_| {}).await;
        let ill = sandbox(|config| {
            config.listings.mode = ListingMode::Forbidden;
            config.numbers = [NUMBER, FAST, REFUSED, DOUBTFUL, HELD, SLOW]
                .map(|id| Number { rate: Some(0), ..Number::new(id) })
                .into();
        })
        .await;
        let prefix = |name: &str| format!("{}-{name}", broker.prefix);
        let worker =
            |name: &str| Program::worker(&well, &broker).set("rabbitmq.prefix", &prefix(name));
        let settings = dir.path().join("sick.toml");
        let slow = format!("[[numbers.override]]\nid = \"{SLOW}\"\nrate = 0.1\nburst = 1\n");
        std::fs::write(&settings, slow).unwrap();
        let sick = Program::new(&["worker", "--config", settings.to_str().unwrap()])
            .at(&ill)
            .on(&broker)
            .set("rabbitmq.prefix", &prefix("sick"))
            .set("admin.listen", "127.0.0.1:0")
            .set("limits.number.rate", "40")
            .set("doubt.give_up", "8s")
            .set("doubt.looks_per_second", "100");
        let ledger = dir.path().join("ledger").display().to_string();
        let barred =
            worker("barred").set("chakra.token", "a-wrong-one").set("numbers.accept", "any");
        let cut = worker("cut")
            .set("rabbitmq.uri", "amqp://guest:guest@127.0.0.1:1/%2f")
            .set("ledger.path", &ledger)
            .set("ledger.min_free", "1024GiB");
        let (mut healthy, mut sick, barred, cut, first, second) = tokio::join!(
            Worker::start(listening(Program::worker(&well, &broker))),
            Worker::start(listening(sick)),
            Worker::start(barred),
            Worker::start(cut),
            Worker::start(listening(worker("pair"))),
            Worker::start(worker("pair")),
        );
        well.set_webhook(webhooks(&healthy.hook().await, SECRET)).unwrap();
        ill.set_webhook(webhooks(&sick.hook().await, "another secret")).unwrap();
        for worker in [&first, &second] {
            worker.admin.says("/metrics", 200, "chakra_sender_lanes_owned 1").await;
        }
        for worker in [&healthy, &sick, &barred] {
            worker.admin.ready().await;
        }
        let (pair, tasks) = ([first, second], JoinSet::new());
        Installation { broker, healthy, sick, barred, cut, pair, _well: well, ill, dir, tasks }
    }

    /// Looks at all of them.
    async fn watch(&mut self) -> Prometheus {
        let page = self.healthy.admin.says("/metrics", 200, "conservation_gap 0").await;
        let page = page.replace("conservation_gap 0", "conservation_gap 3");
        let defect = serve(page, &mut self.tasks).await;
        let [healthy, sick, barred, cut, half] =
            [&self.healthy, &self.sick, &self.barred, &self.cut, &self.pair[0]]
                .map(|worker| worker.admin.address());
        let jobs: [(&str, &[&str]); 7] = [
            (HEALTHY, &[healthy]),
            (SICK.0, &[sick]),
            (BARRED.0, &[barred]),
            (CUT.0, &[cut]),
            (SPLIT.0, &[healthy, half]),
            (HALF.0, &[half]),
            (DEFECT.0, &[defect.address()]),
        ];
        let prometheus = Prometheus::start(&jobs, &hurried(RULES)).await;
        let all: usize = jobs.iter().map(|(_, targets)| targets.len()).sum();
        prometheus.until("chakra_sender_build_info", |scraped| scraped.len() == all).await;
        prometheus
    }

    /// Everything that can go wrong without stopping the healthy worker.
    async fn trouble(&mut self) {
        let Installation { broker, tasks, .. } = self;
        self.ill
            .set_faults(faults(&format!(
                "[[faults]]\nnumber = '{FAST}'\nevery = 3\nanswer = {{ code = 130429 }}\n\
                 [[faults]]\nnumber = '{REFUSED}'\nanswer = {{ code = 131026 }}\n\
                 [[faults]]\nnumber = '{DOUBTFUL}'\nshare = 0.75\ncut = 'after'\n\
                 [[faults]]\nnumber = '{HELD}'\nanswer = {{ code = 131057 }}\n"
            )))
            .unwrap();
        let (plain, full) = (BasicProperties::default(), full_queue(broker).await);
        let healthy = Producer::of(broker, &broker.prefix).await;
        tasks.spawn(healthy.feed(&[NUMBER], plain.clone()));
        let sick = Producer::of(broker, &format!("{}-sick", broker.prefix)).await;
        let old = (clock::wall() - Duration::from_secs(7_200)).as_second();
        let old = plain.clone().with_timestamp(old.try_into().unwrap());
        sick.put(SLOW, 1_500, &old).await;
        tasks.spawn(sick.feed(&[NUMBER, FAST, REFUSED, DOUBTFUL, HELD], full));
        let barred = Producer::of(broker, &format!("{}-barred", broker.prefix)).await;
        barred.put(NUMBER, 5, &plain).await;
        tasks.spawn(post_slowly(self.pair[0].hook().await));
        std::fs::write(self.dir.path().join("sick.toml"), "[limits]\nspeed = 3\n").unwrap();
        self.sick.process.signal("HUP");
        // Lawful: an operator's pause.
        let pause = ["numbers", "pause", OTHER, "--reason", "wrong price list"];
        let paused = Program::new(&pause).on(broker).run().await;
        assert_eq!(paused.code, Some(0), "{}", paused.said());
        Producer::of(broker, &broker.prefix).await.put(OTHER, 50, &plain).await;
    }
}

/// Each alert that has fired so far, with its job.
async fn fired(prometheus: &Prometheus) -> BTreeSet<(String, String)> {
    let query = r#"max_over_time(ALERTS{alertstate="firing"}[10m])"#;
    let samples = prometheus.query(query).await;
    let name = |name: &str| name.strip_prefix("ChakraSender").unwrap().to_owned();
    samples.iter().map(|one| (one.label("job").to_owned(), name(one.label("alertname")))).collect()
}

/// Waits until these have fired.
async fn until_fired(prometheus: &Prometheus, expected: &[(&str, &[&str])]) {
    let of_job = |(job, alerts): &(&str, &[&str])| -> Vec<(String, String)> {
        alerts.iter().map(|alert| ((*job).to_owned(), (*alert).to_owned())).collect()
    };
    let mut missing: BTreeSet<(String, String)> = expected.iter().flat_map(of_job).collect();
    let all = timeout(IN_TIME, async {
        while !missing.is_empty() {
            let fired = fired(prometheus).await;
            missing.retain(|one| !fired.contains(one));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let in_time = all.await.is_ok();
    assert!(in_time, "these never fired: {missing:#?}");
}

#[test]
fn each_alert_of_the_file_fires_in_one_of_these_stories() {
    let told = TROUBLES.iter().chain([&BLOCKED, &GONE, &NOBODY]).flat_map(|(_, alerts)| *alerts);
    let told: BTreeSet<&str> = told.copied().collect();
    let names = RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ChakraSender"));
    assert_eq!(told, names.collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_fire_where_their_trouble_is_none_where_a_worker_is_well_and_one_where_nobody_is() {
    let mut installation = Installation::begin().await;
    let prometheus = installation.watch().await;
    installation.trouble().await;
    until_fired(&prometheus, &TROUBLES).await;
    let fired_so_far = fired(&prometheus).await;
    let well = fired_so_far.iter().filter(|(job, _)| job == HEALTHY);
    let well: Vec<_> = well.filter(|(_, alert)| !OF_A_BUSY_MACHINE.contains(&&**alert)).collect();
    assert!(well.is_empty(), "{well:?}");
    drop(installation);
    until_fired(&prometheus, &[GONE, NOBODY]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_of_the_broker_fires_at_the_workers_that_it_stops() {
    let (sandbox, broker) = (sandbox(|_| {}).await, Broker::private());
    let mut worker = Worker::start(listening(Program::worker(&sandbox, &broker))).await;
    // Of messages that nobody has sent: while the alarm lasts nobody does.
    let made_up = Webhook { load: 20, ..webhooks(&worker.hook().await, SECRET) };
    sandbox.set_webhook(made_up).unwrap();
    worker.admin.ready().await;
    let target: &[&str] = &[worker.admin.address()];
    let prometheus = Prometheus::start(&[(BLOCKED.0, target)], &hurried(RULES)).await;
    let taken = r#"chakra_sender_webhooks_total{outcome="taken"} > 20"#;
    prometheus.until(taken, |taken| !taken.is_empty()).await;
    block_in_place(|| broker.node().ctl(&["set_vm_memory_high_watermark", "0.00001"]));
    until_fired(&prometheus, &[BLOCKED]).await;
}
