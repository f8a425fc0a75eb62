//! The plugin's configuration, as far as it is about phone numbers (which there are, and how fast each may
//! be) and about webhooks. ChakraHQ's snapshot, of unknown age; what follows from it is decided elsewhere.

use super::envelope::Body;
use super::exchange::{Exchange, Reply};
use super::redact::redact;
use crate::wire::NumberId;
use serde_json::Value;

/// Where the configuration may stand: bare, as documented, or in ChakraHQ's envelope.
const PLACES: [&str; 2] = ["", "/_data"];

/// The list of numbers in it.
const LIST: &str = "whatsappPhoneNumbers";

/// The longest vendor text in an error, in characters.
const MAX_REASON_CHARS: usize = 300;

/// The most messages a second that Meta takes from a number, by its `throughput.level`
/// (meta/throughput).
const CEILINGS: [(&str, u32); 2] = [("STANDARD", 80), ("HIGH", 1_000)];

/// That of a number which also lives in the WhatsApp Business app, whatever its level says, and of one
/// whose level says nothing that we know (`NOT_APPLICABLE`, a later word, none).
const LOWEST_CEILING: u32 = 20;

/// What the plugin says about its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plugin {
    /// Its numbers, in its order.
    pub numbers: Vec<PluginNumber>,
    /// Entries that could not be read.
    pub skipped: usize,
    /// Whether there was a list at all.
    pub listed: bool,
    /// Where it tells what becomes of messages.
    pub webhooks: Webhooks,
}

/// The plugin's webhooks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhooks {
    /// Where Meta's own body goes; none: nowhere.
    pub pass_through: Option<String>,
    /// Where ChakraHQ's own body goes; none: nowhere, or it is switched off.
    pub chakra: Option<String>,
    /// Which events ChakraHQ's own are sent for.
    pub events: Vec<String>,
}

impl Plugin {
    /// Whether a number that is not in the list is surely not the plugin's.
    pub fn is_complete(&self) -> bool {
        self.listed && self.skipped == 0
    }
}

/// One number of the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginNumber {
    /// Meta's phone number ID.
    pub id: NumberId,
    /// Meta's `verified_name`: what recipients see.
    pub name: Option<String>,
    /// Meta's `throughput.level`: `STANDARD`, `HIGH`, `NOT_APPLICABLE`, or what comes later.
    pub throughput_level: Option<String>,
    /// Whether the number also lives in the WhatsApp Business app, which makes it slow.
    pub is_on_biz_app: bool,
    /// Such as `CONNECTED`. Advice only: sends have worked while it said otherwise.
    pub status: Option<String>,
}

impl PluginNumber {
    /// The most messages a second that Meta takes from it, inbound ones included.
    pub fn ceiling(&self) -> u32 {
        let level = self.throughput_level.as_deref().filter(|_| !self.is_on_biz_app);
        let known = CEILINGS.into_iter().find(|(name, _)| Some(*name) == level);
        known.map_or(LOWEST_CEILING, |(_, ceiling)| ceiling)
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PluginError {
    /// HTTP 401 or 403.
    #[error("ChakraHQ refuses the token (HTTP {status}): check chakra.token and its role")]
    Token {
        /// Which of the two.
        status: u16,
    },
    /// HTTP 404.
    #[error("ChakraHQ does not know the plugin (HTTP 404): check chakra.plugin_id")]
    UnknownPlugin,
    /// No status came back.
    #[error("ChakraHQ does not answer at chakra.base_url: {0}")]
    Unreachable(String),
    /// Any other answer.
    #[error("ChakraHQ answered HTTP {status}: {reason}")]
    Unexpected {
        /// Its status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the answer to `GET …/config`. `tokens` are what must not show in any text.
pub(super) fn read(exchange: Exchange, tokens: &str) -> Result<Plugin, PluginError> {
    let reply = match exchange {
        Exchange::NeverSent(reason) | Exchange::NoAnswer(reason) => {
            return Err(PluginError::Unreachable(redact(&reason, tokens)));
        }
        Exchange::Answered(reply) => reply,
    };
    match reply.status {
        401 | 403 => return Err(PluginError::Token { status: reply.status }),
        404 => return Err(PluginError::UnknownPlugin),
        _ => {}
    }
    let body = Body::read(&reply.body, reply.whole);
    let json = body.json().filter(|_| reply.is_success());
    let found = json.and_then(|json| {
        PLACES.iter().find_map(|place| {
            let config = json.pointer(place)?;
            Some((config, config.get(LIST)?.as_array()?))
        })
    });
    match (found, body.json()) {
        (Some((config, list)), _) => Ok(plugin(config, list)),
        (None, Some(Value::Object(_))) if reply.is_success() && body.is_clean() => {
            let webhooks = Webhooks::default();
            Ok(Plugin { numbers: Vec::new(), skipped: 0, listed: false, webhooks })
        }
        _ => Err(unexpected(&reply, &body, tokens)),
    }
}

fn plugin(config: &Value, list: &[Value]) -> Plugin {
    let numbers: Vec<_> = list.iter().filter_map(number).collect();
    let skipped = list.len() - numbers.len();
    Plugin { numbers, skipped, listed: true, webhooks: webhooks(config) }
}

fn webhooks(config: &Value) -> Webhooks {
    let url = |field: &str| {
        let url = config.get(field)?.as_str()?.trim();
        (!url.is_empty()).then(|| url.to_owned())
    };
    let is_on = config.get("enableChakraWebhook").and_then(Value::as_bool).unwrap_or(false);
    let events = config.get("whichChakraWebhookEventsToSend").and_then(Value::as_array);
    let words = events.into_iter().flatten().filter_map(Value::as_str);
    Webhooks {
        pass_through: url("passThroughWebhookUrl"),
        chakra: url("chakraWebhookUrl").filter(|_| is_on),
        events: words.map(str::to_owned).collect(),
    }
}

fn number(entry: &Value) -> Option<PluginNumber> {
    let id = match entry.get("id")? {
        Value::String(id) => NumberId::parse(id.trim()),
        Value::Number(id) => NumberId::parse(&id.to_string()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let text = |place| entry.pointer(place).and_then(Value::as_str).map(str::to_owned);
    Some(PluginNumber {
        id: id.ok()?,
        name: text("/verified_name"),
        throughput_level: text("/throughput/level").or_else(|| text("/throughput")),
        is_on_biz_app: match entry.get("is_on_biz_app") {
            Some(Value::Bool(yes)) => *yes,
            Some(Value::String(word)) => word.eq_ignore_ascii_case("true"),
            _ => false,
        },
        status: text("/status"),
    })
}

fn unexpected(reply: &Reply, body: &Body, tokens: &str) -> PluginError {
    let complaint = body.complaint(reply.status).or_else(|| body.remark());
    let reason = match complaint.and_then(|complaint| complaint.text) {
        Some(text) => redact(&text, tokens).chars().take(MAX_REASON_CHARS).collect(),
        None if !reply.whole => "the body broke off or is too long".into(),
        None => "not the configuration of a plugin: check chakra.base_url".into(),
    };
    PluginError::Unexpected { status: reply.status, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    #[test]
    fn numbers_are_read_bare_and_in_the_envelope() {
        let config = json!({
            "chakraWebhookUrl": null,
            "whatsappPhoneNumbers": [
                { "id": "1027729340496751", "status": "CONNECTED", "is_on_biz_app": false,
                  "throughput": { "level": "STANDARD" }, "verified_name": "Shop" },
                { "id": 1027, "throughput": "HIGH", "is_on_biz_app": "TRUE" },
                { "id": "1028" },
            ],
        });
        for body in [config.clone(), json!({ "_data": config, "_errors": [] })] {
            let plugin = answered(200, &body.to_string()).unwrap();
            assert!(plugin.is_complete());
            assert_eq!(
                plugin.numbers,
                [
                    PluginNumber {
                        name: Some("Shop".to_owned()),
                        ..number("1027729340496751", Some("STANDARD"), false, Some("CONNECTED"))
                    },
                    number("1027", Some("HIGH"), true, None),
                    number("1028", None, false, None),
                ]
            );
        }
    }

    #[test]
    fn the_app_decides_over_the_level_and_what_says_nothing_is_the_lowest() {
        for (level, app, ceiling) in [
            (Some("STANDARD"), false, 80),
            (Some("HIGH"), false, 1_000),
            (Some("STANDARD"), true, 20),
            (Some("HIGH"), true, 20),
            (Some("NOT_APPLICABLE"), false, 20),
            (Some("ULTRA"), false, 20),
            (None, false, 20),
            (None, true, 20),
        ] {
            assert_eq!(number("1", level, app, None).ceiling(), ceiling, "{level:?} {app}");
        }
    }

    #[test]
    fn a_strange_entry_is_skipped_and_counted() {
        let body = json!({ "whatsappPhoneNumbers": [
            null, 7, [], {}, { "id": null }, { "id": "+91 99" }, { "id": -3 },
            { "id": "1028", "throughput": [], "is_on_biz_app": {}, "status": 1 },
        ]});
        let plugin = answered(200, &body.to_string()).unwrap();
        assert_eq!(plugin.numbers, [number("1028", None, false, None)]);
        assert_eq!(plugin.skipped, 7);
        assert!(!plugin.is_complete());
    }

    #[test]
    fn a_missing_list_is_not_an_empty_one() {
        for body in ["{}", r#"{"whatsappPhoneNumbers":null}"#, r#"{"_data":{"x":1}}"#] {
            let plugin = answered(200, body).unwrap();
            assert_eq!((plugin.numbers.len(), plugin.is_complete()), (0, false), "{body}");
        }
        assert!(answered(200, r#"{"whatsappPhoneNumbers":[]}"#).unwrap().is_complete());
    }

    #[test]
    fn webhooks_go_where_they_are_switched_on() {
        for (is_on, chakra) in [(true, Some("https://two")), (false, None)] {
            let config = json!({
                "passThroughWebhookUrl": "https://one", "enableChakraWebhook": is_on,
                "chakraWebhookUrl": "https://two", "whichChakraWebhookEventsToSend": ["status", 1],
                "whatsappPhoneNumbers": [],
            });
            let webhooks = answered(200, &json!({ "_data": config }).to_string()).unwrap().webhooks;
            assert_eq!(webhooks.pass_through.as_deref(), Some("https://one"));
            assert_eq!(webhooks.chakra.as_deref(), chakra);
            assert_eq!(webhooks.events, ["status"]);
        }
        let unset = json!({ "passThroughWebhookUrl": "", "whatsappPhoneNumbers": [] });
        assert_eq!(answered(200, &unset.to_string()).unwrap().webhooks, Webhooks::default());
    }

    #[test]
    fn errors_tell_what_to_check() {
        let unexpected =
            |status, reason: &str| Err(PluginError::Unexpected { status, reason: reason.into() });
        let not_config = "not the configuration of a plugin: check chakra.base_url";
        assert_eq!(answered(401, "{}"), Err(PluginError::Token { status: 401 }));
        assert_eq!(answered(403, ""), Err(PluginError::Token { status: 403 }));
        assert_eq!(answered(404, "<html>"), Err(PluginError::UnknownPlugin));
        assert_eq!(answered(200, "<html>"), unexpected(200, not_config));
        assert_eq!(answered(302, ""), unexpected(302, not_config));
        assert_eq!(answered(200, r#"{"_errors":["no sesame"]}"#), unexpected(200, "no [token]"));
        assert_eq!(answered(500, r#"{"message":"oh"}"#), unexpected(500, "oh"));
        let unreachable = read(Exchange::NeverSent("refused".into()), "sesame");
        assert_eq!(unreachable, Err(PluginError::Unreachable("refused".into())));
    }

    fn answered(status: u16, body: &str) -> Result<Plugin, PluginError> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let reply = Reply { status, retry_after: vec![], location: None, body, whole: true };
        read(Exchange::Answered(reply), "sesame")
    }

    fn number(id: &str, level: Option<&str>, app: bool, status: Option<&str>) -> PluginNumber {
        PluginNumber {
            id: NumberId::parse(id).unwrap(),
            name: None,
            throughput_level: level.map(str::to_owned),
            is_on_biz_app: app,
            status: status.map(str::to_owned),
        }
    }
}
