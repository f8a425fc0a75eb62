//! The plugin's configuration, from which a sender learns its numbers and their ceilings.
//!
//! Builds one document. The real ceilings are enforced by `limits`, whatever is shown here.

use serde_json::{Map, Value, json};

use super::{
    numbers::Number,
    webhook::{Form, Webhook},
};

/// The id of the WhatsApp Business account.
pub(super) const ACCOUNT: &str = "1029384756101112";

/// The events in ChakraHQ's own shape, as far as the sandbox posts them.
const CHAKRA_EVENTS: [&str; 3] = ["message", "status", "smb_message_echo"];

/// The answer of `GET …/config`, with the fields of `shown` in place of the true ones.
pub(super) fn config(numbers: &[Number], webhook: &Webhook, shown: &Map<String, Value>) -> Value {
    let phone_numbers: Vec<Value> = numbers.iter().map(phone_number).collect();
    let posted = |form| webhook.url.as_deref().filter(|_| webhook.shape.forms().contains(&form));
    let chakra = posted(Form::Chakra);
    let events = chakra.map_or(&[][..], |_| &CHAKRA_EVENTS);
    let mut document = json!({"_data": {
        "passThroughWebhookUrl": posted(Form::PassThrough),
        "enableMessageEchoesForPassThroughWebhook": false,
        "enableSendMessageTemplateEventForPassThroughWebhook": false,
        "enableChakraWebhook": chakra.is_some(),
        "chakraWebhookUrl": chakra,
        "whichChakraWebhookEventsToSend": events,
        "whatsappBusinessAccounts": [{"id": ACCOUNT, "name": "Sandbox"}],
        "whatsappPhoneNumbers": phone_numbers,
    }, "_meta": {}, "_errors": []});
    for (field, value) in shown {
        document["_data"][field] = value.clone();
    }
    document
}

fn phone_number(number: &Number) -> Value {
    json!({
        "id": number.id,
        "status": number.status,
        "throughput": {"level": number.throughput_level},
        "account_mode": "LIVE",
        "is_on_biz_app": number.is_on_biz_app,
        "platform_type": "CLOUD_API",
        "verified_name": "Sandbox",
        "display_phone_number": number.display_phone_number,
        "quality_rating": "GREEN",
    })
}
