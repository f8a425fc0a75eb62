//! deploy/compose.yaml: lawful, whole, and its parts fit together. They are started without containers.

use super::{image, longest_stop, path, read, texts, tool, well, yaml};
use crate::support::broker::Broker;
use crate::support::process::Program;
use crate::support::webhook::Hook;
use chakra_sender::sandbox::{Sandbox, SandboxConfig};
use serde_json::Value;
use std::process::Command;
use tempfile::tempdir;

fn compose() -> Value {
    yaml(&read("deploy/compose.yaml")).remove(0)
}

#[test]
fn it_is_what_the_compose_specification_allows() {
    let file = path("deploy/compose.yaml");
    well(tool("check-jsonschema").args(["--builtin-schema", "vendor.compose-spec"]).arg(file));
}

#[test]
fn every_file_that_it_names_is_there() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap().values();
    let mounts = services.filter_map(|service| service.get("volumes")).flat_map(texts);
    let mounted = mounts.filter_map(|mount| mount.split(':').next());
    let secrets = compose["secrets"].as_object().unwrap().values();
    let all = mounted.chain(secrets.map(|secret| secret["file"].as_str().unwrap()));
    for file in all.filter(|source| source.starts_with('.')) {
        assert!(path("deploy").join(file).exists(), "{file}");
    }
}

#[test]
fn every_port_is_open_to_this_machine_only() {
    for (name, service) in compose()["services"].as_object().unwrap() {
        for port in service.get("ports").map(texts).unwrap_or_default() {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
}

#[test]
fn our_parts_run_this_version_without_rights_and_have_time_to_stop() {
    let services = &compose()["services"];
    for name in ["worker", "sandbox"] {
        let service = &services[name];
        assert_eq!(service["image"], image(), "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
    }
    let grace = services["worker"]["stop_grace_period"].as_str().unwrap();
    assert_eq!(grace, format!("{}s", longest_stop()));
}

#[test]
fn prometheus_takes_its_configuration_and_the_alerts() {
    let dir = tempdir().unwrap();
    for (file, name) in [
        ("deploy/compose/prometheus.yaml", "prometheus.yml"),
        ("deploy/prometheus/alerts.yaml", "alerts.yaml"),
    ] {
        std::fs::copy(path(file), dir.path().join(name)).unwrap();
    }
    well(Command::new("promtool").args(["check", "config", "prometheus.yml"]).current_dir(&dir));
}

#[test]
fn grafana_finds_the_datasource_and_the_dashboard() {
    let compose = compose();
    let mounts = texts(&compose["services"]["grafana"]["volumes"]);
    let to = |file: &str| {
        let mount = mounts.iter().find_map(|mount| mount.strip_prefix(file));
        mount.unwrap().trim_matches(':').trim_end_matches(":ro").to_owned()
    };
    let dashboard = to("./grafana/dashboard.json");
    let providers = &yaml(&read("deploy/compose/grafana/dashboards.yaml"))[0]["providers"];
    let folder = providers[0]["options"]["path"].as_str().unwrap();
    assert!(dashboard.starts_with(&format!("{folder}/")), "{dashboard} is not in {folder}");
    let home =
        &compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    assert_eq!(*home, dashboard);
    let datasource = &yaml(&read("deploy/compose/grafana/datasources.yaml"))[0]["datasources"][0];
    assert_eq!(
        (&datasource["type"], &datasource["isDefault"]),
        (&"prometheus".into(), &true.into())
    );
    let scraped = &yaml(&read("deploy/compose/prometheus.yaml"))[0]["global"]["scrape_interval"];
    assert_eq!(datasource["jsonData"]["timeInterval"], *scraped);
}

/// A worker's environment, with addresses of this story in place of those of the containers.
fn environment(replaced: &[(&str, &str)]) -> Vec<(String, String)> {
    let compose = compose();
    let environment = compose["services"]["worker"]["environment"].as_object().unwrap();
    let here = |value: &Value| {
        let value = value.as_str().unwrap();
        if let Some(secret) = value.strip_prefix("/run/secrets/") {
            let file = compose["secrets"][secret]["file"].as_str().unwrap();
            return path("deploy").join(file).display().to_string();
        }
        replaced.iter().fold(value.to_owned(), |value, (from, to)| value.replace(from, to))
    };
    environment.iter().map(|(name, value)| (name.clone(), here(value))).collect()
}

#[tokio::test]
async fn its_parts_send_and_hear_what_became_of_it() {
    let broker = Broker::prepared(|dir| {
        let users = path("deploy/compose/users.json").display().to_string();
        let conf = read("deploy/compose/rabbitmq.conf").replace("/etc/rabbitmq/users.json", &users);
        std::fs::write(dir.join("extra.conf"), conf).unwrap();
    });
    let mut config = SandboxConfig::from_toml(&read("deploy/compose/sandbox.toml")).unwrap();
    let mut webhook = config.webhook.clone();
    config.listen = "127.0.0.1:0".parse().unwrap();
    config.webhook.url = None;
    // Else a job of the few could meet one.
    config.faults.clear();
    webhook.failed.clear();
    let sandbox = Sandbox::start(config).await.unwrap();

    let ledger = tempdir().unwrap();
    let environment = environment(&[
        ("http://sandbox:8900", &sandbox.base_url()),
        ("rabbitmq:5672", &format!("127.0.0.1:{}", broker.node().port)),
        ("/var/lib/chakra-sender", ledger.path().to_str().unwrap()),
        ("0.0.0.0:9464", "127.0.0.1:0"),
        ("0.0.0.0:9465", "127.0.0.1:0"),
    ]);
    let program = |arguments: &[&str]| {
        let program = Program::new(arguments).set("log.format", "json");
        environment.iter().fold(program, |program, (name, value)| program.env(name, value))
    };
    let mut worker = program(&["worker"]).start();
    let admin = worker.admin().await;
    let hook = Hook::of(&mut worker).await;
    let told = webhook.url.unwrap().replace("http://worker:9465/webhook", &hook.url());
    webhook.url = Some(told);
    sandbox.set_webhook(webhook).unwrap();
    admin.ready().await;
    let mut results = program(&["results"]).start();
    results.err.line("following").await;
    let jobs = path("config/jobs.example.jsonl").display().to_string();
    let put = program(&["enqueue", &jobs]).run().await;
    assert_eq!(put.code, Some(0), "{}", put.said());
    results.out.line(r#""event":"result""#).await;
    results.out.line(r#""status":"delivered""#).await;
}
