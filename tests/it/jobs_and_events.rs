//! `docs/jobs-and-events.md`: what it shows is lawful, and no word of the contract goes unexplained.

use crate::asyncapi::checked;
use crate::readme::readme;
use crate::support::broker::Broker;
use crate::support::process::Program;
use bytes::Bytes;
use chakra_sender::queue::rabbitmq::topology::{Names, Topology};
use chakra_sender::wire::{SendJob, event_schema, job_schema};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;

fn page() -> String {
    std::fs::read_to_string(docs().join("jobs-and-events.md")).unwrap()
}

fn docs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs")
}

/// What stands between the fences of this language.
pub(crate) fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_jobs_and_events_that_it_shows_are_lawful() {
    let (mut jobs, mut events) = (0, Vec::new());
    for block in blocks(&page(), "json") {
        let shown: Value = serde_json::from_str(&block).unwrap();
        match shown["event"].as_str() {
            Some(event) => events.push(json!({ "message": event, "payload": shown })),
            None if block.contains("{{") => {}
            None => {
                SendJob::parse(&Bytes::from(block), None).unwrap();
                jobs += 1;
            }
        }
    }
    assert_eq!((jobs, events.len()), (1, 2));
    checked(&events);
}

#[tokio::test]
async fn its_table_and_template_can_be_enqueued() {
    let (page, folder) = (page(), tempfile::tempdir().unwrap());
    let template = blocks(&page, "json").into_iter().find(|block| block.contains("{{")).unwrap();
    let [table, template] =
        [("people.csv", "phone,name\n+999000000001,Ann\n"), ("job.json", &template)].map(
            |(name, text)| {
                std::fs::write(folder.path().join(name), text).unwrap();
                folder.path().join(name).display().to_string()
            },
        );
    let commands = blocks(&page, "sh").concat();
    let command = commands.lines().find(|line| line.ends_with("--dry-run")).unwrap();
    let command = command.replace("people.csv", &table).replace("job.json", &template);
    let arguments: Vec<&str> = command.split(' ').skip(1).collect();
    let ended = Program::new(&arguments).on(&Broker::shared()).run().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said());
    assert!(ended.said().contains("1 job, about 1 s at "), "{}", ended.said());
}

#[test]
fn every_field_and_every_word_is_explained() {
    let page = page();
    let (job, event) = (job_schema(), event_schema());
    let mut words: BTreeSet<String> =
        job["properties"].as_object().unwrap().keys().cloned().collect();
    for (schema, of) in [
        (&job, "Priority"),
        (&job, "OnDoubt"),
        (&event, "Status"),
        (&event, "Class"),
        (&event, "Scope"),
        (&event, "DeliveryStatus"),
    ] {
        let options = schema["$defs"][of]["oneOf"].as_array().unwrap();
        words.extend(options.iter().map(|option| option["const"].as_str().unwrap().to_owned()));
    }
    let silent: Vec<&String> =
        words.iter().filter(|word| !page.contains(&format!("`{word}`"))).collect();
    assert!(silent.is_empty(), "not explained: {silent:?}");
    for of in ["ResultEvent", "StatusEvent", "ErrorBody"] {
        for key in event["$defs"][of]["properties"].as_object().unwrap().keys() {
            assert!(page.contains(&format!("\"{key}\":")), "{of}.{key} is not shown");
        }
    }
}

#[test]
fn the_names_and_the_links_in_it_lead_somewhere() {
    let page = page();
    let topology = Topology::shared(&Names::new("chakra"), &Broker::shared().settings().topology);
    let exchanges = topology.exchanges.iter().map(|exchange| exchange.name.as_str());
    let queues = topology.queues.iter().map(|queue| queue.name.as_str());
    let names: BTreeSet<&str> = exchanges.chain(queues).collect();
    let written = page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("chakra."));
    let unknown: Vec<&str> = written.filter(|name| !names.contains(name)).collect();
    assert!(unknown.is_empty(), "no such names: {unknown:?}");
    let examples = std::fs::read_to_string(docs().join("examples/README.md")).unwrap();
    let (root, readme) = (docs().join(".."), readme());
    for (text, folder) in [(&page, docs()), (&examples, docs().join("examples")), (&readme, root)] {
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            if file.starts_with("https://") {
                continue;
            }
            let target = match file {
                "" => text.clone(),
                file if heading.is_empty() => {
                    assert!(folder.join(file).exists(), "{link}");
                    continue;
                }
                file => std::fs::read_to_string(folder.join(file)).unwrap(),
            };
            let anchors = target.lines().filter(|line| line.starts_with('#')).map(anchor);
            assert!(
                heading.is_empty() || anchors.collect::<Vec<_>>().contains(&heading.into()),
                "{link}"
            );
        }
    }
}

/// A heading's, as the usual viewers of Markdown make it.
fn anchor(heading: &str) -> String {
    let heading = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
