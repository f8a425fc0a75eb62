//! A real Prometheus (Debian's package) on a free port of loopback, for a story.

use super::process::{AdminPage, IN_TIME, Process, Program};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;

/// Often, so that a window of some seconds holds enough samples.
const SCRAPE_EVERY: &str = "500ms";

/// Between two questions for what comes by itself.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// One series at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Sample {
    /// A label's value; empty where it has none, as for Prometheus.
    pub(crate) fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// Ends with its value.
pub(crate) struct Prometheus {
    api: AdminPage,
    _process: Process,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    /// Scrapes these addresses under the names of these jobs, and evaluates these rules.
    pub(crate) async fn start(jobs: &[(&str, &[&str])], rules: &str) -> Prometheus {
        let dir = tempfile::tempdir().unwrap();
        let scraped = jobs.iter().map(|(name, targets)| {
            json!({ "job_name": name, "static_configs": [{ "targets": targets }] })
        });
        // JSON is YAML.
        let config = json!({
            "global": { "scrape_interval": SCRAPE_EVERY, "scrape_timeout": SCRAPE_EVERY,
                "evaluation_interval": SCRAPE_EVERY },
            "rule_files": ["rules.yaml"],
            "scrape_configs": scraped.collect::<Vec<_>>(),
        });
        let path = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(path("prometheus.yaml"), config.to_string()).unwrap();
        std::fs::write(path("rules.yaml"), rules).unwrap();
        let arguments = [
            format!("--config.file={}", path("prometheus.yaml")),
            format!("--storage.tsdb.path={}", path("data")),
            "--web.listen-address=127.0.0.1:0".to_owned(),
            "--log.format=json".to_owned(),
        ];
        let mut process = Program::other("prometheus").with(&arguments).start();
        let line = process.err.line("Listening on").await;
        let line: Value = serde_json::from_str(&line).unwrap();
        let api = AdminPage::at(line["address"].as_str().unwrap());
        api.says("/-/ready", 200, "").await;
        Prometheus { api, _process: process, _dir: dir }
    }

    /// What stands under `data` in the answer to a question, or why it is none.
    async fn ask(&self, path: &str) -> Result<Value, String> {
        let (_, body) = self.api.get(path).await.ok_or("no answer")?;
        let answer: Value = serde_json::from_str(&body).map_err(|_| body)?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => Err(answer["error"].to_string()),
        }
    }

    /// What a query shows now.
    pub(crate) async fn query(&self, query: &str) -> Vec<Sample> {
        let encoded: String = form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let data = self.ask(&format!("/api/v1/query?query={encoded}")).await;
        let data = data.unwrap_or_else(|error| panic!("{query}: {error}"));
        let series = data["result"].as_array().unwrap().iter().map(|series| Sample {
            labels: serde_json::from_value(series["metric"].clone()).unwrap(),
            value: series["value"][1].as_str().unwrap().parse().unwrap(),
        });
        series.collect()
    }

    /// Asks until the answer is such.
    pub(crate) async fn until(&self, query: &str, goal: impl Fn(&[Sample]) -> bool) -> Vec<Sample> {
        let mut last = Vec::new();
        let reached = timeout(IN_TIME, async {
            loop {
                last = self.query(query).await;
                if goal(&last) {
                    return;
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        let in_time = reached.await.is_ok();
        assert!(in_time, "{query}\nshows {last:#?}");
        last
    }
}
