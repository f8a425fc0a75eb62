//! `check`: a tick for everything in place, and what to do about each cross.

mod webhooks;

use super::{End, codes, parts};
use crate::chakra::PluginError;
use crate::config::Settings;
use crate::queue::rabbitmq::{DeclareError, Names, Topology, definitions, inspect};
use crate::wire::NumberId;
use clap::Args;
use std::collections::BTreeSet;

#[derive(Debug, Args)]
pub(super) struct CheckArguments {
    /// Print what an administrator must create in RabbitMQ, in the form that it imports: lanes for
    /// the numbers of [[numbers.override]], and for the plugin's where it can be asked
    #[arg(long)]
    definitions: bool,
    /// Print what each of Meta's error codes means here; a star marks the rows of [[chakra.code]]
    #[arg(long, conflicts_with = "definitions")]
    codes: bool,
}

/// One line of the list.
enum Line {
    Tick(String),
    /// Not wrong, but worth knowing.
    Note(String),
    /// What is wrong, and what to do about it.
    Cross(String, String),
}

pub(super) async fn run(arguments: CheckArguments, settings: Settings) -> anyhow::Result<End> {
    if arguments.definitions {
        return print_definitions(&settings).await;
    }
    if arguments.codes {
        return Ok(print_codes(&settings));
    }
    let mut lines = vec![Line::Tick("the configuration is lawful".to_owned())];
    lines.extend(settings.warnings(parts::today()).into_iter().map(Line::Note));
    lines.extend(codes::overridden(&settings.codes).map(Line::Note));
    let known = account(&settings, &mut lines).await;
    broker(&settings, &known, &mut lines).await;
    Ok(show(&lines))
}

/// Asks ChakraHQ for the plugin's numbers; what is configured must be among them.
async fn account(settings: &Settings, lines: &mut Vec<Line>) -> BTreeSet<NumberId> {
    let overrides: BTreeSet<NumberId> =
        settings.numbers.overrides.iter().map(|number| number.id.clone()).collect();
    if let Err(missing) = settings.require_account() {
        for problem in missing.problems {
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
    let numbers: BTreeSet<NumberId> = plugin.numbers.into_iter().map(|number| number.id).collect();
    lines.push(Line::Tick(format!("ChakraHQ answers; the plugin has {} numbers", numbers.len())));
    for stranger in overrides.difference(&numbers) {
        lines.push(Line::Cross(
            format!("number {stranger} is configured, but is not one of the plugin's"),
            "correct its id in [[numbers.override]], or add the number in ChakraHQ".to_owned(),
        ));
    }
    numbers.union(&overrides).cloned().collect()
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
            format!("RabbitMQ: {reason}"),
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

#[expect(clippy::print_stdout, reason = "the list is what the command is for")]
fn show(lines: &[Line]) -> End {
    let mut end = End::Done;
    for line in lines {
        match line {
            Line::Tick(what) => println!("✓ {what}"),
            Line::Note(what) => println!("· {what}"),
            Line::Cross(what, remedy) => {
                end = End::NotWell;
                println!("✗ {what}\n  → {remedy}");
            }
        }
    }
    end
}

#[expect(clippy::print_stdout, reason = "stdout is data")]
fn print_codes(settings: &Settings) -> End {
    print!("{}", codes::render(&settings.codes));
    End::Done
}

#[expect(clippy::print_stdout, reason = "stdout is data")]
#[expect(clippy::print_stderr, reason = "stderr is for people")]
async fn print_definitions(settings: &Settings) -> anyhow::Result<End> {
    let mut lines = Vec::new();
    let numbers = account(settings, &mut lines).await;
    for line in lines {
        if let Line::Cross(what, _) = line {
            eprintln!("chakra-sender: {what}");
        }
    }
    let topology = parts::topology(settings);
    let names = Names::new(&topology.prefix);
    let mut all = Topology::shared(&names, &topology);
    for number in &numbers {
        all.extend(Topology::lane(&names, &topology, number));
    }
    let definitions = definitions(&all, &parts::connection(settings).vhost());
    println!("{}", serde_json::to_string_pretty(&definitions)?);
    Ok(End::Done)
}
