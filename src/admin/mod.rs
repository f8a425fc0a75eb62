//! The HTTP listener for operators: is it alive, is it ready, what does it count, how stands it with each
//! phone number, what is known of a job. To look needs no token; the one call that changes anything, to read
//! the settings again, needs `admin.token`. Serves until it is told to stop, which is after the drain.

mod bearer;
mod reload;
mod status;

pub use reload::{Reloaded, Reloads};

use crate::listener::{Bounds, Listener};
use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::wire::JobId;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A few scrapers and probes need one connection each. Idle ones are kept for longer than the usual
/// scrape interval.
const BOUNDS: Bounds = Bounds { name: "admin", connections: 64, header: Duration::from_secs(90) };

/// Pages as they are when asked: who serves them does not know what stands there.
#[derive(Clone)]
pub struct Pages {
    /// `/numbers`
    pub numbers: Arc<dyn Fn() -> Value + Send + Sync>,
    /// `/jobs/{id}`. It may block.
    pub job: Arc<dyn Fn(&JobId) -> Value + Send + Sync>,
}

/// The listener, bound but not yet answering.
#[derive(Debug)]
pub struct Admin(Listener);

impl Admin {
    /// Takes the address. Fails when another process has it.
    pub async fn bind(address: SocketAddr) -> io::Result<Admin> {
        Ok(Admin(Listener::bind(address).await?))
    }

    /// The address taken, with the port that the system chose for port 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr()
    }

    /// Answers until `stop`, and then for as long as answers under way need, bounded.
    pub async fn serve(
        self,
        metrics: Arc<Metrics>,
        readiness: Readiness,
        pages: Pages,
        reloads: Reloads,
        stop: CancellationToken,
    ) {
        let routes = routes(metrics, readiness, pages, reloads);
        self.0.serve(TowerToHyperService::new(routes), BOUNDS, stop).await;
    }
}

fn routes(metrics: Arc<Metrics>, readiness: Readiness, pages: Pages, reloads: Reloads) -> Router {
    let Pages { numbers, job } = pages;
    Router::new()
        .route("/", get(status::page))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness.clone()))
        .route("/metrics", get(render).with_state((metrics, readiness)))
        .route("/numbers", get(async move || json(&numbers())))
        .route("/jobs/{id}", get(async move |Path(id): Path<String>| look_up(&id, job).await))
        .route("/reload", post(reload::reload).with_state(reloads))
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.report();
    if missing.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n").into_response()
}

async fn render(State((metrics, readiness)): State<(Arc<Metrics>, Readiness)>) -> Response {
    metrics.ready(readiness.report().is_empty());
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn look_up(id: &str, page: Arc<dyn Fn(&JobId) -> Value + Send + Sync>) -> Response {
    let id = match JobId::parse(id) {
        Ok(id) => id,
        Err(reason) => return (StatusCode::BAD_REQUEST, reason + "\n").into_response(),
    };
    match tokio::task::spawn_blocking(move || page(&id)).await {
        Ok(page) => json(&page),
        Err(defect) => {
            tracing::error!(%defect, "what is known of a job cannot be told");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn json(page: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], page.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::SecretString;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;

    /// A listener that answers, until the end of the story.
    struct Serving {
        address: SocketAddr,
        readiness: Readiness,
        _serving: JoinSet<()>,
    }

    impl Serving {
        async fn start() -> Serving {
            Serving::reloading(None, None).await
        }

        /// With a token, and with what comes of reading the settings again; none: nobody answers.
        async fn reloading(token: Option<&str>, reloaded: Option<Reloaded>) -> Serving {
            let admin = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
            let address = admin.local_addr();
            let readiness = Readiness::new(&["rabbitmq"]);
            let metrics = Arc::new(Metrics::new().unwrap());
            let mut serving = JoinSet::new();
            let pages = Pages {
                numbers: Arc::new(|| serde_json::json!([{ "number": "1027" }])),
                job: Arc::new(|id| serde_json::json!({ "jobs": [id] })),
            };
            let stop = CancellationToken::new();
            let token = token.map(SecretString::from);
            let reloads = Reloads { token, ask: Arc::new(move || answer(reloaded.clone()?)) };
            serving.spawn(admin.serve(metrics, readiness.clone(), pages, reloads, stop));
            Serving { address, readiness, _serving: serving }
        }

        /// The whole answer, header and body, as text.
        async fn ask(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            let request = match request.contains(" HTTP/1.1") {
                true => request.to_owned(),
                false => format!("{request} HTTP/1.1"),
            };
            let request = format!("{request}\r\nhost: admin\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    fn answer(reloaded: Reloaded) -> Option<oneshot::Receiver<Reloaded>> {
        let (asked, answer) = oneshot::channel();
        asked.send(reloaded).unwrap();
        Some(answer)
    }

    const RELOAD: &str = "POST /reload HTTP/1.1\r\nauthorization: Bearer open-sesame-1234";

    #[tokio::test]
    async fn a_process_is_alive_before_it_is_ready() {
        let listener = Serving::start().await;
        listener.readiness.missing("rabbitmq", "connecting to 127.0.0.1:5672: refused");
        assert!(listener.ask("GET /livez").await.starts_with("HTTP/1.1 200"));
        let unready = listener.ask("GET /readyz").await;
        assert!(unready.starts_with("HTTP/1.1 503"), "{unready}");
        assert!(
            unready.ends_with("rabbitmq: connecting to 127.0.0.1:5672: refused\n"),
            "{unready}"
        );
        listener.readiness.clear("rabbitmq");
        let ready = listener.ask("GET /readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200") && ready.ends_with("ready\n"), "{ready}");
    }

    #[tokio::test]
    async fn metrics_come_in_the_format_that_prometheus_reads() {
        let listener = Serving::start().await;
        let answer = listener.ask("GET /metrics").await;
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(answer.contains("chakra_sender_build_info{"), "{answer}");
    }

    #[tokio::test]
    async fn numbers_come_as_json() {
        let listener = Serving::start().await;
        let answer = listener.ask("GET /numbers").await;
        assert!(answer.contains("content-type: application/json"), "{answer}");
        assert!(answer.ends_with(r#"[{"number":"1027"}]"#), "{answer}");
    }

    #[tokio::test]
    async fn the_status_page_comes_with_a_strict_policy() {
        let listener = Serving::start().await;
        let answer = listener.ask("GET /").await;
        assert!(answer.contains("content-type: text/html"), "{answer}");
        assert!(answer.contains("content-security-policy: default-src 'none'; "), "{answer}");
    }

    #[tokio::test]
    async fn a_job_is_asked_for_by_its_lawful_id() {
        let listener = Serving::start().await;
        let answer = listener.ask("GET /jobs/order%2F8812").await;
        assert!(answer.ends_with(r#"{"jobs":["order/8812"]}"#), "{answer}");
        assert!(listener.ask("GET /jobs/a%20b").await.starts_with("HTTP/1.1 400"));
    }

    #[tokio::test]
    async fn what_came_of_reading_the_settings_again_is_told() {
        let applied = Reloaded::Applied {
            changed: vec!["limits.number.rate: 5 -> 50".into()],
            at_restart: Vec::new(),
        };
        let refused = Reloaded::Refused { problems: vec!["limits: is a section".into()] };
        for (reloaded, status, body) in [
            (Some(applied), 200, r#"{"at_restart":[],"changed":["limits.number.rate: 5 -> 50"]}"#),
            (Some(refused), 422, r#"{"problems":["limits: is a section"]}"#),
            (None, 503, "ask again\n"),
        ] {
            let listener = Serving::reloading(Some("open-sesame-1234"), reloaded).await;
            let answer = listener.ask(RELOAD).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
            assert!(answer.ends_with(body), "{answer}");
        }
    }

    #[tokio::test]
    async fn nothing_is_asked_for_a_stranger() {
        let listener = Serving::reloading(Some("another-token-16"), None).await;
        for request in ["POST /reload", RELOAD] {
            let answer = listener.ask(request).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
            assert!(answer.contains("www-authenticate: Bearer\r\n"), "{answer}");
        }
        let closed = Serving::reloading(None, None).await.ask(RELOAD).await;
        assert!(closed.starts_with("HTTP/1.1 403"), "{closed}");
        assert!(closed.ends_with("set admin.token\n"), "{closed}");
    }

    #[tokio::test]
    async fn all_else_can_only_be_read() {
        let listener = Serving::start().await;
        assert!(listener.ask("HEAD /livez").await.starts_with("HTTP/1.1 200"));
        for path in ["/livez", "/numbers"] {
            assert!(listener.ask(&format!("POST {path}")).await.starts_with("HTTP/1.1 405"));
        }
        assert!(listener.ask("GET /reload").await.starts_with("HTTP/1.1 405"));
        assert!(listener.ask("GET /jobs").await.starts_with("HTTP/1.1 404"));
    }
}
