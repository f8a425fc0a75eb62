//! The chat listings: what was sent, as ChakraHQ's chat APIs show it.
//!
//! Keeps sends and builds pages. Who may ask is decided elsewhere. No listed message carries the
//! caller's `biz_opaque_callback_data` or names the sending number, as in the vendor's sample.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{DefaultHasher, Hash, Hasher},
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::config::Listings;

/// Sends kept for the listings; the oldest leave first.
const KEPT_SENDS: usize = 50_000;
/// Greatest page of messages, and of chats; clients of the real API say so.
const MOST_MESSAGES: usize = 1_000;
const MOST_CHATS: usize = 100;
/// The page when none is named. The real one is unknown.
const USUAL_PAGE: usize = 20;

/// One accepted message.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) wamid: String,
    /// The recipient in digits.
    pub(super) to: String,
    pub(super) kind: String,
    /// The body as it was sent.
    pub(super) body: Bytes,
    pub(super) accepted: Instant,
    /// Unix time in milliseconds.
    pub(super) accepted_ms: i64,
    /// A throw of the dice in 0..1: whether a listing omits it.
    pub(super) chance: f64,
}

/// What a caller may ask of a listing.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Query {
    customer_phone_number: Option<String>,
    search: Option<String>,
    order_direction: Option<String>,
    limit: Option<usize>,
    page: Option<usize>,
}

impl Query {
    pub(super) fn customer(&self) -> Option<String> {
        self.customer_phone_number.as_deref().map(digits)
    }

    fn page<T>(&self, most: usize, all: impl Iterator<Item = T>) -> Vec<T> {
        let limit = self.limit.unwrap_or(USUAL_PAGE).min(most);
        // Pages count from 1.
        let before = self.page.unwrap_or(1).saturating_sub(1).saturating_mul(limit);
        all.skip(before).take(limit).collect()
    }
}

/// All sends that can be listed.
#[derive(Debug, Default)]
pub(super) struct Sends {
    all: VecDeque<Sent>,
    /// How many have left, which is the number of the first one that is here.
    left: usize,
    /// The numbers of those to each customer: a load of listings must not stop the sending beside it.
    to: HashMap<String, VecDeque<usize>>,
}

impl Sends {
    pub(super) fn push(&mut self, sent: Sent) {
        if self.all.len() == KEPT_SENDS
            && let Some(oldest) = self.all.pop_front()
        {
            self.left += 1;
            if let Entry::Occupied(mut to) = self.to.entry(rewritten(&oldest.to).into_owned()) {
                to.get_mut().pop_front();
                if to.get().is_empty() {
                    to.remove();
                }
            }
        }
        let number = self.left + self.all.len();
        self.to.entry(rewritten(&sent.to).into_owned()).or_default().push_back(number);
        self.all.push_back(sent);
    }

    /// A page of the messages with one customer, newest first.
    pub(super) fn with_customer(
        &self,
        settings: &Listings,
        now: Instant,
        plugin: &str,
        customer: &str,
        query: &Query,
    ) -> Value {
        let numbers = self.to.get(rewritten(customer).as_ref());
        let sent = numbers.into_iter().flatten().rev().map(|number| &self.all[number - self.left]);
        let visible = visible(settings, now, sent).filter(|(filed, _)| filed == customer);
        messages(settings, plugin, query, visible)
    }

    /// A page of the messages of one chat, newest first.
    pub(super) fn in_chat(
        &self,
        settings: &Listings,
        now: Instant,
        plugin: &str,
        chat: &str,
        query: &Query,
    ) -> Value {
        let visible = self.visible(settings, now);
        messages(settings, plugin, query, visible.filter(|(filed, _)| uuid("chat", filed) == chat))
    }

    /// A page of the chats, newest first unless asked otherwise.
    pub(super) fn chats(&self, settings: &Listings, now: Instant, query: &Query) -> Value {
        let wanted = query.search.as_deref().map(digits).filter(|digits| !digits.is_empty());
        let mut chats: Vec<(Cow<'_, str>, i64, i64)> = Vec::new();
        let mut known: HashMap<Cow<'_, str>, usize> = HashMap::new();
        for (filed, sent) in self.visible(settings, now) {
            if let Some(index) = known.get(&filed) {
                chats[*index].1 = sent.accepted_ms;
            } else if wanted.as_ref().is_none_or(|wanted| filed.contains(wanted.as_str())) {
                known.insert(filed.clone(), chats.len());
                chats.push((filed, sent.accepted_ms, sent.accepted_ms));
            }
        }
        if query.order_direction.as_deref().is_some_and(|order| order.eq_ignore_ascii_case("asc")) {
            chats.reverse();
        }
        let chat = |(filed, first, latest): (Cow<'_, str>, i64, i64)| {
            json!({
                "id": uuid("chat", &filed),
                "primaryContactHandle": {"value": filed, "type": "PHONE_NUMBER"},
                "latestMessageTs": latest, "status": "OPEN", "initiatedDirection": "OUTBOUND",
                "createdAt": first, "updatedAt": latest,
            })
        };
        enveloped(query.page(MOST_CHATS, chats.into_iter().map(chat)))
    }

    /// What can be seen now, newest first, each with the number it is filed under.
    fn visible<'a>(
        &'a self,
        settings: &'a Listings,
        now: Instant,
    ) -> impl Iterator<Item = (Cow<'a, str>, &'a Sent)> {
        visible(settings, now, self.all.iter().rev())
    }
}

/// What can be seen now of these, each with the number it is filed under.
fn visible<'a>(
    settings: &'a Listings,
    now: Instant,
    sent: impl Iterator<Item = &'a Sent>,
) -> impl Iterator<Item = (Cow<'a, str>, &'a Sent)> {
    let shown = move |sent: &&Sent| settings.shows(sent.accepted, sent.chance, now);
    sent.filter(shown).map(|sent| {
        let to = sent.to.as_str();
        (if settings.rewrite_numbers { rewritten(to) } else { to.into() }, sent)
    })
}

fn messages<'a>(
    settings: &Listings,
    plugin: &str,
    query: &Query,
    of: impl Iterator<Item = (Cow<'a, str>, &'a Sent)>,
) -> Value {
    let listed = of.map(|(filed, sent)| listed(sent, &filed, plugin, settings.reshape));
    enveloped(query.page(MOST_MESSAGES, listed))
}

fn enveloped(items: Vec<Value>) -> Value {
    json!({"_data": items, "_meta": {}, "_errors": []})
}

/// A message object, with the fields of the vendor's sample.
fn listed(sent: &Sent, filed: &str, plugin: &str, reshape: bool) -> Value {
    let content = content(sent, reshape);
    let text = content["text"]["body"].clone();
    json!({
        "id": uuid("message", &sent.wamid),
        "chat": uuid("chat", filed),
        "plugin": plugin,
        "externalId": sent.wamid,
        "provider": "WHATSAPP",
        "dataType": sent.kind,
        "body": content,
        "text": text,
        "attachments": [],
        "deliveryStatus": "SENT",
        "direction": "OUTBOUND",
        "process": null,
        "campaign": null,
        "inReplyTo": null,
        "source": null,
        "timestamp": sent.accepted_ms,
        "createdAt": sent.accepted_ms,
        "updatedAt": sent.accepted_ms,
    })
}

/// The Meta-like body: the type and the object of its name.
fn content(sent: &Sent, reshape: bool) -> Value {
    let sent_body: Value = serde_json::from_slice(&sent.body).unwrap_or_default();
    let mut inner = sent_body[sent.kind.as_str()].clone();
    if reshape {
        if let Some(text) = inner["body"].as_str().map(|text| text.trim().to_owned()) {
            inner["body"] = text.into();
        }
        if let Some(fields) = inner.as_object_mut() {
            fields.entry("preview_url").or_insert(false.into());
        }
    }
    let mut content = Map::from_iter([
        ("type".to_owned(), Value::from(sent.kind.as_str())),
        (sent.kind.clone(), inner),
    ]);
    if reshape {
        content.insert("from".to_owned(), Value::Null);
        content.insert("id".to_owned(), Value::from(sent.wamid.as_str()));
    }
    content.into()
}

/// As Meta rewrites Mexican and Brazilian mobile numbers: without the 1, without the 9.
fn rewritten(number: &str) -> Cow<'_, str> {
    match number.as_bytes() {
        [b'5', b'2', b'1', ..] if number.len() == 13 => format!("52{}", &number[3..]).into(),
        [b'5', b'5', _, _, b'9', ..] if number.len() == 13 => {
            format!("{}{}", &number[..4], &number[5..]).into()
        }
        _ => number.into(),
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

/// An id in the form of a UUID, the same for the same thing in each run.
pub(super) fn uuid(what: &str, name: &str) -> String {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (what, name, salt).hash(&mut hasher);
        format!("{:016x}", hasher.finish())
    };
    let (a, b) = (half(0), half(1));
    format!("{}-{}-4{}-a{}-{}", &a[..8], &a[8..12], &a[13..], &b[1..4], &b[4..])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sent(wamid: &str, to: &str, accepted: Instant, chance: f64) -> Sent {
        Sent {
            wamid: wamid.into(),
            to: to.into(),
            kind: "text".into(),
            body: Bytes::from_static(
                br#"{"to":"+49","type":"text","text":{"body":" Hi "},"biz_opaque_callback_data":"j"}"#,
            ),
            accepted,
            accepted_ms: 1_700_000_000_000,
            chance,
        }
    }

    fn sends(items: impl IntoIterator<Item = Sent>) -> Sends {
        let mut sends = Sends::default();
        items.into_iter().for_each(|sent| sends.push(sent));
        sends
    }

    /// The ids listed for a customer.
    fn ids(
        sends: &Sends,
        settings: &Listings,
        now: Instant,
        customer: &str,
        query: Value,
    ) -> String {
        let query: Query = serde_json::from_value(query).unwrap();
        let page = sends.with_customer(settings, now, "plugin", customer, &query);
        let ids = page["_data"].as_array().unwrap().iter();
        ids.map(|message| message["externalId"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_oldest_leave_and_the_others_are_found_by_their_customer() {
        let now = Instant::now();
        let to = |nth: usize| format!("49{}", nth % 2);
        let all = (0..KEPT_SENDS + 3).map(|nth| sent(&format!("w{nth}"), &to(nth), now, 1.0));
        let mut all = sends(all);
        let first = json!({"limit": 1, "page": KEPT_SENDS / 2});
        let listed =
            |all: &Sends, customer| ids(all, &Listings::default(), now, customer, first.clone());
        assert_eq!((listed(&all, "490"), listed(&all, "491")), ("w4".into(), "w3".into()));
        assert_eq!(ids(&all, &Listings::default(), now, "492", json!({})), "");
        (0..KEPT_SENDS).for_each(|_| all.push(sent("w", "493", now, 1.0)));
        assert_eq!((all.to.len(), all.all.len()), (1, KEPT_SENDS));
    }

    #[test]
    fn a_customer_is_listed_newest_first_in_pages_from_one() {
        let now = Instant::now();
        let all = ["a", "b", "c"].map(|id| sent(id, "49", now, 1.0));
        let sends = sends(all.into_iter().chain([sent("other", "50", now, 1.0)]));
        let ids = |query| ids(&sends, &Listings::default(), now, "49", query);
        assert_eq!(ids(json!({})), "c b a");
        assert_eq!(ids(json!({"limit": 2})), "c b");
        assert_eq!(ids(json!({"limit": 2, "page": 2})), "a");
        assert_eq!(ids(json!({"limit": 2, "page": 3})), "");
    }

    #[test]
    fn lag_and_omission_hide_messages() {
        let now = Instant::now();
        let sends = sends([sent("omitted", "49", now, 0.2), sent("late", "49", now, 0.8)]);
        let settings = Listings { lag: Duration::from_secs(2), omit: 0.5, ..Listings::default() };
        let ids = |seconds| {
            let then = now + Duration::from_secs(seconds);
            ids(&sends, &settings, then, "49", json!({}))
        };
        assert_eq!(ids(1), "");
        assert_eq!(ids(2), "late");
    }

    #[test]
    fn a_rewritten_number_is_found_only_under_its_new_form() {
        for (number, expected) in [
            ("5215512345678", "525512345678"),
            ("5511987654321", "551187654321"),
            ("551187654321", "551187654321"),
            ("919901258433", "919901258433"),
        ] {
            assert_eq!(rewritten(number), expected);
        }
        let now = Instant::now();
        let sends = sends([sent("a", "5215512345678", now, 1.0)]);
        let settings = Listings { rewrite_numbers: true, ..Listings::default() };
        assert_eq!(ids(&sends, &settings, now, "5215512345678", json!({})), "");
        assert_eq!(ids(&sends, &settings, now, "525512345678", json!({})), "a");
    }

    #[test]
    fn a_listed_message_hides_the_callers_data_and_the_sending_number() {
        let message = listed(&sent("a", "49", Instant::now(), 1.0), "49", "plugin", false);
        assert_eq!(message["body"], json!({"type": "text", "text": {"body": " Hi "}}));
        assert_eq!(message["text"], " Hi ");
        assert_eq!(message["direction"], "OUTBOUND");
        assert_eq!(message["timestamp"], 1_700_000_000_000_i64);
        let reshaped = listed(&sent("a", "49", Instant::now(), 1.0), "49", "plugin", true);
        let text = json!({"body": "Hi", "preview_url": false});
        assert_eq!(
            reshaped["body"],
            json!({"type": "text", "text": text, "from": null, "id": "a"})
        );
        assert_eq!(reshaped["text"], "Hi");
    }

    #[test]
    fn chats_lead_to_their_messages() {
        let now = Instant::now();
        let sends = sends([sent("a", "49", now, 1.0), sent("b", "50", now, 1.0)]);
        let settings = Listings::default();
        let query: Query = serde_json::from_value(json!({"search": "+49"})).unwrap();
        let chats = sends.chats(&settings, now, &query);
        assert_eq!(chats["_data"].as_array().unwrap().len(), 1);
        assert_eq!(chats["_data"][0]["primaryContactHandle"]["value"], "49");
        let chat = chats["_data"][0]["id"].as_str().unwrap();
        assert_eq!(chat.len(), 36);
        let messages = sends.in_chat(&settings, now, "plugin", chat, &Query::default());
        assert_eq!(messages["_data"][0]["externalId"], "a");
    }
}
