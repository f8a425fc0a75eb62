//! The content of each message type, checked before a request is spent on it. Only limits that Meta
//! states for certain are held (message pages and OpenAPI v23.0); where its pages disagree, and for
//! types that it adds later, Meta decides.

use super::object::{ANY, Object, SOME};

/// Checks the content of a message of this type. `message` is the whole message object.
pub(super) fn check(kind: &str, message: &Object) -> Result<(), String> {
    match kind {
        "text" => text(&message.need_object(kind)?),
        "image" | "video" | "document" => media(&message.need_object(kind)?, Caption::Allowed),
        "audio" | "sticker" => media(&message.need_object(kind)?, Caption::Refused),
        "location" => location(&message.need_object(kind)?),
        "contacts" => contacts(message),
        "reaction" => reaction(&message.need_object(kind)?),
        "template" => template(&message.need_object(kind)?),
        "interactive" => interactive(&message.need_object(kind)?),
        _ => Ok(()),
    }
}

fn text(text: &Object) -> Result<(), String> {
    text.need_text("body", 1..=4096)?;
    text.may_be_flag("preview_url")
}

/// Whether a medium may have a caption. Its length is disputed (1,024 or 3,000), so it has no limit.
#[derive(PartialEq)]
enum Caption {
    Allowed,
    Refused,
}

fn media(media: &Object, caption: Caption) -> Result<(), String> {
    let id = media.text("id", SOME)?;
    let link = media.text("link", SOME)?;
    match (id, link) {
        (None, None) => return Err(format!("{} or link is missing", media.at("id"))),
        (Some(_), Some(_)) => {
            return Err(format!("{} and link exclude each other: leave one out", media.at("id")));
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    if media.text("caption", ANY)?.is_some() && caption == Caption::Refused {
        return Err(format!("{} does not exist for this type", media.at("caption")));
    }
    Ok(())
}

fn location(location: &Object) -> Result<(), String> {
    for (key, limit) in [("latitude", 90.0), ("longitude", 180.0)] {
        if location.need_number(key)?.abs() > limit {
            return Err(format!("{} must be from -{limit} to {limit}", location.at(key)));
        }
    }
    Ok(())
}

fn contacts(message: &Object) -> Result<(), String> {
    for contact in message.need_objects("contacts", SOME)? {
        contact?.need_object("name")?.need_text("formatted_name", SOME)?;
    }
    Ok(())
}

fn reaction(reaction: &Object) -> Result<(), String> {
    reaction.need_text("message_id", SOME)?;
    // The empty one takes the reaction back.
    reaction.need_text("emoji", ANY).map(drop)
}

fn template(template: &Object) -> Result<(), String> {
    template.need_text("name", SOME)?;
    template.need_object("language")?.need_text("code", SOME)?;
    template.may_be_array("components")
}

fn interactive(interactive: &Object) -> Result<(), String> {
    match &*interactive.need_text("type", SOME)? {
        "button" => buttons(interactive),
        "list" => list(interactive),
        "cta_url" => {
            body(interactive, 1024)?;
            let parameters = interactive.need_object("action")?.need_object("parameters")?;
            parameters.need_text("display_text", 1..=20).map(drop)
        }
        "carousel" => interactive.need_object("action")?.need_objects("cards", 2..=10).map(drop),
        _ => Ok(()),
    }
}

fn buttons(interactive: &Object) -> Result<(), String> {
    body(interactive, 1024)?;
    footer(interactive)?;
    for button in interactive.need_object("action")?.need_objects("buttons", 1..=3)? {
        let reply = button?.need_object("reply")?;
        reply.need_text("id", 1..=256)?;
        reply.need_text("title", 1..=20)?;
    }
    Ok(())
}

/// The greatest number of rows in all sections of a list.
const MAX_ROWS: usize = 10;

fn list(interactive: &Object) -> Result<(), String> {
    // Older pages say 1,024.
    body(interactive, 4096)?;
    footer(interactive)?;
    if let Some(header) = interactive.object("header")? {
        header.text("text", 1..=60)?;
    }
    let action = interactive.need_object("action")?;
    action.need_text("button", 1..=20)?;
    let mut rows = 0;
    for section in action.need_objects("sections", 1..=10)? {
        let section = section?;
        section.text("title", 0..=24)?;
        for row in section.need_objects("rows", 1..=MAX_ROWS)? {
            let row = row?;
            row.need_text("id", 1..=200)?;
            row.need_text("title", 1..=24)?;
            row.text("description", 0..=72)?;
            rows += 1;
        }
    }
    match rows {
        0..=MAX_ROWS => Ok(()),
        _ => Err(format!("{} has {rows} rows in all, at most {MAX_ROWS}", action.at("sections"))),
    }
}

fn body(interactive: &Object, most: usize) -> Result<(), String> {
    interactive.need_object("body")?.need_text("text", 1..=most).map(drop)
}

fn footer(interactive: &Object) -> Result<(), String> {
    match interactive.object("footer")? {
        Some(footer) => footer.text("text", 0..=60).map(drop),
        None => Ok(()),
    }
}
