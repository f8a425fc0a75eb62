//! The plugin's configuration, from which a sender learns its numbers and their ceilings.
//!
//! Builds one document. The real ceilings are enforced by `limits`, whatever is shown here.

use serde_json::{Value, json};

use super::numbers::Number;

const ACCOUNT: &str = "1029384756101112";

/// The answer of `GET …/config`.
pub(super) fn config(numbers: &[Number]) -> Value {
    let phone_numbers: Vec<Value> = numbers.iter().map(phone_number).collect();
    json!({"_data": {
        "passThroughWebhookUrl": null,
        "enableMessageEchoesForPassThroughWebhook": false,
        "enableSendMessageTemplateEventForPassThroughWebhook": false,
        "enableChakraWebhook": false,
        "chakraWebhookUrl": null,
        "whichChakraWebhookEventsToSend": [],
        "whatsappBusinessAccounts": [{"id": ACCOUNT, "name": "Sandbox"}],
        "whatsappPhoneNumbers": phone_numbers,
    }, "_meta": {}, "_errors": []})
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
