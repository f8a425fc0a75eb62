//! The yardstick of `make bench`: what a job costs at the least. Consume, one POST, publish the event, wait
//! for the confirm, acknowledge; as fast as it goes, over as many queues as it is given.
//!
//! It sends what the worker sends and publishes what the worker publishes, and does nothing else: no limit,
//! no check, no ledger, no metric, no answer but a good one. Whatever goes wrong ends it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "whatever goes wrong ends it")]

use bytes::Bytes;
use chakra_sender::clock;
use clap::{Args, Parser, Subcommand};
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Jobs of one queue that the broker hands out at once.
const PREFETCH: u16 = 1_000;

/// Jobs of one queue under way: fewer (64) were slower, one thread instead of two was cheaper and slower.
const UNDER_WAY: usize = 256;

/// After the last acknowledgement. A channel that closes at once takes some with it: 58 of 10,000 jobs stood in
/// their queue again (RabbitMQ 3.10).
const TAKEN: Duration = Duration::from_millis(500);

/// What stands around the id in a good answer.
const ID: (&str, char) = (r#""whatsappMessageId":""#, '"');

/// The worker's own, so that no ratio tells of allocators.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    to: To,
    #[command(subcommand)]
    what: What,
}

/// Where the POSTs go.
#[derive(Args)]
struct To {
    /// What stands before `/<number>/messages`
    #[arg(long)]
    url: String,
    #[arg(long)]
    token: String,
}

#[derive(Subcommand)]
enum What {
    /// The loop over the queues of these numbers, until it is ended
    Jobs {
        #[arg(long)]
        uri: String,
        #[arg(long)]
        prefix: String,
        #[arg(required = true)]
        numbers: Vec<String>,
    },
    /// POSTs alone, so many: what the API bears
    Posts { number: String, count: usize },
}

#[tokio::main]
async fn main() {
    let Arguments { to, what } = Arguments::parse();
    let http = Http::new(&to);
    match what {
        What::Jobs { uri, prefix, numbers } => jobs(&http, &uri, &prefix, &numbers).await,
        What::Posts { number, count } => posts(&http, &number, count).await,
    }
}

async fn jobs(http: &Http, uri: &str, prefix: &str, numbers: &[String]) {
    // The one is read while the other is written: faster than one for both.
    let [taking, publishing] = [connected(uri).await, connected(uri).await];
    let mut loops = JoinSet::new();
    for number in numbers {
        let lane = Lane {
            taking: taking.create_channel().await.unwrap(),
            publishing: publishing.create_channel().await.unwrap(),
            http: http.clone(),
            messages: http.messages(number),
            exchange: format!("{prefix}.results"),
            key: format!("result.accepted.{number}"),
            number: number.clone(),
        };
        let queue = format!("{prefix}.sends.{number}");
        loops.spawn(async move { lane.run(&queue).await });
    }
    loops.join_all().await;
}

/// What is under way is finished then: a job that is not acknowledged would be another sender's next one.
async fn told_to_stop() {
    signal(SignalKind::terminate()).unwrap().recv().await;
}

async fn connected(uri: &str) -> Connection {
    Connection::connect(uri, ConnectionProperties::default()).await.unwrap()
}

/// One queue. Its one task alone publishes on its channel: lapin 4.12 gives a confirm to the wrong publish
/// where two tasks share one.
struct Lane {
    taking: Channel,
    publishing: Channel,
    http: Http,
    messages: Url,
    exchange: String,
    key: String,
    number: String,
}

#[derive(Deserialize)]
struct Job<'j> {
    id: &'j str,
    #[serde(borrow)]
    message: &'j RawValue,
}

impl Lane {
    async fn run(&self, queue: &str) {
        let channel = &self.taking;
        self.publishing.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.unwrap();
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let jobs = channel.basic_consume(queue.into(), "".into(), options, none).await.unwrap();
        let jobs = jobs.take_until(told_to_stop());
        jobs.for_each_concurrent(UNDER_WAY, |job| self.job(job.unwrap())).await;
        sleep(TAKEN).await;
        channel.close(200, "done".into()).await.unwrap();
    }

    async fn job(&self, delivery: Delivery) {
        let received_at = clock::wall();
        let job: Job = serde_json::from_slice(&delivery.data).unwrap();
        let answer = self.http.post(&self.messages, request(&job)).await;
        let wamid = answer.split_once(ID.0).unwrap().1.split_once(ID.1).unwrap().0;
        let (id, number, finished_at) = (job.id, &self.number, clock::wall());
        let event = format!(
            r#"{{"event":"result","id":"{id}","phone_number_id":"{number}","status":"accepted","whatsapp_message_id":"{wamid}","attempts":1,"error":null,"metadata":null,"enqueued_at":null,"received_at":"{received_at:.3}","finished_at":"{finished_at:.3}","replay":null}}"#
        );
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(format!("{id}:result").into());
        let publishing = self.publishing.basic_publish(
            self.exchange.as_str().into(),
            self.key.as_str().into(),
            BasicPublishOptions::default(),
            event.as_bytes(),
            properties,
        );
        assert!(publishing.await.unwrap().await.unwrap().is_ack());
        // Not by its `Acker`: lapin 4.12 hands that to two more tasks.
        self.taking.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await.unwrap();
    }
}

/// The message as the worker sends it: with the job's id.
fn request(job: &Job) -> Bytes {
    let (id, rest) = (job.id, &job.message.get()[1..]);
    format!(r#"{{"biz_opaque_callback_data":"{id}",{rest}"#).into()
}

async fn posts(http: &Http, number: &str, count: usize) {
    let messages = http.messages(number);
    let posts = futures_util::stream::iter(0..count);
    posts
        .for_each_concurrent(UNDER_WAY, async |post| {
            let request = format!(
                r#"{{"biz_opaque_callback_data":"job-{post}","messaging_product":"whatsapp","to":"+9990{post:08}","type":"text","text":{{"body":"message {post}"}}}}"#
            );
            assert!(http.post(&messages, request.into()).await.contains(ID.0));
        })
        .await;
}

/// The client that the worker uses, with nothing to look after.
#[derive(Clone)]
struct Http {
    client: Client,
    url: String,
    authorization: HeaderValue,
}

impl Http {
    fn new(to: &To) -> Http {
        let client = Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .build();
        let authorization = format!("Bearer {}", to.token).parse().unwrap();
        Http { client: client.unwrap(), url: to.url.clone(), authorization }
    }

    fn messages(&self, number: &str) -> Url {
        format!("{}/{number}/messages", self.url).parse().unwrap()
    }

    async fn post(&self, to: &Url, request: Bytes) -> String {
        let post = self
            .client
            .post(to.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(request);
        let answer = post.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.text().await.unwrap()
    }
}
