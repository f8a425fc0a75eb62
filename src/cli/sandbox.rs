//! `sandbox`: a fake ChakraHQ on this machine.

use super::End;
use crate::sandbox::{COMPILED_IN, Sandbox, SandboxConfig};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
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
}

#[expect(clippy::print_stderr, reason = "stderr is for people")]
pub(super) async fn run(arguments: SandboxArguments) -> anyhow::Result<End> {
    let mut config = match &arguments.sandbox_config {
        None => SandboxConfig::from_toml(COMPILED_IN)?,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("reading {}", path.display()))?;
            SandboxConfig::from_toml(&text).with_context(|| format!("in {}", path.display()))?
        }
    };
    if let Some(listen) = arguments.listen {
        config.listen = listen;
    }
    if arguments.webhook.is_some() {
        config.webhook.url = arguments.webhook;
    }
    let (token, plugin) = (config.token.clone(), config.plugin_id.clone());
    let sandbox = Sandbox::start(config).await.context("starting the sandbox")?;
    eprintln!("A fake ChakraHQ listens on {}. To send to it:", sandbox.base_url());
    eprintln!("  export CHAKRA_SENDER__CHAKRA__BASE_URL={}", sandbox.base_url());
    eprintln!("  export CHAKRA_SENDER__CHAKRA__TOKEN={token}");
    eprintln!("  export CHAKRA_SENDER__CHAKRA__PLUGIN_ID={plugin}");
    eprintln!("What it took in: {}/sandbox/record. Ctrl-C ends it.", sandbox.base_url());
    tokio::signal::ctrl_c().await.context("listening for Ctrl-C")?;
    sandbox.stop().await;
    Ok(End::Done)
}
