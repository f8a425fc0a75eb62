//! The sample jobs of the demo: every common kind of message, on three numbers, some of them with
//! something wrong. Which ones go wrong, and how, is written into their ids.

use serde_json::{Value, json};

/// The three numbers of the demo, with the ceiling that the sandbox enforces a second.
pub(crate) const NUMBERS: [(&str, &str, u32); 3] = [
    ("1027729340496751", "shop", 80),
    ("1027729340496752", "clinic, also in the Business app", 20),
    ("1027729340496753", "courier", 80),
];

/// Jobs a number.
const JOBS: usize = 120;

/// One line of JSON for each job.
pub(crate) fn lines(now: jiff::Timestamp) -> Vec<String> {
    let mut lines = Vec::new();
    for index in 0..JOBS {
        for (number, name, _) in NUMBERS {
            let name = name.split(',').next().unwrap_or(name);
            lines.push(line(number, name, index, now));
        }
    }
    lines.push("{\"this\": is not JSON".to_owned());
    lines
}

fn line(number: &str, name: &str, index: usize, now: jiff::Timestamp) -> String {
    // Recipients are made up, from a range that nobody has: +999 is not assigned.
    let to = format!("+9990000{:04}", index * 3 + usize::from(number.ends_with('2')));
    let (what, message) = message(index, &to);
    let mut job = json!({
        "id": format!("{name}-{index:03}-{what}"),
        "phone_number_id": number,
        "message": message,
        "metadata": { "sample": index },
    });
    match what {
        "urgent" => job["priority"] = "urgent".into(),
        "expired" => {
            job["expires_at"] = (now - jiff::SignedDuration::from_secs(60)).to_string().into()
        }
        "misspelt" => job["mesage"] = true.into(),
        _ => {}
    }
    job.to_string()
}

/// What the sample shows, and its message.
fn message(index: usize, to: &str) -> (&'static str, Value) {
    let of = |kind: &str, content: Value| {
        let mut message = json!({ "messaging_product": "whatsapp", "to": to, "type": kind });
        message[kind] = content;
        message
    };
    let text = |body: &str| of("text", json!({ "body": body }));
    match index % 24 {
        1 => (
            "template",
            of("template", json!({ "name": "order_shipped", "language": { "code": "en" } })),
        ),
        3 => (
            "image",
            of(
                "image",
                json!({ "link": "https://example.com/parcel.jpg", "caption": "Your parcel" }),
            ),
        ),
        5 => (
            "buttons",
            of(
                "interactive",
                json!({
                    "type": "button", "body": { "text": "Shall we deliver today?" },
                    "action": { "buttons": [
                        { "type": "reply", "reply": { "id": "yes", "title": "Yes" } },
                        { "type": "reply", "reply": { "id": "no", "title": "No" } },
                    ] },
                }),
            ),
        ),
        7 => (
            "location",
            of("location", json!({ "latitude": 12.9716, "longitude": 77.5946, "name": "Pick-up" })),
        ),
        9 => (
            "read",
            json!({ "messaging_product": "whatsapp", "status": "read", "message_id": "wamid.demo" }),
        ),
        11 => ("urgent", text("Your code is 000 000")),
        13 => ("busy", text("busy: the service is unavailable at first")),
        15 => ("refused", text("refused: this recipient is not on WhatsApp")),
        17 => ("cut", text("cut: the line breaks after WhatsApp took it in")),
        19 => ("expired", text("too late")),
        21 => ("misspelt", text("a field of the job is misspelt")),
        23 => ("html", text("html: a proxy answers with a page at first")),
        _ => ("text", text("Shipped!")),
    }
}
