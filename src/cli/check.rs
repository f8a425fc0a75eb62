//! `check`: a tick for everything in place, and what to do about each cross.

mod webhooks;

use super::output::{BAD, GOOD, complain, print, print_coloured, print_json, tame};
use super::{End, codes, parts};
use crate::chakra::{PluginError, PluginNumber};
use crate::config::Settings;
use crate::ledger::Ledger;
use crate::queue::rabbitmq::{DeclareError, Names, Topology, definitions, inspect};
use crate::wire::NumberId;
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// So many of the plugin's numbers are shown; it can have hundreds.
const NUMBERS_SHOWN: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender check --config chakra-sender.toml        a tick for everything in place
  chakra-sender check --definitions > definitions.json   for an administrator of RabbitMQ
  chakra-sender check --codes                            what follows from each of Meta's codes")]
pub(super) struct CheckArguments {
    /// Print what an administrator must create in RabbitMQ, in the form that it imports: lanes for
    /// the numbers of [[numbers.override]], and for the plugin's where it can be asked
    #[arg(long)]
    definitions: bool,
    /// Print what each of Meta's error codes means here; a star marks the rows of [[chakra.code]]
    #[arg(long, conflicts_with = "definitions")]
    codes: bool,
    /// One JSON object for each line of the list, or for each row of the code table
    #[arg(long)]
    json: bool,
}

/// One line of the list.
enum Line {
    Tick(String),
    /// Not wrong, but worth knowing.
    Note(String),
    /// What is wrong, and what to do about it.
    Cross(String, String),
}

impl Line {
    /// For a terminal, with colours.
    fn to_text(&self) -> String {
        match self {
            Line::Tick(what) => format!("{GOOD}✓{GOOD:#} {what}\n"),
            Line::Note(what) => format!("· {what}\n"),
            Line::Cross(what, remedy) => format!("{BAD}✗{BAD:#} {what}\n  → {remedy}\n"),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Line::Tick(what) => json!({ "is": "in place", "what": what }),
            Line::Note(what) => json!({ "is": "worth knowing", "what": what }),
            Line::Cross(what, remedy) => json!({ "is": "wrong", "what": what, "remedy": remedy }),
        }
    }
}

pub(super) async fn run(arguments: CheckArguments, settings: Settings) -> anyhow::Result<End> {
    if arguments.definitions {
        return print_definitions(&settings).await;
    }
    if arguments.codes {
        return print_codes(&settings, arguments.json);
    }
    let mut lines = vec![Line::Tick("the configuration is lawful".to_owned())];
    lines.extend(settings.warnings(parts::today()).into_iter().map(Line::Note));
    lines.extend(codes::overridden(&settings.codes).map(Line::Note));
    lines.extend(ledger(&settings));
    let known = account(&settings, &mut lines).await;
    broker(&settings, &known, &mut lines).await;
    show(&lines, arguments.json)
}

/// None where the ledger is in memory.
fn ledger(settings: &Settings) -> Option<Line> {
    let path = settings.ledger.path.as_ref()?;
    Some(match Ledger::look_at(path, settings.ledger.bounds) {
        Ok(()) => Line::Tick("ledger.path can be used".to_owned()),
        Err(reason) => Line::Cross(
            format!("ledger.path: {reason}"),
            "name a folder on a disk with room that the worker's user may write into".to_owned(),
        ),
    })
}

/// Asks ChakraHQ for the plugin's numbers; what is configured must be among them.
async fn account(settings: &Settings, lines: &mut Vec<Line>) -> BTreeSet<NumberId> {
    let overrides: BTreeSet<NumberId> =
        settings.numbers.overrides.iter().map(|number| number.id.clone()).collect();
    if let Err(missing) = settings.require_account() {
        for problem in missing.problems() {
            let reason = format!("{} is not set", problem.key);
            lines.push(Line::Cross(reason, format!("it {}", problem.reason)));
        }
        return overrides;
    }
    let client = match parts::client(settings) {
        Ok(client) => client,
        Err(error) => {
            lines.push(Line::Cross(
                format!("no HTTP client: {error:#}"),
                "mend what it names".into(),
            ));
            return overrides;
        }
    };
    let base = &settings.chakra.base_url;
    let plugin = match client.plugin().await {
        Ok(plugin) => plugin,
        Err(error) => {
            lines.push(Line::Cross(
                format!("ChakraHQ at {base}: {error}"),
                remedy(&error).to_owned(),
            ));
            return overrides;
        }
    };
    if let Some(expected) = &settings.webhook {
        let id = settings.chakra.plugin_id.as_deref().unwrap_or_default();
        let update = format!("{base}/v1/ext/plugin/whatsapp/{id}/update-config");
        lines.extend(webhooks::compare(&plugin.webhooks, expected, &update));
    }
    lines.push(Line::Tick(format!(
        "ChakraHQ answers; the plugin has {}",
        counted(plugin.numbers.len())
    )));
    lines.extend(plugin.numbers.iter().take(NUMBERS_SHOWN).map(|number| Line::Note(shown(number))));
    if let Some(more) = plugin.numbers.len().checked_sub(NUMBERS_SHOWN).filter(|more| *more > 0) {
        lines.push(Line::Note(format!("{} more", counted(more))));
    }
    let numbers: BTreeSet<NumberId> = plugin.numbers.into_iter().map(|number| number.id).collect();
    for stranger in overrides.difference(&numbers) {
        lines.push(Line::Cross(
            format!("number {stranger} is configured, but is not one of the plugin's"),
            "correct its id in [[numbers.override]], or add the number in ChakraHQ".to_owned(),
        ));
    }
    numbers.union(&overrides).cloned().collect()
}

fn counted(numbers: usize) -> String {
    format!("{numbers} {}", if numbers == 1 { "number" } else { "numbers" })
}

/// A number as the plugin tells of it: what a person who looks for its id knows it by.
fn shown(number: &PluginNumber) -> String {
    let PluginNumber { id, name, status, .. } = number;
    let name = name.as_deref().map(|name| format!(" ({})", tame(name))).unwrap_or_default();
    let status = status.as_deref().map(|status| format!(", {}", tame(status))).unwrap_or_default();
    format!("number {id}{name}: at most {} a second{status}", number.ceiling())
}

fn remedy(error: &PluginError) -> &'static str {
    match error {
        PluginError::Token { .. } => {
            "set chakra.token (or chakra.token_file) to a key whose role may use this plugin"
        }
        PluginError::UnknownPlugin => {
            "correct chakra.plugin_id: the last part of the address of the plugin's admin page"
        }
        PluginError::Unreachable(_) => {
            "check chakra.base_url, DNS, the firewall and the proxy on the way"
        }
        PluginError::Unexpected { .. } => "try again; if it stays, ask ChakraHQ with this text",
    }
}

async fn broker(settings: &Settings, numbers: &BTreeSet<NumberId>, lines: &mut Vec<Line>) {
    let numbers: Vec<NumberId> = numbers.iter().cloned().collect();
    let topology = parts::topology(settings);
    let found = inspect(&parts::connection(settings), &topology, &numbers).await;
    match found.connected {
        Ok(()) => lines.push(Line::Tick("RabbitMQ answers and lets us in".to_owned())),
        Err(reason) => lines.push(Line::Cross(
            reason,
            "check that it runs, rabbitmq.uri (host, port, user, password, virtual host) and, for \
             amqps, rabbitmq.ca_file and rabbitmq.client_cert_file or client_p12_file"
                .to_owned(),
        )),
    }
    match found.streams {
        None => {}
        Some(Ok(())) => lines.push(Line::Tick("RabbitMQ has streams".to_owned())),
        Some(Err(reason)) => lines.push(Line::Cross(
            format!("RabbitMQ refuses a stream: {reason}"),
            "rabbitmqctl enable_feature_flag stream_queue; the user needs configure rights on the prefix"
                .to_owned(),
        )),
    }
    match found.topology {
        None => {}
        Some(Ok(())) => {
            lines.push(Line::Tick("all exchanges and queues are there".to_owned()));
        }
        Some(Err(DeclareError::Missing(missing))) if topology.declare => lines.push(Line::Note(
            format!("{} exchanges or queues are missing: a worker makes them", missing.len()),
        )),
        Some(Err(DeclareError::Missing(missing))) => lines.push(Line::Cross(
            format!("missing in RabbitMQ: {}", missing.join(", ")),
            "import what `chakra-sender check --definitions` prints, or allow rabbitmq.declare"
                .to_owned(),
        )),
        Some(Err(DeclareError::Unfit(reason))) => lines.push(Line::Cross(
            format!("a queue cannot be worked with: {reason}"),
            "empty and delete it, or use another rabbitmq.prefix".to_owned(),
        )),
        Some(Err(DeclareError::Interrupted(reason))) => lines.push(Line::Cross(
            format!("looking at the queues was interrupted: {reason}"),
            "try again".to_owned(),
        )),
    }
}

fn show(lines: &[Line], json: bool) -> anyhow::Result<End> {
    match json {
        true => lines.iter().try_for_each(|line| print_json(&line.to_json()))?,
        false => print_coloured(&lines.iter().map(Line::to_text).collect::<String>())?,
    }
    let is_cross = |line: &Line| matches!(line, Line::Cross(..));
    Ok(if lines.iter().any(is_cross) { End::NotWell } else { End::Done })
}

fn print_codes(settings: &Settings, json: bool) -> anyhow::Result<End> {
    match json {
        true => codes::to_json(&settings.codes).try_for_each(|row| print_json(&row))?,
        false => print(codes::render(&settings.codes))?,
    }
    Ok(End::Done)
}

async fn print_definitions(settings: &Settings) -> anyhow::Result<End> {
    let mut lines = Vec::new();
    let numbers = account(settings, &mut lines).await;
    for line in lines {
        if let Line::Cross(what, _) = line {
            complain(what);
        }
    }
    let topology = parts::topology(settings);
    let names = Names::new(&topology.prefix);
    let mut all = Topology::shared(&names, &topology);
    for number in &numbers {
        all.extend(Topology::lane(&names, &topology, number));
    }
    let definitions = definitions(&all, &parts::connection(settings).vhost());
    print(serde_json::to_string_pretty(&definitions)? + "\n")?;
    Ok(End::Done)
}
