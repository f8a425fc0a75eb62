//! Follows `chakra.token_file`: a key that is rotated there is taken while the program runs. Says what
//! is wrong with the file, never what stands in it.

use crate::chakra::Client;
use crate::config::{self, without_newline};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Between two looks at the file. A refused key makes a look at once.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the file again and again until stopped, and at once when `now` says so. What cannot be taken is
/// told once, and the old key is kept.
pub(super) async fn follow(
    file: PathBuf,
    client: Client,
    now: Arc<Notify>,
    stop: CancellationToken,
) {
    let mut told = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = client.token_refused() => {}
            () = now.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        match look(&file, &client).await {
            Ok(true) => {
                tracing::info!("took a new token from chakra.token_file");
                told = None;
            }
            Ok(false) => told = None,
            Err(error) => {
                let error = format!("{error:#}");
                if told.as_ref() != Some(&error) {
                    tracing::warn!(error, "chakra.token_file is not taken: the old token is kept");
                    told = Some(error);
                }
            }
        }
    }
}

/// True where there is a new token.
async fn look(file: &Path, client: &Client) -> anyhow::Result<bool> {
    let read = file.to_owned();
    let text = tokio::task::spawn_blocking(move || config::read_text(&read)).await?;
    let text = text.with_context(|| format!("reading {}", file.display()))?;
    Ok(client.replace_token(&without_newline(&text).into())?)
}
