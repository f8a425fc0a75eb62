//! The alerts of `deploy/prometheus`: lawful, each tried by promtool in trouble and in health, and each
//! with its entry in the runbook. That they fire with real workers is told in `alerts_fire.rs`.

use std::collections::BTreeSet;
use std::process::Command;

const METRICS: &str = include_str!("../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../deploy/grafana/dashboard.json");
const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yaml");
const CASES: &str = include_str!("../../deploy/prometheus/alerts.test.yaml");
const RUNBOOK: &str = include_str!("../../docs/operations.md");

/// What follows this on each line that begins with it.
fn after<'a>(text: &'a str, begin: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(begin)).collect()
}

fn names() -> Vec<&'static str> {
    after(ALERTS, "- alert: ")
}

/// Runs promtool on a file of ours. It must be content.
fn promtool(arguments: &[&str], file: &str) {
    let file = format!("{}/deploy/prometheus/{file}", env!("CARGO_MANIFEST_DIR"));
    let done = Command::new("promtool").args(arguments).arg(file).output();
    let done = done.expect("promtool of Debian's package prometheus: tests/needs installs it");
    let said = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn promtool_finds_the_rules_lawful_and_each_alert_as_its_cases_have_it() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], "alerts.yaml");
    promtool(&["test", "rules"], "alerts.test.yaml");
}

#[test]
fn each_alert_has_a_case_in_which_it_fires_and_is_silent_in_health() {
    let fires = after(CASES, "alertname: ");
    let healthy = after(CASES, "- {eval_time: 2h, alertname: ");
    let healthy: Vec<&str> = healthy.iter().map(|name| name.trim_end_matches('}')).collect();
    assert_eq!((fires, healthy), (names(), names()));
}

#[test]
fn each_alert_leads_to_its_entry_in_the_runbook_and_each_entry_is_of_an_alert() {
    let entry = |name: &&str| format!("docs/operations.md#{}", name.to_lowercase());
    let linked: Vec<String> = names().iter().map(entry).collect();
    assert_eq!(after(ALERTS, "runbook_url: "), linked);
    let headings = after(RUNBOOK, "### ");
    let of_alerts = headings.iter().filter(|heading| heading.starts_with("ChakraSender"));
    assert_eq!(of_alerts.copied().collect::<Vec<_>>(), names());
}

#[test]
fn each_entry_of_the_runbook_names_a_command_to_type() {
    for name in names() {
        let (_, entry) = RUNBOOK.split_once(&format!("\n### {name}\n")).unwrap();
        let entry = entry.split("\n##").next().unwrap();
        let (said, command) = entry.split_once("```sh\n").unwrap_or_else(|| panic!("{name}"));
        assert!(said.trim().len() > 80, "{name} does not say what it means");
        assert!(command.split("```").next().unwrap().lines().count() > 0, "{name}");
    }
}

#[test]
fn each_metric_that_an_alert_or_a_panel_asks_for_is_declared() {
    let declared: BTreeSet<&str> =
        after(METRICS, "| `").iter().map(|line| line.split('`').next().unwrap()).collect();
    assert!(declared.len() > 30, "{declared:?}");
    let mut missing = BTreeSet::new();
    for text in [ALERTS, CASES, DASHBOARD] {
        for (at, _) in text.match_indices("chakra_sender_") {
            let end = text[at..].find(|c: char| !(c.is_ascii_lowercase() || c == '_')).unwrap();
            let name = &text[at..at + end];
            let of_histogram = name.strip_suffix("_bucket").unwrap_or(name);
            if !declared.contains(name) && !declared.contains(of_histogram) {
                missing.insert(name);
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
}

#[test]
fn each_alert_says_what_it_is_about() {
    for key in ["summary: ", "description: ", "labels: {severity: "] {
        assert_eq!(after(ALERTS, key).len(), names().len(), "{key}");
    }
}
