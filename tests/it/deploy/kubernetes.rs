//! deploy/kubernetes: rendered as `kubectl apply -k` does it, held against the schemas of Kubernetes, and its
//! parts against each other.

use super::{
    BEYOND_THE_DRAIN, check, guest_of, image, longest_stop, path, read, texts, tool, well, yaml,
};
use crate::support::broker::Broker;
use crate::support::process::{TOKEN, sandbox};
use chakra_sender::sandbox::SandboxConfig;
use serde_json::Value;
use std::path::Path;
use tempfile::tempdir;

/// The oldest that it is for, and the newest that the schemas know.
const VERSIONS: [&str; 2] = ["1.30", "1.37"];

fn kustomize(folder: &Path) -> String {
    well(tool("kubectl").arg("kustomize").arg(folder)).0
}

/// The objects of base and PodMonitor.
struct Objects(Vec<Value>);

impl Objects {
    fn all() -> Objects {
        Objects(yaml(&kustomize(&path("deploy/kubernetes/with-prometheus-operator"))))
    }

    fn only(&self, kind: &str) -> &Value {
        let mut found = self.0.iter().filter(|object| object["kind"] == kind);
        let one = found.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(found.next().is_none(), "more than one {kind}");
        one
    }

    fn pod(&self) -> &Value {
        &self.only("StatefulSet")["spec"]["template"]
    }

    fn container(&self) -> &Value {
        &self.pod()["spec"]["containers"][0]
    }

    /// The name of the worker's port.
    fn port(&self, name: &Value) -> &Value {
        let ports = self.container()["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == *name);
        &port.unwrap_or_else(|| panic!("the container has no port {name}"))["containerPort"]
    }
}

#[test]
fn kubernetes_takes_every_object() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("base.yaml");
    std::fs::write(&file, kustomize(&path("deploy/kubernetes/base"))).unwrap();
    for version in VERSIONS {
        let mut validate = tool("kubernetes-validate");
        validate.args(["--strict", "--kubernetes-version", version]).arg(&file);
        let (out, err) = well(&mut validate);
        // Of a kind that it does not know it only warns.
        assert!(!format!("{out}{err}").contains("WARN"), "{out}{err}");
    }
}

#[test]
fn the_overlay_of_the_readme_gets_its_own_image_and_settings() {
    let dir = tempdir().unwrap();
    let readme = read("deploy/README.md");
    let (_, overlay) = readme.split_once("```yaml\n").unwrap();
    let (overlay, _) = overlay.split_once("```").unwrap();
    let own = dir.path().join("my");
    for folder in ["base", "with-prometheus-operator"] {
        copy(
            &path("deploy/kubernetes").join(folder),
            &dir.path().join("deploy/kubernetes").join(folder),
        );
    }
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("kustomization.yaml"), overlay).unwrap();
    std::fs::write(own.join("chakra-sender.toml"), "# mine").unwrap();
    let objects = Objects(yaml(&kustomize(&own)));
    let image = objects.container()["image"].as_str().unwrap();
    assert_eq!(image, format!("registry.example.com/{}", super::image()));
    let map = objects.only("ConfigMap");
    assert_eq!(map["data"]["chakra-sender.toml"], "# mine");
    assert_eq!(objects.pod()["spec"]["volumes"][0]["configMap"]["name"], map["metadata"]["name"]);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let file = entry.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn everything_that_selects_the_workers_finds_them() {
    let objects = Objects::all();
    let labels = objects.pod()["metadata"]["labels"].as_object().unwrap();
    let mut selectors = Vec::new();
    for object in &objects.0 {
        let spec = &object["spec"];
        let selector = match object["kind"].as_str().unwrap() {
            "StatefulSet" | "PodDisruptionBudget" | "PodMonitor" => {
                &spec["selector"]["matchLabels"]
            }
            "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
            "Service" => &spec["selector"],
            "Namespace" | "ServiceAccount" | "ConfigMap" => continue,
            other => panic!("a kind that is not looked at: {other}"),
        };
        selectors.push(selector);
    }
    assert_eq!(selectors.len(), 6);
    for selector in selectors {
        let selector = selector.as_object().unwrap();
        assert!(!selector.is_empty());
        for (label, value) in selector {
            assert_eq!(labels.get(label), Some(value), "{label}");
        }
    }
}

#[test]
fn a_pod_is_this_version_without_rights_and_has_time_to_stop() {
    let objects = Objects::all();
    let (pod, container) = (&objects.pod()["spec"], objects.container());
    assert_eq!(container["image"], image());
    assert_eq!(pod["terminationGracePeriodSeconds"], longest_stop());
    let before = container["lifecycle"]["preStop"]["sleep"]["seconds"].as_u64().unwrap();
    assert!(before < BEYOND_THE_DRAIN, "the drain begins {before} s later");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let rights = &container["securityContext"];
    assert_eq!(rights["readOnlyRootFilesystem"], true);
    assert_eq!(rights["allowPrivilegeEscalation"], false);
    assert_eq!(texts(&rights["capabilities"]["drop"]), ["ALL"]);
    for (of, amount) in [("requests", "cpu"), ("requests", "memory"), ("limits", "memory")] {
        assert!(container["resources"][of][amount].is_string(), "{of}.{amount}");
    }
}

#[test]
fn probes_services_policies_and_the_monitor_name_ports_of_the_worker() {
    let objects = Objects::all();
    let container = objects.container();
    for (probe, at) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = &container[probe]["httpGet"];
        assert_eq!((get["path"].as_str(), objects.port(&get["port"])), (Some(at), &9464.into()));
    }
    for service in objects.0.iter().filter(|object| object["kind"] == "Service") {
        objects.port(&service["spec"]["ports"][0]["targetPort"]);
    }
    for rule in objects.only("NetworkPolicy")["spec"]["ingress"].as_array().unwrap() {
        objects.port(&rule["ports"][0]["port"]);
    }
    let monitor = objects.only("PodMonitor");
    assert_eq!(monitor["apiVersion"], "monitoring.coreos.com/v1");
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    assert_eq!(
        (endpoint["path"].as_str(), objects.port(&endpoint["port"])),
        (Some("/metrics"), &9464.into())
    );
    // What the alerts know the workers by.
    let job = monitor["spec"]["jobLabel"].as_str().unwrap();
    assert_eq!(objects.pod()["metadata"]["labels"][job], "chakra-sender");
}

#[test]
fn the_ledger_has_a_volume_that_outlives_its_pod() {
    let objects = Objects::all();
    let claims = &objects.only("StatefulSet")["spec"]["volumeClaimTemplates"];
    let mounts = objects.container()["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == claims[0]["metadata"]["name"]).unwrap();
    let settings: toml::Table = read("deploy/kubernetes/base/chakra-sender.toml").parse().unwrap();
    let ledger = settings["ledger"]["path"].as_str().unwrap();
    assert!(ledger.starts_with(mount["mountPath"].as_str().unwrap()), "{ledger}");
}

#[tokio::test]
async fn the_program_takes_the_settings_of_the_config_map() {
    let objects = Objects::all();
    let (pod, map) = (&objects.pod()["spec"], objects.only("ConfigMap"));
    let volumes = pod["volumes"].as_array().unwrap();
    let volume = |name: &str| volumes.iter().find(|volume| volume["name"] == name).unwrap();
    assert_eq!(volume("settings")["configMap"]["name"], map["metadata"]["name"], "with its hash");
    assert_eq!(texts(&objects.container()["args"])[..2], ["worker", "--config"]);

    let (sandbox, broker, dir) = (sandbox(|_| {}).await, Broker::shared(), tempdir().unwrap());
    let folder = "/run/secrets/chakra-sender";
    let mounts = objects.container()["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["mountPath"] == folder));
    for (name, secret) in
        [("chakra-token", TOKEN), ("rabbitmq-password", "guest"), ("webhook-secret", "hmac")]
    {
        std::fs::write(dir.path().join(name), secret).unwrap();
    }
    let settings = map["data"]["chakra-sender.toml"].as_str().unwrap();
    let here = settings
        .replace(folder, dir.path().to_str().unwrap())
        .replace("00000000-0000-0000-0000-000000000000", &SandboxConfig::default().plugin_id)
        .replace("chakra-worker@rabbitmq.rabbitmq.svc:5672", &guest_of(&broker));
    let at = ("CHAKRA_SENDER__CHAKRA__BASE_URL".to_owned(), sandbox.base_url());
    let checked = check(&dir, &here, &[at]).await;
    assert_eq!(checked.code, Some(0), "{}", checked.said());
}
