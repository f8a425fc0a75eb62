//! What a failure means that Meta tells by webhook, after it had taken the message in. It is final for the
//! message, whatever its class: the class and the scope say what it means for others.

use super::codes::{self, Codes, Verdict};
use super::redact::{code_prefix, redact};
use crate::policy::Failure;

/// The status of the answer that went before: Meta had taken the message in.
const ACCEPTED: u16 = 200;

/// From Meta's code and sentence. `tokens` are what must not show in any text.
pub(super) fn told_later(code: Option<u32>, text: &str, codes: &Codes, tokens: &str) -> Failure {
    let known = code.and_then(|code| codes.verdict(code));
    let Verdict { class, scope, wait, max_attempts } =
        known.unwrap_or_else(|| codes::of_unknown_code(ACCEPTED));
    let text = redact(text, tokens);
    let message = match code {
        Some(code) if code_prefix(&text).is_none() => format!("(#{code}) {text}"),
        Some(_) | None => text,
    };
    Failure { scope, code, wait, max_attempts, ..Failure::new(class, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Class, Scope};

    fn told(code: Option<u32>, text: &str) -> (Class, Scope, String) {
        let failure = told_later(code, text, &Codes::default(), "sesame-key");
        assert_eq!((failure.code, failure.http_status), (code, None));
        (failure.class, failure.scope, failure.message)
    }

    #[test]
    fn a_code_means_what_it_means_in_an_answer() {
        let refused = "(#131026) Message undeliverable".to_owned();
        let told_so = told(Some(131_026), "Message undeliverable");
        assert_eq!(told_so, (Class::Refused, Scope::Recipient, refused));
        assert_eq!(told(Some(131_042), "Payment").1, Scope::Account);
        assert_eq!(told(Some(131_048), "Spam").1, Scope::Number);
    }

    #[test]
    fn an_unknown_code_and_none_are_about_this_message() {
        for code in [None, Some(7_777_777)] {
            let (class, scope, _) = told(code, "no reason was given");
            assert_eq!((class, scope), (Class::Refused, Scope::Message));
        }
    }

    #[test]
    fn no_phone_number_and_no_token_is_carried_on() {
        let (_, _, message) = told(Some(131_026), "(#131026) to 919901258433 by sesame-key");
        assert_eq!(message, "(#131026) to …33 by [token]");
    }
}
