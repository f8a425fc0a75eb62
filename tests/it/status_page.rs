//! The status page of a real worker, in a real browser.

use crate::support::broker::Broker;
use crate::support::browser::{self, Loaded};
use crate::support::process::{AdminPage, Process, Program, faults, sandbox, write};
use crate::support::world::{NUMBER, OTHER, text};
use axum::Router;
use axum::response::Html;
use axum::routing::get;
use chakra_sender::sandbox::{Number, Sandbox};
use std::path::Path;
use tokio::net::TcpListener;

/// One that Meta asks to leave alone, and one with nothing to do.
const HELD: &str = "1027729340496753";
const IDLE: &str = "1027729340496754";

/// A worker with something to look at: a number that sends and is refused now and then, one that an operator
/// has paused, one that is held, one that is idle.
struct Scene {
    admin: AdminPage,
    _worker: Process,
    _sandbox: Sandbox,
}

impl Scene {
    async fn set(reason: &str) -> Scene {
        let broker = Broker::shared();
        let sandbox = sandbox(|config| {
            config
                .numbers
                .extend([HELD, IDLE].map(|id| Number { rate: Some(0), ..Number::new(id) }));
        })
        .await;
        let answers = format!(
            "[[faults]]\nnumber = '{HELD}'\nanswer = {{ code = 131057 }}\n\
             [[faults]]\nnumber = '{NUMBER}'\nevery = 3\nanswer = {{ code = 131026 }}"
        );
        sandbox.set_faults(faults(&answers)).unwrap();
        let program = Program::worker(&sandbox, &broker).set("limits.number.rate", "20");
        let mut worker = program.start();
        let admin = worker.admin().await;
        admin.says("/metrics", 200, "chakra_sender_lanes_owned 4\n").await;
        let pause = ["numbers", "pause", OTHER, "--reason", reason];
        assert_eq!(Program::new(&pause).on(&broker).run().await.code, Some(0));
        admin.says("/metrics", 200, r#"reason="operator"} 1"#).await;

        let jobs = |number: &str, count: usize| -> Vec<String> {
            let job = |n: usize| text(&format!("{number}-{n}"), "Sale!").replace(NUMBER, number);
            (0..count).map(job).collect()
        };
        let lines = [jobs(NUMBER, 3_000), jobs(OTHER, 250), jobs(HELD, 20)].concat();
        let dir = tempfile::tempdir().unwrap();
        let file = write(&dir, "jobs.jsonl", &lines).display().to_string();
        assert_eq!(Program::new(&["enqueue", &file]).on(&broker).run().await.code, Some(0));
        for told in [r#""held_for":"maintenance""#, r#""code":131026"#] {
            admin.says("/numbers", 200, told).await;
        }
        // Counted one round later; the one number is between two thousand and three.
        for (number, count) in [(NUMBER, "2"), (OTHER, "250\n")] {
            let counted = format!(r#"lane_ready{{number="{number}",priority="normal"}} {count}"#);
            admin.says("/metrics", 200, &counted).await;
        }
        Scene { admin, _worker: worker, _sandbox: sandbox }
    }
}

/// The row of one number.
fn row<'a>(page: &'a str, number: &str) -> &'a str {
    let open = format!(r#"<tr id="number-{number}">"#);
    let (_, row) = page.split_once(&open).unwrap_or_else(|| panic!("no row of {number}:\n{page}"));
    row.split_once("</tr>").unwrap().0
}

#[tokio::test]
async fn the_page_shows_how_it_stands_with_each_number_and_runs_nothing_of_operators_texts() {
    let scene = Scene::set("<img src=x onerror=alert(1)> wrong list").await;
    let Loaded { page, log } = browser::load(&scene.admin.url("/")).await;
    for (number, parts) in [
        (NUMBER, &["sending", "20.0/s", "configured", "131026 × ", "in hand"][..]),
        (
            OTHER,
            &[
                "paused until it is resumed: &lt;img src=x onerror=alert(1)&gt; wrong list",
                ">250<",
                "never while paused",
            ],
        ),
        (HELD, &["held: Meta works on it, until ", "131057 × "]),
        (IDLE, &["idle", ">0<"]),
    ] {
        let row = row(&page, number);
        for part in parts {
            assert!(row.contains(part), "{number}: {part:?} is missing:\n{row}");
        }
    }
    let unknown_age = r#"data-label="Oldest">–"#;
    assert!(!row(&page, NUMBER).contains(unknown_age), "{}", row(&page, NUMBER));
    assert!(page.contains(r#"<span id="ready" class="good">ready</span>"#), "{page}");
    // Filled: the script itself stands in the page too.
    for filled in [r#"<span id="fresh" class="">as of "#, r#"<span id="worker">worker "#] {
        assert!(page.contains(filled), "{filled}: {page}");
    }
    // By its policy a browser refuses all else, and says so.
    assert!(!log.contains("CONSOLE"), "{log}");
}

#[tokio::test]
async fn a_page_whose_worker_is_gone_does_not_say_that_all_is_well() {
    // Whoever answers here knows the page, and nothing of a worker.
    let page = Html(include_str!("../../src/admin/status.html"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let serving = axum::serve(listener, Router::new().route("/", get(async move || page)));
    let Loaded { page, .. } = tokio::select! {
        loaded = browser::load(&url) => loaded,
        _ended = serving.into_future() => unreachable!("it serves for ever"),
    };
    assert!(page.contains(r#"<span id="ready" class="bad">no answer</span>"#), "{page}");
    assert!(page.contains(r#"<body class="stale">"#), "{page}");
}

#[tokio::test]
#[ignore = "make screenshot"]
async fn a_picture_for_the_documentation() {
    let scene = Scene::set("wrong price list").await;
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images/status.png");
    browser::picture(&scene.admin.url("/"), (1_200, 470), &file).await;
    let phone = file.with_file_name("status-phone.png");
    browser::picture(&scene.admin.url("/"), (500, 900), &phone).await;
}
