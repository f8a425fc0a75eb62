//! The sandbox as its callers see it: over real HTTP, with a client that knows nothing of it.

#![expect(clippy::unwrap_used, reason = "a test that cannot set its scene shall fail")]

use std::{future::Future, time::Duration};

use chakra_sender::sandbox::{
    Answer, Cut, Ending, Fault, Latency, ListingMode, Listings, Number, Pair, PluginMode, Sandbox,
    SandboxConfig, Shape, ThroughputLevel,
};
use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

const NUMBER: &str = "1027";
const TO: &str = "+919901258433";
const TO_DIGITS: &str = "919901258433";

/// A running sandbox and somebody who calls it.
struct Scene {
    sandbox: Sandbox,
    client: reqwest::Client,
    plugin: String,
    token: String,
}

/// A sandbox with one number and no ceiling.
fn unlimited() -> SandboxConfig {
    let numbers = vec![Number { rate: Some(0), ..Number::new(NUMBER) }];
    SandboxConfig { numbers, ..SandboxConfig::default() }
}

fn faulty(fault: Fault) -> SandboxConfig {
    SandboxConfig { faults: vec![fault], ..unlimited() }
}

fn answering(answer: Answer) -> SandboxConfig {
    faulty(Fault { answer: Some(answer), ..Fault::default() })
}

fn text(body: &str, opaque: &str) -> Value {
    json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": TO,
        "type": "text", "text": {"body": body}, "biz_opaque_callback_data": opaque,
    })
}

/// Nothing here takes long; a test that waits for what never comes shall say so.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}

impl Scene {
    async fn open(config: SandboxConfig) -> Self {
        let (plugin, token) = (config.plugin_id.clone(), config.token.clone());
        let sandbox = Sandbox::start(config).await.unwrap();
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(20))
            .retry(reqwest::retry::never())
            .build()
            .unwrap();
        Self { sandbox, client, plugin, token }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.sandbox.base_url());
        self.client.request(method, url).bearer_auth(&self.token)
    }

    fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.request(Method::POST, path).body(body.to_string())
    }

    fn sending(&self, number: &str, body: &Value) -> RequestBuilder {
        let path = format!("/v1/ext/plugin/whatsapp/{}/api/v24.0/{number}/messages", self.plugin);
        self.post(&path, body)
    }

    /// Sends a text and gives status and JSON.
    async fn send(&self, body: &str) -> (u16, Value) {
        answer(self.sending(NUMBER, &text(body, body))).await
    }

    /// Sends a text that gets no whole answer.
    async fn fail(&self, body: &str) -> reqwest::Error {
        match self.sending(NUMBER, &text(body, body)).send().await {
            Err(error) => error,
            Ok(answer) => answer.bytes().await.unwrap_err(),
        }
    }

    async fn listed(&self) -> Vec<String> {
        let body = json!({"customerPhoneNumber": TO_DIGITS, "limit": 50, "page": 1});
        let path = "/v1/ext/plugin/whatsapp/list-chat-messages-for-phone-number";
        let (status, page) = answer(self.post(path, &body)).await;
        assert_eq!(status, 200);
        let messages = page["_data"].as_array().unwrap().iter();
        messages.map(|message| message["text"].as_str().unwrap().to_owned()).collect()
    }
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn a_message_is_accepted_in_the_documented_form() {
    let scene = Scene::open(unlimited()).await;
    let (status, body) = scene.send("hello").await;
    let accepted = scene.sandbox.record().accepted();
    let wamid = accepted[0].wamid.as_deref().unwrap();
    assert_eq!((status, body), (200, json!({"_data": {"whatsappMessageId": wamid}})));
    assert!(wamid.starts_with("wamid.HBg") && wamid.len() <= 128);
    assert_eq!((accepted[0].number.as_str(), accepted[0].to.as_str()), (NUMBER, TO_DIGITS));
    assert_eq!(accepted[0].body, text("hello", "hello").to_string());
}

#[tokio::test]
async fn a_read_mark_is_taken_and_is_no_message() {
    let scene = Scene::open(unlimited()).await;
    let mark = json!({"messaging_product": "whatsapp", "status": "read", "message_id": "wamid.1"});
    let marked = answer(scene.sending(NUMBER, &mark)).await;
    assert_eq!(marked, (200, json!({"_data": {"success": true}})));
    assert_eq!(scene.sandbox.record().count_accepted(), 0);
}

#[tokio::test]
async fn four_buttons_are_refused_as_in_the_captured_answer() {
    let scene = Scene::open(unlimited()).await;
    let button = json!({"type": "reply", "reply": {"id": "a", "title": "A"}});
    let interactive = json!({
        "type": "button", "body": {"text": "?"}, "action": {"buttons": vec![button; 4]},
    });
    let body = json!({
        "messaging_product": "whatsapp", "to": TO, "type": "interactive", "interactive": interactive,
    });
    let response = scene.sending(NUMBER, &body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let captured = r##"{"_data":[],"_errors":["(#131009) Parameter value is not valid"]}"##;
    assert_eq!(response.text().await.unwrap(), captured);
}

#[tokio::test]
async fn a_wrong_key_plugin_or_number_is_turned_away() {
    let scene = Scene::open(unlimited()).await;
    let body = text("hello", "hello");
    scene.sandbox.set_token("another");
    let unauthorized = answer(scene.sending(NUMBER, &body)).await;
    assert_eq!(unauthorized, (401, json!({"_errors": ["Unauthorized"]})));
    scene.sandbox.set_token(&scene.token);
    let elsewhere = "/v1/ext/plugin/whatsapp/another/api/v24.0/1027/messages";
    assert_eq!(answer(scene.post(elsewhere, &body)).await.0, 404);
    let (status, unknown) = answer(scene.sending("999", &body)).await;
    assert_eq!(
        (status, &unknown["_errors"][0]),
        (400, &json!("(#131009) Parameter value is not valid"))
    );
    let record = scene.sandbox.record();
    assert_eq!((record.count_requests(), record.count_accepted()), (3, 0));
}

#[tokio::test]
async fn no_sliding_second_holds_more_accepted_messages_than_the_ceiling() {
    let numbers = vec![Number { rate: Some(40), ..Number::new(NUMBER) }];
    let pair = Pair { enabled: false, ..Pair::default() };
    let scene = Scene::open(SandboxConfig { numbers, pair, ..unlimited() }).await;
    let record = scene.sandbox.record();
    // Callers that never pause, until the ceiling has been met and a second one has begun.
    let calling = join_all((0..4).map(async |_| {
        while record.count_accepted() <= 45 {
            let (status, body) = scene.send("hello").await;
            let refused = body["_errors"][0] == "(#130429) Rate limit hit" && status == 400;
            assert!(refused || status == 200, "{status} {body}");
        }
    }));
    soon(calling).await;
    assert_eq!(record.highest_accepted_in_any_second(NUMBER), 40);
    assert!(record.highest_in_any_second(NUMBER) > 40);
    assert!(record.refused_by_code()[&130_429] > 0);
}

#[tokio::test]
async fn a_pair_over_its_burst_is_refused_and_others_are_not() {
    let pair = Pair { burst: 3, ..Pair::default() };
    let scene = Scene::open(SandboxConfig { pair, ..unlimited() }).await;
    for _ in 0..3 {
        assert_eq!(scene.send("hello").await.0, 200);
    }
    let (status, body) = scene.send("hello").await;
    assert_eq!(status, 400);
    assert!(body["_errors"][0].as_str().unwrap().starts_with("(#131056) "), "{body}");
    let mut other = text("hello", "other");
    other["to"] = "+4915112345678".into();
    assert_eq!(answer(scene.sending(NUMBER, &other)).await.0, 200);
}

#[tokio::test]
async fn a_message_cut_before_is_not_sent_even_on_a_connection_that_has_served() {
    let second = Fault { every: Some(2), cut: Some(Cut::Before), ..Fault::default() };
    let scene = Scene::open(faulty(second)).await;
    assert_eq!(scene.send("served").await.0, 200);
    let error = scene.fail("cut").await;
    assert!(error.is_request() && !error.is_connect() && !error.is_timeout(), "{error:?}");
    let record = scene.sandbox.record();
    assert_eq!((record.count_requests(), record.count_cut()), (2, 1));
    assert_eq!(record.accepted_by_opaque("cut"), 0);
}

#[tokio::test]
async fn a_message_cut_after_is_sent_and_a_blind_repetition_is_a_duplicate() {
    let once = Fault { first: Some(1), cut: Some(Cut::After), ..Fault::default() };
    let scene = Scene::open(faulty(once)).await;
    let error = scene.fail("hello").await;
    assert!(error.is_request() && !error.is_connect(), "{error:?}");
    let record = scene.sandbox.record();
    assert_eq!((record.accepted_by_opaque("hello"), record.duplicates().len()), (1, 0));
    assert_eq!(scene.send("hello").await.0, 200);
    assert_eq!(record.duplicates()["hello"], 2);
    assert_eq!(record.accepted_by_text("hello"), 2);
}

#[tokio::test]
async fn a_message_cut_within_the_answer_is_sent_and_its_head_arrives() {
    let scene = Scene::open(faulty(Fault { cut: Some(Cut::Headers), ..Fault::default() })).await;
    let response = scene.sending(NUMBER, &text("hello", "hello")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.content_length().unwrap() > 0);
    response.bytes().await.unwrap_err();
    assert_eq!(scene.sandbox.record().count_accepted(), 1);
}

#[tokio::test]
async fn a_hanging_request_is_never_answered_and_may_be_sent() {
    for accept in [false, true] {
        let hang = Fault { hang: true, accept: Some(accept), ..Fault::default() };
        let scene = Scene::open(faulty(hang)).await;
        let record = scene.sandbox.record();
        tokio::select! {
            answer = scene.send("hello") => panic!("answered: {answer:?}"),
            () = soon(record.wait_for(|record| record.count_hung() == 1)) => {}
        }
        assert_eq!(record.count_accepted(), u64::from(accept));
    }
}

#[tokio::test]
async fn a_late_answer_is_decided_on_arrival() {
    let scene = Scene::open(unlimited()).await;
    scene.sandbox.set_latency(Latency::fixed(Duration::from_secs(600))).unwrap();
    let record = scene.sandbox.record();
    tokio::select! {
        answer = scene.send("hello") => panic!("answered: {answer:?}"),
        () = soon(record.wait_for(|record| record.count_accepted() == 1)) => {}
    }
}

#[tokio::test]
async fn each_shape_of_a_refusal_arrives_as_it_is_named() {
    for (shape, pointer) in [
        (Shape::Chakra, "/_errors/0"),
        (Shape::Objects, "/_errors/0/message"),
        (Shape::Meta, "/error/message"),
        (Shape::Nested, "/_data/error/message"),
    ] {
        let answer = Answer { status: Some(429), code: Some(131_047), shape, ..Answer::default() };
        let scene = Scene::open(answering(answer)).await;
        let (status, body) = scene.send("hello").await;
        let message = body.pointer(pointer).cloned();
        assert_eq!((status, message), (429, Some(json!("(#131047) Re-engagement message"))));
        let record = scene.sandbox.record();
        assert_eq!((record.count_accepted(), record.refused_by_code()[&131_047]), (0, 1));
        let code = Some(131_047);
        assert_eq!(record.requests()[0].ending, Ending::Answered { status: 429, code });
    }
}

#[tokio::test]
async fn answers_that_are_no_json_arrive_as_bytes() {
    for (shape, starts) in [
        (Shape::Html, b"<html>".as_slice()),
        (Shape::Empty, b""),
        (Shape::NotUtf8, b"{\"_data\":[],\"_errors\":[\"\xff"),
    ] {
        let answer = Answer { status: Some(502), shape, ..Answer::default() };
        let scene = Scene::open(answering(answer)).await;
        let response = scene.sending(NUMBER, &text("hello", "hello")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
        let body = response.bytes().await.unwrap();
        assert!(body.starts_with(starts), "{shape:?}: {body:?}");
        assert_eq!(body.is_empty(), shape == Shape::Empty);
    }
}

#[tokio::test]
async fn a_success_may_come_in_metas_raw_form_or_without_an_id() {
    for (shape, pointer, sent) in [
        (Shape::RawMetaOk, "/messages/0/id", 1),
        (Shape::WrappedMetaOk, "/data/messages/0/id", 1),
        (Shape::OkWithoutId, "/_data/whatsappMessageId", 0),
    ] {
        let scene = Scene::open(answering(Answer { shape, ..Answer::default() })).await;
        let (status, body) = scene.send("hello").await;
        assert_eq!(status, 200);
        let accepted = scene.sandbox.record().accepted();
        assert_eq!(accepted.len(), sent, "{shape:?}");
        let wamid = accepted.first().and_then(|request| request.wamid.clone());
        assert_eq!(body.pointer(pointer).cloned(), wamid.map(Value::from));
    }
}

#[tokio::test]
async fn a_bad_answer_may_hide_a_sent_message_and_carry_headers() {
    let headers = [("retry-after".to_owned(), "3".to_owned())].into();
    let answer = Answer {
        status: Some(500),
        body: Some("{\"retry_after_ms\":3000}".into()),
        headers,
        ..Answer::default()
    };
    let hidden = Fault { answer: Some(answer), accept: Some(true), ..Fault::default() };
    let scene = Scene::open(faulty(hidden)).await;
    let response = scene.sending(NUMBER, &text("hello", "hello")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(response.headers()["retry-after"], "3");
    assert_eq!(response.text().await.unwrap(), "{\"retry_after_ms\":3000}");
    assert_eq!(scene.sandbox.record().count_accepted(), 1);
}

#[tokio::test]
async fn a_listing_shows_a_message_only_after_its_lag() {
    let scene = Scene::open(unlimited()).await;
    let hidden = Listings { lag: Duration::from_secs(600), ..Listings::default() };
    scene.sandbox.set_listings(hidden).unwrap();
    scene.send("first").await;
    scene.send("second").await;
    assert!(scene.listed().await.is_empty());
    scene.sandbox.set_listings(Listings::default()).unwrap();
    assert_eq!(scene.listed().await, ["second", "first"]);
}

#[tokio::test]
async fn a_listing_may_be_forbidden_broken_or_empty() {
    let scene = Scene::open(unlimited()).await;
    scene.send("hello").await;
    for (mode, status) in
        [(ListingMode::Forbidden, 403), (ListingMode::Error, 500), (ListingMode::Empty, 200)]
    {
        scene.sandbox.set_listings(Listings { mode, ..Listings::default() }).unwrap();
        let answer = scene.post("/v1/ext/chat", &json!({})).send().await.unwrap();
        assert_eq!(answer.status(), status);
        if status == 200 {
            assert!(scene.listed().await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_message_is_found_through_its_chat() {
    let scene = Scene::open(unlimited()).await;
    scene.send("hello").await;
    let (_, chats) = answer(scene.post("/v1/ext/chat", &json!({"search": TO}))).await;
    let chat = chats["_data"][0]["id"].as_str().unwrap();
    let path = format!("/v1/ext/chat/{chat}/message");
    let (_, messages) = answer(scene.post(&path, &json!({}))).await;
    let message = &messages["_data"][0];
    let accepted = &scene.sandbox.record().accepted()[0];
    assert_eq!(message["externalId"].as_str(), accepted.wamid.as_deref());
    assert_eq!(message["direction"], "OUTBOUND");
    assert_eq!(message["dataType"], "text");
    assert!(message["timestamp"].as_i64().unwrap() > 1_700_000_000_000, "milliseconds");
    assert!(!message.to_string().contains("biz_opaque_callback_data"));
}

#[tokio::test]
async fn the_plugins_configuration_names_each_number_and_its_level() {
    let scene = Scene::open(SandboxConfig::default()).await;
    let path = format!("/v1/ext/plugin/whatsapp/{}/config", scene.plugin);
    let (status, body) = answer(scene.request(Method::GET, &path)).await;
    assert_eq!(status, 200);
    let numbers = body["_data"]["whatsappPhoneNumbers"].as_array().unwrap().iter();
    let seen: Vec<_> = numbers
        .map(|number| (number["throughput"]["level"].as_str().unwrap(), &number["is_on_biz_app"]))
        .collect();
    let (no, yes) = (&json!(false), &json!(true));
    assert_eq!(seen, [("STANDARD", no), ("HIGH", no), ("STANDARD", yes)]);
    scene.sandbox.set_token("another");
    assert_eq!(answer(scene.request(Method::GET, &path)).await.0, 401);
}

#[tokio::test]
async fn numbers_come_go_and_change_while_it_runs() {
    let scene = Scene::open(unlimited()).await;
    let path = format!("/v1/ext/plugin/whatsapp/{}/config", scene.plugin);
    let levels = async || {
        let (_, body) = answer(scene.request(Method::GET, &path)).await;
        let numbers = body["_data"]["whatsappPhoneNumbers"].as_array().unwrap().clone();
        numbers.iter().map(|number| number["throughput"]["level"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(levels().await, ["STANDARD"]);
    let high = Number { throughput_level: ThroughputLevel::High, ..Number::new("77") };
    scene.sandbox.set_numbers(vec![Number::new(NUMBER), high]).unwrap();
    assert_eq!(levels().await, ["STANDARD", "HIGH"]);
    let sent = async |number| answer(scene.sending(number, &text("x", "x"))).await.0;
    assert_eq!(sent("77").await, 200);
    let gone = scene.request(Method::PUT, "/sandbox/numbers").body(r#"[{"id": "78"}]"#);
    assert_eq!(answer(gone).await.0, 200);
    assert_eq!((sent("77").await, sent("78").await), (400, 200));
    let twice = vec![Number::new("79"), Number::new("79")];
    assert!(scene.sandbox.set_numbers(twice).is_err());
    assert_eq!(sent("78").await, 200, "the old ones stay");
}

#[tokio::test]
async fn a_real_ceiling_may_be_below_what_the_plugin_says() {
    let scene = Scene::open(unlimited()).await;
    scene.sandbox.set_ceiling(NUMBER, Some(1)).unwrap();
    assert_eq!(scene.send("first").await.0, 200);
    assert_eq!(scene.send("second").await.0, 400);
    let record = scene.sandbox.record();
    assert_eq!(record.count_refused(NUMBER, 130_429), 1);
    assert_eq!(record.accepted_times(NUMBER).count(), 1);
    scene.sandbox.set_ceiling(NUMBER, None).unwrap();
    assert_eq!(scene.send("third").await.0, 200);
}

#[tokio::test]
async fn the_plugins_configuration_may_be_broken_in_each_way() {
    let scene = Scene::open(unlimited()).await;
    let path = format!("/v1/ext/plugin/whatsapp/{}/config", scene.plugin);
    let ask = || scene.request(Method::GET, &path);
    for (mode, status) in [("error", 500), ("forbidden", 403), ("garbage", 200), ("empty", 200)] {
        let body = json!({"plugin": {"mode": mode}}).to_string();
        let set = scene.request(Method::PUT, "/sandbox/settings").body(body);
        assert_eq!(answer(set).await.0, 200);
        let response = ask().send().await.unwrap();
        assert_eq!(response.status(), status, "{mode}");
        let document: Result<Value, _> = serde_json::from_slice(&response.bytes().await.unwrap());
        match mode {
            "empty" => assert_eq!(document.unwrap()["_data"]["whatsappPhoneNumbers"], json!([])),
            "garbage" => assert!(document.is_err()),
            _ => {}
        }
    }
    scene.sandbox.set_plugin_mode(PluginMode::Hang);
    let record = scene.sandbox.record();
    tokio::select! {
        answer = ask().send() => panic!("answered: {answer:?}"),
        () = soon(record.wait_for(|record| record.count_plugin_asked() == 5)) => {}
    }
    scene.sandbox.set_plugin_mode(PluginMode::Ok);
    assert_eq!(answer(ask()).await.0, 200);
}

#[tokio::test]
async fn another_process_reads_the_record_and_changes_the_rules() {
    let scene = Scene::open(unlimited()).await;
    let put = |path, body: Value| {
        let request = scene.request(Method::PUT, path).body(body.to_string());
        async move { answer(request).await }
    };
    let rule = json!([{"first": 1, "answer": {"code": 131_000, "status": 500}}]);
    assert_eq!(put("/sandbox/faults", rule).await.0, 200);
    let (status, wrong) = put("/sandbox/faults", json!([{"frist": 1}])).await;
    assert_eq!(status, 400);
    assert!(wrong.to_string().contains("frist"), "{wrong}");
    assert_eq!(put("/sandbox/settings", json!({"latency": "1ms"})).await.0, 200);
    assert_eq!(scene.send("hello").await.0, 500);
    assert_eq!(scene.send("hello").await.0, 200);
    let (_, record) = answer(scene.request(Method::GET, "/sandbox/record")).await;
    assert_eq!((&record["requests"], &record["accepted"]), (&json!(2), &json!(1)));
    assert_eq!(record["refused_by_code"], json!({"131000": 1}));
    assert_eq!(record["numbers"][NUMBER]["highest_accepted_second"], 1);
    answer(scene.request(Method::DELETE, "/sandbox/record")).await;
    assert_eq!(scene.sandbox.record().count_requests(), 0);
}

#[tokio::test]
async fn a_stop_frees_the_address_and_ends_answers_under_way() {
    let scene = Scene::open(faulty(Fault { hang: true, ..Fault::default() })).await;
    let (addr, record) = (scene.sandbox.addr(), scene.sandbox.record());
    let sending = scene.sending(NUMBER, &text("hello", "hello"));
    let stopping = async {
        record.wait_for(|record| record.count_hung() == 1).await;
        scene.sandbox.stop().await;
    };
    let (sent, ()) = soon(async { tokio::join!(sending.send(), stopping) }).await;
    sent.unwrap_err();
    let again = SandboxConfig { listen: addr, ..unlimited() };
    Sandbox::start(again).await.unwrap();
}
