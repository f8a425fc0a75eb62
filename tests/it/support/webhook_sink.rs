//! A receiver of webhooks that keeps what it gets and answers as a story wants.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One post as it came.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Got {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

type Answers = Arc<dyn Fn(usize) -> Option<u16> + Send + Sync>;

/// Ends with its value.
pub(crate) struct WebhookSink {
    /// Where to post.
    pub(crate) url: String,
    got: Arc<watch::Sender<Vec<Got>>>,
    _task: JoinSet<()>,
}

impl WebhookSink {
    /// Answers each post by its number, which counts from 0, with this status; none: never.
    pub(crate) async fn answering(
        answers: impl Fn(usize) -> Option<u16> + Send + Sync + 'static,
    ) -> WebhookSink {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/webhook", listener.local_addr().unwrap());
        let got = Arc::new(watch::Sender::new(Vec::new()));
        let mut task = JoinSet::new();
        task.spawn(receive(listener, Arc::new(answers), got.clone()));
        WebhookSink { url, got, _task: task }
    }

    /// Answers all with 200.
    pub(crate) async fn open() -> WebhookSink {
        Self::answering(|_| Some(200)).await
    }

    /// What has come so far.
    pub(crate) fn got(&self) -> Vec<Got> {
        self.got.borrow().clone()
    }

    /// Waits for this many posts, and gives all that have come.
    pub(crate) async fn until(&self, posts: usize) -> Vec<Got> {
        let mut got = self.got.subscribe();
        let come = got.wait_for(|got| got.len() >= posts);
        tokio::time::timeout(Duration::from_secs(20), come).await.unwrap().unwrap().clone()
    }
}

async fn receive(listener: TcpListener, answers: Answers, got: Arc<watch::Sender<Vec<Got>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (answers, got) = (answers.clone(), got.clone());
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, &answers, &got));
            // Its end is the sender's.
            http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &Answers,
    got: &watch::Sender<Vec<Got>>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut number = 0;
    got.send_modify(|got| {
        number = got.len();
        got.push(Got { headers: head.headers, body });
    });
    let Some(status) = answers(number) else { return pending().await };
    Ok(Response::builder().status(status).body(Empty::new()).unwrap())
}
