//! The paths of the API, and the sandbox's own.
//!
//! Reads a method and a path. Who may go there is decided elsewhere.

use hyper::Method;

/// Where a request wants to go.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Messages { plugin: &'a str, number: &'a str },
    Config { plugin: &'a str },
    Listing(Listing<'a>),
    Health,
    Own(Own),
    Unknown,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Listing<'a> {
    Customer,
    Chats,
    Chat(&'a str),
}

/// The sandbox's own paths, for tests in other processes; no key is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Own {
    Record,
    ClearRecord,
    Faults,
    Numbers,
    Webhook,
    Settings,
}

/// The route of a method and a path.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    if let Some(of_plugin) = path.strip_prefix("/v1/ext/plugin/whatsapp/") {
        let mut parts = of_plugin.split('/');
        let parts = [(); 6].map(|()| parts.next());
        return match (method, parts) {
            (&Method::POST, [Some("list-chat-messages-for-phone-number"), None, ..]) => {
                Route::Listing(Listing::Customer)
            }
            (&Method::GET, [Some(plugin), Some("config"), None, ..]) => Route::Config { plugin },
            (
                &Method::POST,
                [Some(plugin), Some("api"), Some(version), Some(number), Some("messages"), None],
            ) if is_version(version) => Route::Messages { plugin, number },
            _ => Route::Unknown,
        };
    }
    let chat = path.strip_prefix("/v1/ext/chat/").and_then(|rest| rest.strip_suffix("/message"));
    match (method, path, chat) {
        (&Method::POST, "/v1/ext/chat", _) => Route::Listing(Listing::Chats),
        (&Method::POST, _, Some(id)) => Route::Listing(Listing::Chat(id)),
        (&Method::GET, "/v1/health", _) => Route::Health,
        (&Method::GET, "/sandbox/record", _) => Route::Own(Own::Record),
        (&Method::DELETE, "/sandbox/record", _) => Route::Own(Own::ClearRecord),
        (&Method::PUT, "/sandbox/faults", _) => Route::Own(Own::Faults),
        (&Method::PUT, "/sandbox/numbers", _) => Route::Own(Own::Numbers),
        (&Method::PUT, "/sandbox/webhook", _) => Route::Own(Own::Webhook),
        (&Method::PUT, "/sandbox/settings", _) => Route::Own(Own::Settings),
        _ => Route::Unknown,
    }
}

/// `v24.0` and the like. Ended versions are usually served by the oldest living one.
fn is_version(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts = text.strip_prefix('v').and_then(|rest| rest.split_once('.'));
    parts.is_some_and(|(major, minor)| number(major) && number(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_paths_are_known_and_no_others() {
        let (post, get) = (Method::POST, Method::GET);
        for (method, path, expected) in [
            (
                &post,
                "/v1/ext/plugin/whatsapp/p/api/v24.0/1/messages",
                Route::Messages { plugin: "p", number: "1" },
            ),
            (&get, "/v1/ext/plugin/whatsapp/p/api/v24.0/1/messages", Route::Unknown),
            (&post, "/v1/ext/plugin/whatsapp/p/api/24/1/messages", Route::Unknown),
            (&post, "/v1/ext/plugin/whatsapp/p/api/v24.0/1/messages/", Route::Unknown),
            (&get, "/v1/ext/plugin/whatsapp/p/config", Route::Config { plugin: "p" }),
            (
                &post,
                "/v1/ext/plugin/whatsapp/list-chat-messages-for-phone-number",
                Route::Listing(Listing::Customer),
            ),
            (&post, "/v1/ext/chat", Route::Listing(Listing::Chats)),
            (&post, "/v1/ext/chat/c-1/message", Route::Listing(Listing::Chat("c-1"))),
            (&get, "/v1/health", Route::Health),
            (&get, "/sandbox/record", Route::Own(Own::Record)),
            (&Method::DELETE, "/sandbox/record", Route::Own(Own::ClearRecord)),
            (&get, "/", Route::Unknown),
        ] {
            assert_eq!(route(method, path), expected, "{method} {path}");
        }
    }
}
