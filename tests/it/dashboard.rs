//! The dashboard of `deploy/grafana`: it can be imported, it reads from top to bottom, and a real
//! Prometheus that scrapes a real worker under load answers each of its queries with what is true.

use crate::support::broker::Broker;
use crate::support::load::{Producer, full_queue, webhooks};
use crate::support::process::{Program, faults, sandbox};
use crate::support::prometheus::{Prometheus, Sample};
use crate::support::webhook::{Hook, SECRET, of_meta};
use crate::support::world::{NUMBER, OTHER};
use chakra_sender::sandbox::{Failure, Number, Webhook};
use lapin::BasicProperties;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");

/// Numbers of the worker, by what befalls them.
const FAST: &str = "2001";
const REFUSED: &str = "2002";
const DOUBTFUL: &str = "2003";
const FAILING: &str = "2004";

/// Jobs that wait for a number which an operator has paused.
const WAITING: usize = 50;

/// These show 0 in this story, since what they count does not happen in it.
const LAWFULLY_ZERO: [(&str, &str); 3] = [
    ("Not ready", "chakra_sender_ready"),
    ("Alerts", "ALERTS"),
    ("RabbitMQ did not take", "acknowledgements_total"),
];

fn dashboard() -> Value {
    serde_json::from_str(DASHBOARD).unwrap()
}

/// Everything on it but the headings of its rows.
fn panels() -> Vec<Value> {
    let mut panels = dashboard()["panels"].as_array().unwrap().clone();
    panels.retain(|panel| panel["type"] != "row");
    panels
}

fn title(panel: &Value) -> &str {
    panel["title"].as_str().unwrap()
}

/// The queries of a panel as Grafana would send them, with these numbers chosen.
fn queries(panel: &Value, numbers: &str) -> Vec<String> {
    let filled = |target: &Value| {
        let query = target["expr"].as_str().unwrap();
        let query = query.replace("$__rate_interval", "5s").replace("$job", ".*");
        query.replace("$number", numbers)
    };
    panel["targets"].as_array().unwrap().iter().map(filled).collect()
}

#[test]
fn it_can_be_imported_and_lets_its_prometheus_be_chosen() {
    let dashboard = dashboard();
    assert_eq!(dashboard["id"], Value::Null, "a number here would overwrite somebody else's");
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let named: Vec<_> = variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(named, ["datasource", "job", "number"]);
    for panel in panels() {
        let targets = panel["targets"].as_array().unwrap();
        for of in targets.iter().chain([&panel]) {
            assert_eq!(of["datasource"]["uid"], "${datasource}", "{}", title(&panel));
        }
        let named: BTreeSet<_> = targets.iter().map(|one| one["refId"].to_string()).collect();
        assert_eq!(named.len(), targets.len(), "{}", title(&panel));
        assert!(panel["description"].as_str().unwrap().len() > 5, "{}", title(&panel));
    }
}

#[test]
fn its_rows_are_the_questions_of_an_operator_and_no_panel_lies_on_another() {
    let panels = dashboard()["panels"].as_array().unwrap().clone();
    let rows = panels.iter().filter(|panel| panel["type"] == "row");
    let asked = ["Is it well?", "Who waits?", "What fails?", "What does it cost?"];
    assert_eq!(rows.map(title).collect::<Vec<_>>(), asked);
    let mut taken = BTreeSet::new();
    let mut last = 0;
    for panel in &panels {
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + width <= 24 && y >= last, "{}", title(panel));
        last = y;
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(taken.insert(cell), "{} at {cell:?}", title(panel));
        }
    }
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
}

/// Webhooks of which some are lost and some tell of failures.
fn with_losses(webhook: Webhook) -> Webhook {
    let failed = vec![Failure { code: 131_049, share: 0.2 }];
    Webhook { loss: 0.5, failed, ..webhook }
}

/// What is asked of a panel by its title.
struct Asked<'a> {
    prometheus: &'a Prometheus,
    numbers: &'a str,
}

impl Asked<'_> {
    /// Waits until a query of a panel shows one value in this range, alone or with this label.
    async fn shows(&self, of: (&str, usize), label: (&str, &str), from: f64, to: f64) {
        let panels = panels();
        let panel = panels.iter().find(|panel| title(panel) == of.0).expect(of.0);
        let query = &queries(panel, self.numbers)[of.1];
        let is_it = |sample: &Sample| label.0.is_empty() || sample.label(label.0) == label.1;
        let goal = |samples: &[Sample]| {
            let own: Vec<_> = samples.iter().filter(|sample| is_it(sample)).collect();
            matches!(own[..], [only] if (from..=to).contains(&only.value))
        };
        self.prometheus.until(query, goal).await;
    }
}

/// A worker to which everything happens that the dashboard shows, until it is dropped.
struct Story {
    prometheus: Prometheus,
    _all: Box<dyn std::any::Any>,
}

impl Story {
    async fn begin() -> Story {
        let broker = Broker::shared();
        let sandbox = sandbox(|config| {
            config.numbers = [NUMBER, OTHER, FAST, REFUSED, DOUBTFUL, FAILING]
                .map(|id| Number { rate: Some(0), ..Number::new(id) })
                .into();
        })
        .await;
        sandbox
            .set_faults(faults(&format!(
                "[[faults]]\nnumber = '{FAST}'\nevery = 3\nanswer = {{ code = 130429 }}\n\
                 [[faults]]\nnumber = '{REFUSED}'\nanswer = {{ code = 131026 }}\n\
                 [[faults]]\nnumber = '{DOUBTFUL}'\nshare = 0.75\ncut = 'after'\n\
                 [[faults]]\nnumber = '{FAILING}'\nevery = 2\nanswer = {{ status = 503 }}\n"
            )))
            .unwrap();
        let mut worker = Program::worker(&sandbox, &broker)
            .set("limits.number.rate", "40")
            .set("webhook.listen", "127.0.0.1:0")
            .set("webhook.secret", SECRET)
            .start();
        let admin = worker.admin().await;
        let hook = Hook::of(&mut worker).await;
        sandbox.set_webhook(with_losses(webhooks(&hook, SECRET))).unwrap();
        admin.ready().await;
        let pause = ["numbers", "pause", OTHER, "--reason", "wrong price list"];
        let paused = Program::new(&pause).on(&broker).run().await;
        assert_eq!(paused.code, Some(0), "{}", paused.said());
        broker.left(OTHER).await;
        let producer = Producer::of(&broker, &broker.prefix).await;
        producer.put(OTHER, WAITING, &BasicProperties::default()).await;
        producer.put("not-a-number", 1, &BasicProperties::default()).await;
        let full = full_queue(&broker).await;
        let mut tasks = JoinSet::new();
        tasks.spawn(producer.feed(&[NUMBER, FAST, REFUSED, DOUBTFUL, FAILING], full));
        tasks.spawn(async move {
            let mut pace = tokio::time::interval(Duration::from_millis(200));
            loop {
                pace.tick().await;
                let forged = of_meta(NUMBER, &[]).to_string();
                let answer = hook.send("POST /webhook", "", forged.as_bytes()).await;
                assert_eq!(answer.status, 401);
            }
        });
        let target: &[&str] = &[admin.address()];
        let prometheus = Prometheus::start(&[("chakra-sender", target)], "groups: []").await;
        Story { prometheus, _all: Box::new((broker, sandbox, worker, tasks)) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_query_has_an_answer_from_a_worker_under_load_and_those_that_are_known_are_true() {
    let story = Story::begin().await;
    let prometheus = &story.prometheus;
    for panel in panels() {
        for query in queries(&panel, ".*") {
            let is_zero = |(at, of): &(&str, &str)| *at == title(&panel) && query.contains(of);
            let query = match LAWFULLY_ZERO.iter().any(is_zero) {
                true => query.as_str(),
                // What it counts happens here, so it must not show the 0 that stands in for nothing.
                false => query.trim_end_matches(" or vector(0)"),
            };
            let is_there = |samples: &[Sample]| {
                !samples.is_empty() && samples.iter().all(|sample| sample.value.is_finite())
            };
            prometheus.until(query, is_there).await;
        }
    }

    let all = Asked { prometheus, numbers: ".*" };
    let none = ("", "");
    for (panel, value) in [
        ("Workers", 1.0),
        ("Not ready", 0.0),
        ("RabbitMQ", 1.0),
        ("Brake", 0.0),
        ("Lost track of", 0.0),
    ] {
        all.shows((panel, 0), none, value, value).await;
    }
    all.shows(("Requests and pace", 1), ("number", NUMBER), 40.0, 40.0).await;
    all.shows(("Paused", 0), ("number", OTHER), 1.0, 1.0).await;
    let waiting = WAITING as f64;
    let paused = Asked { prometheus, numbers: OTHER };
    paused.shows(("Waiting", 0), none, waiting, waiting).await;
    paused.shows(("Numbers", 0), ("number", OTHER), waiting, waiting).await;
    paused.shows(("Numbers", 3), ("number", OTHER), waiting / 40.0, waiting / 40.0).await;
    paused.shows(("Age of the oldest", 0), ("number", OTHER), 1.0, 60.0).await;
    // Twenty a second were put on the exchange of each of these.
    let steady = Asked { prometheus, numbers: NUMBER };
    steady.shows(("Accepted a second", 0), none, 17.0, 23.0).await;
    steady.shows(("Requests for one accepted message", 0), none, 0.9, 1.1).await;
    let refused = Asked { prometheus, numbers: REFUSED };
    refused.shows(("Jobs that failed", 0), ("class", "refused"), 17.0, 23.0).await;
    refused.shows(("Requests that failed", 0), ("outcome", "refused"), 17.0, 23.0).await;
}
