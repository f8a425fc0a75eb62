//! `sandbox`: a fake ChakraHQ on this machine.

use super::output::{print_json, tell};
use super::{End, Usage, under_signals};
use crate::config::read_text;
use crate::sandbox::{COMPILED_IN, Sandbox, SandboxConfig};
use anyhow::Context;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chakra-sender sandbox                                                        then, elsewhere, the three exports that it prints
  chakra-sender sandbox --sandbox-config faults.toml --listen 127.0.0.1:8080   with faults and limits of your own")]
pub(super) struct SandboxArguments {
    /// Numbers, limits, faults and listings in TOML; without it the built-in config/sandbox.toml
    #[arg(long, value_name = "FILE")]
    sandbox_config: Option<PathBuf>,
    /// Where to listen, instead of what the file says
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<std::net::SocketAddr>,
    /// Where to post webhooks, instead of what the file says
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Where it listens and who may send to it, as a JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: SandboxArguments) -> anyhow::Result<End> {
    let mut config = match &arguments.sandbox_config {
        None => SandboxConfig::from_toml(COMPILED_IN)?,
        Some(path) => {
            let text = read_text(path).with_context(|| format!("reading {}", path.display()))?;
            let of_file = |error| Usage(format!("{}: {error}", path.display()));
            SandboxConfig::from_toml(&text).map_err(of_file)?
        }
    };
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    if arguments.webhook.is_some() {
        config.webhook.url = arguments.webhook;
    }
    let stop = CancellationToken::new();
    under_signals(&stop, serve(config, arguments.json, &stop)).await
}

/// Until it is told to stop.
async fn serve(config: SandboxConfig, json: bool, stop: &CancellationToken) -> anyhow::Result<End> {
    let (token, plugin) = (config.token.clone(), config.plugin_id.clone());
    let listen = config.listen;
    let sandbox = Sandbox::start(config).await;
    let sandbox = sandbox.with_context(|| format!("starting the sandbox on {listen}"))?;
    let url = sandbox.base_url();
    if json {
        print_json(&json!({ "base_url": url, "token": token, "plugin_id": plugin }))?;
    }
    tell(format_args!(
        "A fake ChakraHQ listens on {url}. To send to it:\n\
         \u{20} export CHAKRA_SENDER__CHAKRA__BASE_URL={url}\n\
         \u{20} export CHAKRA_SENDER__CHAKRA__TOKEN={token}\n\
         \u{20} export CHAKRA_SENDER__CHAKRA__PLUGIN_ID={plugin}\n\
         What it took in: {url}/sandbox/record. Ctrl-C ends it."
    ));
    stop.cancelled().await;
    sandbox.stop().await;
    Ok(End::Done)
}
