//! Looking at a chat: the calls that list its messages. One call is one request; nothing is repeated
//! or limited here.

use super::client::Client;
use super::listing::{Listed, LookError, Wanted, read_page};
use crate::policy::Match;
use crate::wire::{Message, Recipient};
use jiff::Timestamp;
use std::collections::HashMap;

/// Messages of a page.
const PAGE: usize = 100;

/// Pages that are read of one chat: a thousand messages since the one that is looked for began.
const MAX_PAGES: usize = 10;

/// Chats whose id is remembered, as another way to the same messages.
pub(super) const MAX_CHATS: usize = 10_000;

impl Client {
    /// The messages to this recipient, sent after that moment, that could be this one.
    pub async fn look(
        &self,
        recipient: &Recipient,
        message: &Message,
        after: Timestamp,
    ) -> Result<Vec<Match>, LookError> {
        let Some(wanted) = Wanted::of(message) else { return Ok(Vec::new()) };
        let (listed, partly) = self.messages(recipient, after).await?;
        let mut matches: Vec<Match> = Vec::new();
        for listed in listed.iter().filter(|listed| wanted.is(listed)) {
            if listed.at.is_some_and(|at| at < after) {
                continue;
            }
            let found = Match { whatsapp_message_id: listed.id.clone(), at: listed.at };
            // A number that is filed in two ways may be listed twice.
            if found.whatsapp_message_id.is_none() || !matches.contains(&found) {
                matches.push(found);
            }
        }
        match partly {
            Some(error) if matches.is_empty() => Err(error),
            Some(_) | None => Ok(matches),
        }
    }

    /// Whether the chat shows this accepted message, and shows it so that [`Client::look`] would know
    /// it.
    pub async fn sees(
        &self,
        recipient: &Recipient,
        message: &Message,
        whatsapp_message_id: &str,
        after: Timestamp,
    ) -> Result<bool, LookError> {
        let Some(wanted) = Wanted::of(message) else { return Ok(false) };
        let (listed, _) = self.messages(recipient, after).await?;
        let is_it = |listed: &&Listed| listed.id.as_deref() == Some(whatsapp_message_id);
        let in_time = |listed: &Listed| listed.at.is_some_and(|at| at >= after);
        Ok(listed.iter().find(is_it).is_some_and(|listed| wanted.is(listed) && in_time(listed)))
    }

    /// All messages since then, under every form in which Meta may file the number. With an error, not
    /// all: a known chat may be one of several with that number.
    async fn messages(
        &self,
        recipient: &Recipient,
        after: Timestamp,
    ) -> Result<(Vec<Listed>, Option<LookError>), LookError> {
        let (mut all, mut partly) = (Vec::new(), None);
        for number in recipient.chat_numbers() {
            let by_number = self.pages(Way::Number(&number), after).await;
            let listed = match (by_number, self.known_chat(&number)) {
                (Ok(listed), _) => listed,
                (Err(error), Some(chat)) => {
                    partly = Some(error);
                    self.pages(Way::Chat(&chat), after).await?
                }
                (Err(error), None) => return Err(error),
            };
            if let Some(chat) = listed.iter().find_map(|listed| listed.chat.as_deref()) {
                self.remember_chat(number, chat);
            }
            all.extend(listed);
        }
        Ok((all, partly))
    }

    async fn pages(&self, way: Way<'_>, after: Timestamp) -> Result<Vec<Listed>, LookError> {
        let mut all: Vec<Listed> = Vec::new();
        for page in 1..=MAX_PAGES {
            let (path, body) = way.request(page);
            let listed = read_page(self.ask(&path, body).await, &self.secret())?;
            // A short page may be the service's own idea of a page: only an empty one is the last.
            let is_last = listed.is_empty();
            let is_old = listed.iter().any(|listed| listed.at.is_some_and(|at| at < after));
            all.extend(listed);
            if is_last || is_old {
                return Ok(all);
            }
        }
        Err(LookError(format!("more than {} messages since then", PAGE * MAX_PAGES)))
    }
}

/// How to come to a chat.
enum Way<'a> {
    Number(&'a str),
    Chat(&'a str),
}

impl Way<'_> {
    fn request(&self, page: usize) -> (Vec<&str>, serde_json::Value) {
        match self {
            Way::Number(number) => (
                vec!["v1", "ext", "plugin", "whatsapp", "list-chat-messages-for-phone-number"],
                serde_json::json!({ "customerPhoneNumber": number, "limit": PAGE, "page": page }),
            ),
            Way::Chat(chat) => (
                vec!["v1", "ext", "chat", chat, "message"],
                serde_json::json!({ "limit": PAGE, "page": page }),
            ),
        }
    }
}

/// Chat ids by number.
#[derive(Debug, Default)]
pub(super) struct Chats(HashMap<String, String>);

impl Chats {
    pub(super) fn get(&self, number: &str) -> Option<String> {
        self.0.get(number).cloned()
    }

    /// Beyond the bound all are forgotten: they are learnt again.
    pub(super) fn remember(&mut self, number: String, chat: &str) {
        if self.0.len() >= MAX_CHATS && !self.0.contains_key(&number) {
            self.0.clear();
        }
        self.0.insert(number, chat.to_owned());
    }
}
