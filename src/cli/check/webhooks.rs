//! `check`: whether the plugin's webhooks come to where this worker listens. Quiet: it compares values. An
//! address can hold a secret, so no more than its host is shown.

use super::Line;
use crate::chakra::Webhooks;
use crate::config::WebhookSettings;
use reqwest::Url;
use secrecy::ExposeSecret;

/// The event that the Chakra webhook must be told to send.
const STATUS: &str = "status";

/// Lines about what is set and what is expected. `update` is the address by which the plugin is changed.
pub(super) fn compare(is: &Webhooks, expected: &WebhookSettings, update: &str) -> Vec<Line> {
    let shown = format!(
        "pass-through to {}, Chakra webhook to {}",
        host(is.pass_through.as_deref()),
        host(is.chakra.as_deref())
    );
    let Some(address) = address(expected) else {
        let note = format!(
            "the plugin's webhooks: {shown}; with webhook.public_url set they are compared with it"
        );
        return vec![Line::Note(note)];
    };
    let comes_here = |url: &Option<String>| {
        url.as_deref().is_some_and(|url| url.trim_end_matches('/') == address)
    };
    let has_status = is.events.iter().any(|event| event == STATUS);
    match (comes_here(&is.pass_through), comes_here(&is.chakra), has_status) {
        (true, false, _) => {
            vec![Line::Tick("the plugin's pass-through webhook comes to webhook.public_url".into())]
        }
        (true, true, _) => vec![
            Line::Tick("the plugin's pass-through webhook comes to webhook.public_url".into()),
            Line::Note("its Chakra webhook does too: the second of each status is dropped".into()),
        ],
        (false, true, true) => vec![Line::Note(
            "statuses come by the Chakra webhook alone, which names no job: jobs are told only where the \
             worker that sent them gets the webhook; better is the pass-through webhook"
                .into(),
        )],
        (false, true, false) => vec![Line::Cross(
            "the Chakra webhook comes to webhook.public_url, but without its event \"status\"".into(),
            format!(
                "on the plugin's page in ChakraHQ, or by POST {update}: set passThroughWebhookUrl to \
                 webhook.public_url, or add \"status\" to whichChakraWebhookEventsToSend"
            ),
        )],
        (false, false, _) => vec![Line::Cross(
            format!("no webhook of the plugin comes to webhook.public_url: {shown}"),
            format!(
                "on the plugin's page in ChakraHQ, or by POST {update}: set passThroughWebhookUrl to \
                 {}",
                told(expected)
            ),
        )],
    }
}

/// Where webhooks must come to.
fn address(expected: &WebhookSettings) -> Option<String> {
    let url = expected.public_url.as_deref()?;
    Some(match expected.proof.segment() {
        Some(segment) => format!("{url}/{}", segment.expose_secret()),
        None => url.to_owned(),
    })
}

/// The same, with its secret hidden.
fn told(expected: &WebhookSettings) -> String {
    let url = expected.public_url.as_deref().unwrap_or_default();
    match expected.proof.segment() {
        Some(_) => format!("{url}/<webhook.path_secret>"),
        None => url.to_owned(),
    }
}

fn host(url: Option<&str>) -> String {
    let Some(url) = url else { return "nowhere".into() };
    let host = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned));
    host.unwrap_or_else(|| "what is no address".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::webhook::Proof;
    use secrecy::SecretString;

    const PUBLIC: &str = "https://hooks.example.com/webhook";

    fn settings(public_url: Option<&str>, segment: Option<&str>) -> WebhookSettings {
        let secret = segment.is_none().then(|| SecretString::from("hmac"));
        WebhookSettings {
            listen: "127.0.0.1:9465".parse().unwrap(),
            proof: Proof::new(secret, segment.map(SecretString::from)).unwrap(),
            verify_token: None,
            public_url: public_url.map(str::to_owned),
        }
    }

    /// The marks of the lines, and all their text.
    fn lines(is: &Webhooks, expected: &WebhookSettings) -> (String, String) {
        let (mut marks, mut text) = (String::new(), String::new());
        for line in compare(is, expected, "https://api/update-config") {
            let (mark, what) = match line {
                Line::Tick(what) => ('✓', what),
                Line::Note(what) => ('·', what),
                Line::Cross(what, remedy) => ('✗', format!("{what} → {remedy}")),
            };
            marks.push(mark);
            text.push_str(&what);
        }
        (marks, text)
    }

    fn webhooks(pass_through: Option<&str>, chakra: Option<&str>, events: &[&str]) -> Webhooks {
        let url = |url: Option<&str>| url.map(str::to_owned);
        let events = events.iter().map(ToString::to_string).collect();
        Webhooks { pass_through: url(pass_through), chakra: url(chakra), events }
    }

    #[test]
    fn the_pass_through_webhook_is_the_one_to_come_here() {
        let expected = settings(Some(PUBLIC), None);
        for (pass_through, chakra, events, marks) in [
            (Some(PUBLIC), None, &[][..], "✓"),
            (Some("https://hooks.example.com/webhook/"), None, &[], "✓"),
            (Some(PUBLIC), Some(PUBLIC), &["status"], "✓·"),
            (None, Some(PUBLIC), &["message", "status"], "·"),
            (None, Some(PUBLIC), &["message"], "✗"),
            (Some("https://hooks.example.com/other"), None, &[], "✗"),
            (None, None, &["status"], "✗"),
        ] {
            let told = lines(&webhooks(pass_through, chakra, events), &expected);
            assert_eq!(told.0, marks, "{pass_through:?} {chakra:?} {events:?}: {}", told.1);
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do_and_no_secret() {
        let expected = settings(Some(PUBLIC), Some("segment-0123456789"));
        let elsewhere = webhooks(Some("https://other.example/their-secret"), None, &[]);
        let (marks, told) = lines(&elsewhere, &expected);
        assert_eq!(marks, "✗");
        for part in [
            "pass-through to other.example, Chakra webhook to nowhere",
            "POST https://api/update-config",
            "passThroughWebhookUrl to https://hooks.example.com/webhook/<webhook.path_secret>",
        ] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains("their-secret") && !told.contains("0123456789"), "{told}");
        let here = webhooks(Some(&format!("{PUBLIC}/segment-0123456789")), None, &[]);
        assert_eq!(lines(&here, &expected).0, "✓");
        assert_eq!(lines(&webhooks(Some(PUBLIC), None, &[]), &expected).0, "✗");
    }

    #[test]
    fn without_an_address_to_compare_with_it_is_told_what_is_set() {
        let (marks, told) = lines(&webhooks(Some(PUBLIC), None, &[]), &settings(None, None));
        assert_eq!(marks, "·");
        assert!(told.contains("pass-through to hooks.example.com"), "{told}");
    }
}
