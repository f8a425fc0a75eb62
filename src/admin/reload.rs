//! `POST /reload`: asks the worker to read its settings again, as SIGHUP does, and tells what came of it. Reads
//! no settings itself, nor the request's body.

use super::bearer::{Entry, entry};
use super::json;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Reading a file and changing gates takes milliseconds.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// What came of reading the settings again. All of it can be shown: secrets are hidden in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// They were lawful.
    Applied {
        /// What holds now, one change each.
        changed: Vec<String>,
        /// What takes effect at the next start.
        at_restart: Vec<String>,
    },
    /// They were not, and nothing has changed.
    Refused {
        /// At least one.
        problems: Vec<String>,
    },
}

/// Who may ask for it, and whom.
#[derive(Clone)]
pub struct Reloads {
    /// None: nobody may.
    pub token: Option<SecretString>,
    /// Asks. None while nobody would answer; so is an answer that is given up.
    pub ask: Arc<dyn Fn() -> Option<oneshot::Receiver<Reloaded>> + Send + Sync>,
}

pub(super) async fn reload(State(reloads): State<Reloads>, headers: HeaderMap) -> Response {
    let header = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
    match entry(reloads.token.as_ref(), header) {
        Entry::Open => {}
        Entry::Closed => return (StatusCode::FORBIDDEN, "set admin.token\n").into_response(),
        Entry::Unauthorized => {
            let needs = "needs the header Authorization: Bearer <admin.token>\n";
            return (StatusCode::UNAUTHORIZED, [(WWW_AUTHENTICATE, "Bearer")], needs)
                .into_response();
        }
    }
    let reloaded = match (reloads.ask)() {
        Some(answer) => timeout(ANSWERED_WITHIN, answer).await.ok().and_then(Result::ok),
        None => None,
    };
    match reloaded {
        Some(Reloaded::Applied { changed, at_restart }) => {
            json(&json!({ "changed": changed, "at_restart": at_restart }))
        }
        Some(Reloaded::Refused { problems }) => {
            (StatusCode::UNPROCESSABLE_ENTITY, json(&json!({ "problems": problems })))
                .into_response()
        }
        None => {
            let cannot = "starting, stopping or busy: ask again\n";
            (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], cannot).into_response()
        }
    }
}
