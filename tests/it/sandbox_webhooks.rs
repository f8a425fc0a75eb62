//! The sandbox's webhooks as a receiver sees them: over real HTTP, at an address of its own.

use std::{collections::BTreeMap, future::Future, time::Duration};

use chakra_sender::sandbox::{
    Counts, Cut, Event, Failure, Fault, Form, Latency, Number, Pair, Record, Sandbox,
    SandboxConfig, Webhook, WebhookShape,
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::webhook_sink::{Got, WebhookSink};

const NUMBER: &str = "1027";
const TO: &str = "919901258433";
/// Later than any story lasts.
const NEVER: Latency = Latency::fixed(Duration::from_secs(600));

/// A sandbox whose webhooks go to a sink.
struct Scene {
    sandbox: Sandbox,
    client: reqwest::Client,
    plugin: String,
    token: String,
}

/// Every event at once, one after the other, and all are read.
fn prompt(sink: &WebhookSink) -> Webhook {
    let at_once = Latency::default();
    Webhook {
        url: Some(sink.url.clone()),
        sent_after: at_once,
        delivered_after: at_once,
        read_after: at_once,
        played_after: at_once,
        repeat_after: at_once,
        read: 1.0,
        concurrency: 1,
        backoff: Duration::from_millis(1),
        ..Webhook::default()
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}

impl Scene {
    async fn open(webhook: Webhook) -> Self {
        Self::with(SandboxConfig { webhook, ..SandboxConfig::default() }).await
    }

    async fn with(config: SandboxConfig) -> Self {
        let number = Number {
            rate: Some(0),
            display_phone_number: "+91 99012 58400".into(),
            ..Number::new(NUMBER)
        };
        let pair = Pair { enabled: false, ..Pair::default() };
        let config = SandboxConfig { numbers: vec![number], pair, ..config };
        let (plugin, token) = (config.plugin_id.clone(), config.token.clone());
        let sandbox = Sandbox::start(config).await.unwrap();
        let client =
            reqwest::Client::builder().no_proxy().retry(reqwest::retry::never()).build().unwrap();
        Self { sandbox, client, plugin, token }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.sandbox.base_url());
        self.client.request(method, url).bearer_auth(&self.token)
    }

    fn sending(&self, content: Value) -> RequestBuilder {
        let mut body = json!({"messaging_product": "whatsapp", "to": format!("+{TO}")});
        body.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
        let path = format!("/v1/ext/plugin/whatsapp/{}/api/v24.0/{NUMBER}/messages", self.plugin);
        self.request(Method::POST, &path).body(body.to_string())
    }

    /// Sends a text and gives the id of the message.
    async fn send(&self) -> String {
        let response = self.sending(text()).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        body["_data"]["whatsappMessageId"].as_str().unwrap().to_owned()
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn put(&self, path: &str, body: Value) -> u16 {
        let request = self.request(Method::PUT, path).body(body.to_string());
        request.send().await.unwrap().status().as_u16()
    }

    /// Waits until nothing waits any more that was to be posted.
    async fn settled(&self) -> Counts {
        let over = |record: &Record| {
            let counts = record.webhook_counts();
            counts.planned == counts.acknowledged + counts.given_up + counts.dropped
        };
        let record = self.sandbox.record();
        soon(record.wait_for(over)).await;
        record.webhook_counts()
    }
}

fn text() -> Value {
    json!({"type": "text", "text": {"body": "hi"}, "biz_opaque_callback_data": "job-1"})
}

fn value(got: &Got) -> Value {
    got.json()["entry"][0]["changes"][0]["value"].clone()
}

/// The words of the statuses in Meta's envelopes.
fn statuses(got: &[Got]) -> Vec<String> {
    let all = got.iter().flat_map(|got| value(got)["statuses"].as_array().unwrap().clone());
    all.map(|status| status["status"].as_str().unwrap().to_owned()).collect()
}

/// HMAC-SHA256 by its definition (RFC 2104), for a key of at most 64 bytes.
fn hmac(key: &[u8], message: &[u8]) -> String {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_message_is_told_sent_delivered_and_read_in_metas_envelope() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(prompt(&sink)).await;
    let wamid = scene.send().await;
    let got = sink.until(3).await;
    assert_eq!(statuses(&got), ["sent", "delivered", "read"]);
    for got in &got {
        assert_eq!(got.json()["object"], "whatsapp_business_account");
        assert_eq!(got.headers["content-type"], "application/json");
        assert!(!got.headers.contains_key("x-chakra-signature-256"));
        let value = value(got);
        assert_eq!(value["metadata"]["phone_number_id"], NUMBER);
        let status = &value["statuses"][0];
        assert_eq!(status["id"], wamid.as_str());
        assert_eq!(status["recipient_id"], TO);
        assert_eq!(status["biz_opaque_callback_data"], "job-1");
        let seconds: i64 = status["timestamp"].as_str().unwrap().parse().unwrap();
        assert!((1_700_000_000..17_000_000_000).contains(&seconds));
    }
    let counts = scene.settled().await;
    let each = ["delivered", "read", "sent"].map(|event| (event.to_owned(), 1));
    assert_eq!(counts.emitted, BTreeMap::from(each));
    assert_eq!(counts.answered_by_status, BTreeMap::from([(200, 3)]));
}

#[tokio::test]
async fn audio_that_is_read_is_played_too() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(prompt(&sink)).await;
    let audio = json!({"type": "audio", "audio": {"id": "1"}});
    assert_eq!(scene.sending(audio).send().await.unwrap().status(), 200);
    assert_eq!(statuses(&sink.until(4).await), ["sent", "delivered", "read", "played"]);
}

#[tokio::test]
async fn chakras_own_shape_names_the_message_as_its_chat_does() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { shape: WebhookShape::Chakra, ..prompt(&sink) }).await;
    let wamid = scene.send().await;
    let got: Vec<Value> = sink.until(3).await.iter().map(Got::json).collect();
    let list = json!({"customerPhoneNumber": TO}).to_string();
    let path = "/v1/ext/plugin/whatsapp/list-chat-messages-for-phone-number";
    let listed = scene.request(Method::POST, path).body(list).send().await.unwrap();
    let listed: Value = serde_json::from_slice(&listed.bytes().await.unwrap()).unwrap();
    for (got, status) in got.iter().zip(["SENT", "DELIVERED", "READ"]) {
        assert_eq!(
            (&got["event"], &got["payload"]["deliveryStatus"]),
            (&json!("status"), &json!(status))
        );
        assert_eq!(got["payload"]["externalId"], wamid.as_str());
        assert_eq!(got["payload"]["messageId"], listed["_data"][0]["id"]);
        assert!(got["payload"]["timestamp"].as_i64().unwrap() > 1_700_000_000_000, "milliseconds");
    }
}

#[tokio::test]
async fn both_shapes_tell_each_event_and_each_body_is_signed() {
    let sink = WebhookSink::open().await;
    let secret = Some("a secret".to_owned());
    let both = Webhook { shape: WebhookShape::Both, secret, ..prompt(&sink) };
    let scene = Scene::open(both).await;
    let wamid = scene.send().await;
    let got = sink.until(6).await;
    for got in &got {
        let signature = got.headers["x-chakra-signature-256"].to_str().unwrap();
        assert_eq!(signature, hmac(b"a secret", &got.body));
    }
    let own = got.iter().filter(|got| got.json()["event"] == "status");
    assert_eq!(own.count(), 3);
    scene.settled().await;
    let posts = scene.sandbox.record().posts_of(&wamid);
    assert_eq!(posts.iter().filter(|post| post.form == Form::PassThrough).count(), 3);
    assert_eq!(posts[0].events, [(wamid, Event::Sent)]);
}

#[tokio::test]
async fn a_message_may_fail_where_it_would_be_delivered() {
    let sink = WebhookSink::open().await;
    let failed = vec![Failure { code: 131_026, share: 1.0 }];
    let quiet = Webhook { failed, opaque_on_failed: false, ..prompt(&sink) };
    let scene = Scene::open(quiet).await;
    scene.send().await;
    let got = sink.until(2).await;
    assert_eq!(statuses(&got), ["sent", "failed"]);
    let status = value(&got[1])["statuses"][0].clone();
    assert_eq!(status["errors"][0]["code"], 131_026);
    assert_eq!(status["errors"][0]["title"], "Message undeliverable");
    assert_eq!(status.get("biz_opaque_callback_data"), None);
    assert_eq!(scene.settled().await.planned, 2);
}

#[tokio::test]
async fn events_may_come_out_of_order() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { shuffled: 1.0, ..prompt(&sink) }).await;
    scene.send().await;
    let mut told = statuses(&sink.until(3).await);
    assert_ne!(told, ["sent", "delivered", "read"]);
    told.sort_unstable();
    assert_eq!(told, ["delivered", "read", "sent"]);
}

#[tokio::test]
async fn events_may_come_twice() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { repeat: 1.0, ..prompt(&sink) }).await;
    scene.send().await;
    let got = sink.until(6).await;
    for word in ["sent", "delivered", "read"] {
        let told = got.iter().filter(|got| value(got)["statuses"][0]["status"] == word);
        let bodies: Vec<_> = told.map(|got| &got.body).collect();
        assert_eq!(bodies.len(), 2);
        assert_eq!(bodies[0], bodies[1]);
    }
    assert_eq!(scene.settled().await.repeated, 3);
}

#[tokio::test]
async fn events_may_never_come() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { loss: 1.0, ..prompt(&sink) }).await;
    scene.send().await;
    let counts = scene.sandbox.record().webhook_counts();
    assert_eq!((counts.lost, counts.planned, counts.posts), (3, 0, 0));
    assert!(sink.got().is_empty());
}

#[tokio::test]
async fn what_is_not_taken_is_posted_again_and_the_same() {
    let sink = WebhookSink::answering(|post| Some(if post < 2 { 503 } else { 200 })).await;
    let scene = Scene::open(Webhook { retries: 2, delivered_after: NEVER, ..prompt(&sink) }).await;
    let wamid = scene.send().await;
    let got = sink.until(3).await;
    assert!(got.iter().all(|one| one.body == got[0].body));
    let record = scene.sandbox.record();
    soon(record.wait_for(|record| record.webhook_counts().acknowledged == 1)).await;
    let counts = record.webhook_counts();
    assert_eq!(counts.answered_by_status, BTreeMap::from([(200, 1), (503, 2)]));
    assert_eq!(counts.emitted, BTreeMap::from([("sent".to_owned(), 1)]));
    let tries: Vec<_> = record.posts_of(&wamid).iter().map(|p| (p.tries, p.status)).collect();
    assert_eq!(tries, [(1, Some(503)), (2, Some(503)), (3, Some(200))]);
}

#[tokio::test]
async fn what_is_never_taken_is_given_up_and_by_default_at_once() {
    for (retries, posts) in [(0, 3), (1, 6)] {
        let sink = WebhookSink::answering(|_| Some(503)).await;
        let scene = Scene::open(Webhook { retries, ..prompt(&sink) }).await;
        scene.send().await;
        let counts = scene.settled().await;
        assert_eq!((counts.given_up, counts.posts), (3, posts));
    }
}

#[tokio::test]
async fn silence_is_waited_for_only_so_long() {
    let sink = WebhookSink::answering(|post| (post > 0).then_some(200)).await;
    let timeout = Duration::from_millis(50);
    let scene = Scene::open(Webhook { timeout, retries: 1, ..prompt(&sink) }).await;
    scene.send().await;
    let counts = scene.settled().await;
    assert_eq!((counts.unanswered, counts.acknowledged, counts.posts), (1, 3, 4));
}

#[tokio::test]
async fn nobody_at_the_address_is_no_answer() {
    let sink = WebhookSink::open().await;
    let webhook = prompt(&sink);
    drop(sink);
    let scene = Scene::open(webhook).await;
    scene.send().await;
    let counts = scene.settled().await;
    assert_eq!((counts.unanswered, counts.given_up), (3, 3));
}

#[tokio::test]
async fn an_early_event_is_posted_before_the_send_is_answered() {
    let sink = WebhookSink::open().await;
    let later = Webhook { sent_after: NEVER, ..prompt(&sink) };
    let scene = Scene::open(Webhook { early: 1.0, ..later.clone() }).await;
    scene.send().await;
    assert_eq!(statuses(&sink.got()), ["sent"]);
    scene.sandbox.set_webhook(later).unwrap();
    scene.send().await;
    assert_eq!(sink.got().len(), 1, "the other one comes later");
}

#[tokio::test]
async fn a_message_whose_answer_never_comes_is_told_of() {
    let sink = WebhookSink::open().await;
    let faults = vec![Fault { cut: Some(Cut::After), ..Fault::default() }];
    let webhook = prompt(&sink);
    let scene = Scene::with(SandboxConfig { faults, webhook, ..SandboxConfig::default() }).await;
    scene.sending(text()).send().await.unwrap_err();
    let got = sink.until(3).await;
    assert_eq!(value(&got[0])["statuses"][0]["biz_opaque_callback_data"], "job-1");
    let cut = Fault { cut: Some(Cut::Before), ..Fault::default() };
    scene.sandbox.set_faults(vec![cut]).unwrap();
    scene.sending(text()).send().await.unwrap_err();
    assert_eq!(scene.settled().await.planned, 3, "the second was never sent");
}

#[tokio::test]
async fn more_than_the_queue_holds_is_dropped_and_counted() {
    let sink = WebhookSink::answering(|_| None).await;
    let scene = Scene::open(Webhook { queue: 4, ..prompt(&sink) }).await;
    scene.send().await;
    scene.send().await;
    let record = scene.sandbox.record();
    soon(record.wait_for(|record| record.webhook_counts().dropped == 2)).await;
    assert_eq!(record.webhook_counts().planned, 6);
}

#[tokio::test]
async fn several_statuses_may_share_an_envelope() {
    let sink = WebhookSink::open().await;
    let batch_within = Duration::from_secs(600);
    let scene = Scene::open(Webhook { batch: 6, batch_within, ..prompt(&sink) }).await;
    scene.send().await;
    scene.send().await;
    let got = sink.until(1).await;
    let words = ["sent", "delivered", "read"];
    assert_eq!(statuses(&got), [words, words].concat());
    let counts = scene.settled().await;
    assert_eq!((counts.posts, counts.acknowledged), (1, 6));
}

#[tokio::test]
async fn events_of_another_kind_come_among_the_statuses() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { other_events: 1.0, ..prompt(&sink) }).await;
    for _ in 0..20 {
        scene.send().await;
    }
    let fields = sink.until(80).await.into_iter().map(|got| {
        let change = got.json()["entry"][0]["changes"][0].clone();
        let kinds = ["statuses", "messages", "message_echoes"];
        let kind = kinds.into_iter().find(|kind| change["value"][kind].is_array());
        (change["field"].as_str().unwrap().to_owned(), kind.unwrap())
    });
    let mut counts = BTreeMap::new();
    for field in fields {
        *counts.entry(field).or_insert(0) += 1;
    }
    assert_eq!(counts[&("messages".to_owned(), "statuses")], 60);
    assert!(counts[&("messages".to_owned(), "messages")] > 0);
    assert!(counts[&("smb_message_echoes".to_owned(), "message_echoes")] > 0);
}

#[tokio::test]
async fn a_receivers_load_needs_no_sender() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { load: 500, concurrency: 8, ..prompt(&sink) }).await;
    let got = sink.until(60).await;
    let opaque = value(&got[0])["statuses"][0]["biz_opaque_callback_data"].clone();
    assert!(opaque.as_str().unwrap().starts_with("load-"), "{opaque}");
    assert_eq!(scene.sandbox.record().count_requests(), 0);
    scene.sandbox.set_webhook(prompt(&sink)).unwrap();
    scene.settled().await;
}

#[tokio::test]
async fn another_process_switches_webhooks_and_reads_what_came_of_them() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook::default()).await;
    scene.send().await;
    let on = json!({"url": sink.url, "sent_after": "0ms", "delivered_after": "10m"});
    assert_eq!(scene.put("/sandbox/webhook", on).await, 200);
    assert_eq!(scene.put("/sandbox/webhook", json!({"url": "ftp://x"})).await, 400);
    scene.send().await;
    assert_eq!(statuses(&sink.until(1).await), ["sent"]);
    let record = scene.sandbox.record();
    soon(record.wait_for(|record| record.webhook_counts().acknowledged == 1)).await;
    let shown = &scene.get("/sandbox/record").await["webhook"];
    assert_eq!(shown["emitted"], json!({"sent": 1}));
    assert_eq!(shown["answered_by_status"], json!({"200": 1}));
    let times = &shown["answer_times"];
    assert!(times["p50_us"].as_u64().unwrap() > 0, "{times}");
    assert_eq!(times["p50_us"], times["max_us"]);
}

#[tokio::test]
async fn webhooks_that_are_switched_off_while_some_wait_post_no_more() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook { sent_after: NEVER, ..prompt(&sink) }).await;
    scene.send().await;
    scene.sandbox.set_webhook(Webhook::default()).unwrap();
    assert_eq!(scene.settled().await.dropped, 3);
    assert!(sink.got().is_empty());
}

#[tokio::test]
async fn the_plugins_configuration_says_where_webhooks_go_unless_told_otherwise() {
    let sink = WebhookSink::open().await;
    let scene = Scene::open(Webhook::default()).await;
    let path = format!("/v1/ext/plugin/whatsapp/{}/config", scene.plugin);
    let shown = async || {
        let document = scene.get(&path).await["_data"].clone();
        let fields = ["passThroughWebhookUrl", "enableChakraWebhook", "chakraWebhookUrl"];
        fields.map(|field| document[field].clone())
    };
    let (null, no, yes, url) = (Value::Null, json!(false), json!(true), json!(sink.url));
    assert_eq!(shown().await, [null.clone(), no.clone(), null.clone()]);
    for (shape, expected) in [
        (WebhookShape::PassThrough, [url.clone(), no, null.clone()]),
        (WebhookShape::Chakra, [null, yes.clone(), url.clone()]),
        (WebhookShape::Both, [url.clone(), yes.clone(), url.clone()]),
    ] {
        scene.sandbox.set_webhook(Webhook { shape, ..prompt(&sink) }).unwrap();
        assert_eq!(shown().await, expected, "{shape:?}");
    }
    let elsewhere = json!({"passThroughWebhookUrl": "https://elsewhere.example/"});
    let settings = json!({"plugin": {"shown": elsewhere}});
    assert_eq!(scene.put("/sandbox/settings", settings).await, 200);
    assert_eq!(shown().await, [json!("https://elsewhere.example/"), yes, url]);
}
