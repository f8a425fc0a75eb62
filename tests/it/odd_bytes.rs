//! Producers whose short strings are no UTF-8, or whose headers are nested without end. The broker takes
//! them, and hands them on as they are.

use crate::support::raw_amqp::{
    APP_ID, CONTENT_ENCODING, CONTENT_TYPE, CORRELATION_ID, MESSAGE_ID, Property, REPLY_TO,
    RawProducer, TYPE, table,
};
use crate::support::story::{NUMBER, Story, accepted, header, id, job, plain};
use chakra_sender::clock;
use chakra_sender::policy::{self, Failure};
use chakra_sender::queue::Receipt;
use chakra_sender::wire::Class;
use serde_json::{Value, json};

/// A UUID as its bytes.
const RAW: [u8; 16] = *b"\xff\xfe\x80ab\xc0\xc1\xf5c\xed\xa0\x80\xe9\xbf\x00\xff";

/// As long as a short string can be. Each byte needs three where it is replaced.
const LONGEST: [u8; 255] = [0xff; 255];

/// "größe" in Latin-1.
const LATIN_1: &[u8] = b"gr\xf6\xdfe";

type Properties<'a> = &'a [(Property, &'a [u8])];

/// A story with a raw producer beside it.
struct Odd {
    story: Story,
    raw: RawProducer,
}

impl Odd {
    async fn begin() -> Odd {
        let story = Story::with_lane().await;
        let raw = RawProducer::connect(story.broker.uri()).await;
        Odd { story, raw }
    }

    async fn publish(&mut self, key: &[u8], properties: Properties<'_>, table: &[u8], job: &Value) {
        let (exchange, body) = (self.story.broker.names().sends(), job.to_string());
        self.raw.publish((&exchange, key), properties, table, body.as_bytes()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_properties_and_header_names_harm_no_neighbour() {
    let mut odd = Odd::begin().await;
    odd.story.publish(NUMBER, &job("before"), plain()).await;
    let before = odd.story.next().await;
    let texts = [CONTENT_TYPE, CONTENT_ENCODING, CORRELATION_ID, REPLY_TO, TYPE, APP_ID];
    let named = table(&[(LATIN_1, b"40"), (b"x-plain", b"yes")]);
    odd.publish(NUMBER.as_bytes(), &texts.map(|text| (text, &RAW[..])), &table(&[]), &job("raw"))
        .await;
    odd.publish(NUMBER.as_bytes(), &[], &named, &job("latin-1")).await;
    odd.story.publish(NUMBER, &job("after"), plain()).await;

    let mut all = vec![before];
    for expected in ["raw", "latin-1", "after"] {
        let incoming = odd.story.next().await;
        assert_eq!((id(&incoming), incoming.earlier), (expected, 0));
        all.push(incoming);
    }
    // The connection that brought the first one is the one that brought the last.
    assert!(all.iter().all(|incoming| incoming.receipt.is_ours()));
    for incoming in all {
        let settlement = accepted(&incoming);
        let expected = id(&incoming).to_owned();
        incoming.receipt.settle(&settlement, ()).await.unwrap();
        let (event, _) = odd.story.result().await;
        assert_eq!((&event["id"], &event["status"]), (&json!(expected), &json!("accepted")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_carried_on_shows_where_bytes_were_replaced_and_keeps_the_rest() {
    let mut odd = Odd::begin().await;
    let named = table(&[(LATIN_1, b"40"), (&LONGEST, b"long"), (b"x-plain", b"yes")]);
    let texts = [(CORRELATION_ID, &LONGEST[..]), (APP_ID, "größe".as_bytes()), (TYPE, LATIN_1)];
    odd.publish(NUMBER.as_bytes(), &texts, &named, &job("order-1")).await;
    let incoming = odd.story.next().await;
    let job = incoming.job.as_ref().unwrap();
    let failure = Failure::new(Class::Ambiguous, "it may have been sent");
    let end = policy::turned_away(job, &incoming.history, &failure, clock::wall());
    incoming.receipt.settle(&end, ()).await.unwrap();

    let dead = odd.story.client.take(&odd.story.broker.names().dead_letters()).await;
    let properties = &dead.properties;
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "größe");
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "gr\u{fffd}\u{fffd}e");
    let longest = "\u{fffd}".repeat(85);
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), longest);
    assert_eq!(header(&dead, "gr\u{fffd}\u{fffd}e").unwrap(), "40");
    assert_eq!(header(&dead, &longest).unwrap(), "long");
    assert_eq!(header(&dead, "x-plain").unwrap(), "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_id_that_is_no_text_names_no_job() {
    let mut odd = Odd::begin().await;
    let mut nameless = job("");
    nameless.as_object_mut().unwrap().remove("id");
    let mut held = Vec::new();
    // Were the odd byte merely left out, these two would be one job.
    for message_id in [&b"order-\xe9"[..], b"order-\xe8"] {
        odd.publish(NUMBER.as_bytes(), &[(MESSAGE_ID, message_id)], &table(&[]), &nameless).await;
        let incoming = odd.story.next().await;
        let invalid = incoming.job.as_ref().unwrap_err();
        assert!(invalid.reason.contains("ASCII"), "{invalid}");
        assert_eq!(incoming.earlier, 0);
        held.push(incoming);
    }
    assert!(held.iter().all(|incoming| incoming.receipt.is_ours()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_routing_key_that_is_no_text_is_refused_and_harms_no_neighbour() {
    let mut odd = Odd::begin().await;
    odd.story.publish(NUMBER, &job("before"), plain()).await;
    let before = odd.story.next().await;
    odd.publish(LATIN_1, &[], &table(&[]), &job("odd")).await;
    let (event, _) = odd.story.result().await;
    assert_eq!((&event["id"], &event["status"]), (&json!("odd"), &json!("failed")));
    assert!(before.receipt.is_ours());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_nested_as_deep_as_a_frame_allows_harms_no_neighbour() {
    let mut odd = Odd::begin().await;
    odd.story.publish(NUMBER, &job("before"), plain()).await;
    let before = odd.story.next().await;
    odd.publish(NUMBER.as_bytes(), &[], &nested(20_000), &job("deep")).await;
    odd.story.publish(NUMBER, &job("after"), plain()).await;
    let (deep, after) = (odd.story.next().await, odd.story.next().await);
    assert_eq!((id(&deep), id(&after)), ("deep", "after"));
    assert!(deep.earlier == 0 && before.receipt.is_ours());

    let failure = Failure::new(Class::Ambiguous, "it may have been sent");
    let end =
        policy::turned_away(deep.job.as_ref().unwrap(), &deep.history, &failure, clock::wall());
    deep.receipt.settle(&end, ()).await.unwrap();
    let dead = odd.story.client.take(&odd.story.broker.names().dead_letters()).await;
    assert_eq!(header(&dead, "x-plain").unwrap(), "yes");
}

/// A table with arrays within each other, and a plain value after them.
fn nested(levels: u32) -> Vec<u8> {
    // An array's type and length.
    const LEVEL: u32 = 5;
    let mut entries = b"\x04deep".to_vec();
    for inner in (0..levels).rev() {
        entries.push(b'A');
        entries.extend((inner * LEVEL).to_be_bytes());
    }
    let plain = table(&[(b"x-plain", b"yes")]);
    entries.extend(&plain[4..]);
    [&u32::try_from(entries.len()).unwrap().to_be_bytes(), &entries[..]].concat()
}
