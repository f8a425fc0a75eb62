//! Meta's error codes and what each means for us: one table, whose rows the configuration may replace
//! (`in_force`). HTTP statuses are the fallback, for answers without a code and for codes that Meta has
//! added since.
//!
//! Meanings from Meta's error code page. Where it names a wait the row has it; the other waits are
//! ours, long enough not to hammer a closed door.

mod in_force;

pub use in_force::{Codes, Line, Override};

use crate::wire::{Class, Scope};
use std::ops::RangeInclusive;
use std::time::Duration;

/// What follows from a code or from a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Why it failed.
    pub class: Class,
    /// What the failure is about.
    pub scope: Scope,
    /// Not to be tried again before this has passed.
    pub wait: Option<Duration>,
    /// More tries do not help.
    pub max_attempts: Option<u32>,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// One code, or a range with the same meaning.
    pub codes: RangeInclusive<u32>,
    /// What follows.
    pub verdict: Verdict,
    /// What Meta says that it means, in short.
    pub meaning: &'static str,
}

/// The built-in table, in ascending order, without overlap.
pub fn rows() -> &'static [Row] {
    ROWS
}

/// The line of a code, where Meta has documented it.
pub(super) fn find(code: u32) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.codes.contains(&code))
}

/// Whether a code says that Meta works on the number. Such a refusal tells nothing of its pace.
pub fn is_maintenance(code: u32) -> bool {
    matches!(code, 131_057 | 2_494_100)
}

/// What a status means that came without a code. A status that leaves open whether the request was
/// processed is ambiguous.
pub(super) fn by_status(status: u16) -> Verdict {
    match status {
        // Not followed, so nothing was processed; every other job would meet the same.
        300..=399 => BLOCK_ACCOUNT,
        // 402 is ChakraHQ's plan gate.
        401..=403 => BLOCK_ACCOUNT,
        // Nothing is at this address: a wrong plugin or number, or a gateway without its route while
        // it is deployed. Every other job of the number would meet the same.
        404 | 405 | 410 => NO_SUCH_PLACE,
        // The server gave up waiting, maybe after it had passed the request on.
        408 => DOUBT,
        // Too Early: not processed (RFC 8470).
        425 => RETRY,
        429 => SLOW_ACCOUNT,
        400..=499 => REJECT,
        503 => RETRY,
        _ => DOUBT,
    }
}

/// What one of Meta's codes means that the table does not have. That there is one shows that Meta
/// answered, so nothing was sent.
pub(super) fn of_unknown_code(status: u16) -> Verdict {
    match status {
        // Meta also answers 403 for single messages (130497): one of them must not stop the account.
        // Nor is an address missing from which Meta answered.
        200..=299 | 403 | 404 | 405 | 410 => REJECT,
        500..=599 => RETRY_BOUNDED,
        _ => by_status(status),
    }
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

/// "Try again": often enough to outlive a hiccup, not to annoy.
const FEW: u32 = 3;
/// For faults without an explanation: unlike an outage they may be about this message.
const BOUNDED: u32 = 5;

const REJECT: Verdict = of(Class::Refused, Scope::Message);
const REJECT_RECIPIENT: Verdict = of(Class::Refused, Scope::Recipient);
const REJECT_TEMPLATE: Verdict = of(Class::Refused, Scope::Template);
const RETRY: Verdict = of(Class::Unavailable, Scope::Message);
const RETRY_FEW: Verdict = Verdict { max_attempts: Some(FEW), ..RETRY };
const RETRY_BOUNDED: Verdict = Verdict { max_attempts: Some(BOUNDED), ..RETRY };
/// It may have been sent.
pub(super) const DOUBT: Verdict = of(Class::Ambiguous, Scope::Message);
const DEFER_TEMPLATE: Verdict = after(10 * MINUTE, of(Class::Unavailable, Scope::Template));
/// Meta asks for 4^X seconds, X from 0: the growth is the pair's (`limiter::Recipients`).
const SLOW_PAIR: Verdict = of(Class::Throttled, Scope::Recipient);
const SLOW_NUMBER: Verdict = of(Class::Throttled, Scope::Number);
const SLOW_ACCOUNT: Verdict = of(Class::Throttled, Scope::Account);
/// "Up to a minute" by Meta.
const MAINTENANCE: Verdict = after(MINUTE, SLOW_NUMBER);
const BLOCK_NUMBER: Verdict = after(10 * MINUTE, of(Class::Blocked, Scope::Number));
/// Shorter than for the number itself: a deploy is over soon.
const NO_SUCH_PLACE: Verdict = after(MINUTE, BLOCK_NUMBER);
const BLOCK_ACCOUNT: Verdict = after(MINUTE, of(Class::Blocked, Scope::Account));

const fn of(class: Class, scope: Scope) -> Verdict {
    Verdict { class, scope, wait: None, max_attempts: None }
}

const fn after(seconds: u64, verdict: Verdict) -> Verdict {
    Verdict { wait: Some(Duration::from_secs(seconds)), ..verdict }
}

const fn row(code: u32, verdict: Verdict, meaning: &'static str) -> Row {
    range(code, code, verdict, meaning)
}

const fn range(first: u32, last: u32, verdict: Verdict, meaning: &'static str) -> Row {
    Row { codes: RangeInclusive::new(first, last), verdict, meaning }
}

const ROWS: &[Row] = &[
    row(0, BLOCK_ACCOUNT, "authentication failed"),
    row(1, RETRY_FEW, "bad request or unknown fault"),
    row(2, RETRY, "API down or overloaded"),
    row(3, BLOCK_ACCOUNT, "capability or permission missing"),
    row(4, SLOW_ACCOUNT, "app call limit reached"),
    row(10, BLOCK_ACCOUNT, "permission missing or revoked"),
    row(33, BLOCK_NUMBER, "phone number deleted or its id wrong"),
    row(100, REJECT, "unknown or bad parameter, or wrong phone number id"),
    row(190, BLOCK_ACCOUNT, "access token expired"),
    range(200, 299, BLOCK_ACCOUNT, "permission missing or revoked"),
    row(368, BLOCK_ACCOUNT, "account blocked for a policy breach"),
    row(80007, SLOW_ACCOUNT, "rate limit of the business account reached"),
    row(130403, REJECT_RECIPIENT, "this business has blocked the user"),
    row(130429, SLOW_NUMBER, "throughput of the number reached"),
    row(130472, REJECT_RECIPIENT, "user is part of a marketing experiment"),
    row(130497, REJECT_RECIPIENT, "business may not message users in that country"),
    row(131000, RETRY_BOUNDED, "unknown fault"),
    row(131005, BLOCK_ACCOUNT, "access denied"),
    row(131008, REJECT, "required parameter missing"),
    row(131009, REJECT, "parameter value invalid, or the phone number id not of this account"),
    row(131016, RETRY, "service unavailable"),
    row(131021, REJECT_RECIPIENT, "sender and recipient are the same"),
    row(131026, REJECT_RECIPIENT, "undeliverable: not on WhatsApp, old app or terms not accepted"),
    row(131030, REJECT_RECIPIENT, "recipient not on the test number's list"),
    row(131031, BLOCK_ACCOUNT, "account locked"),
    row(131037, BLOCK_NUMBER, "display name not approved"),
    row(131042, after(10 * MINUTE, BLOCK_ACCOUNT), "payment trouble"),
    row(131045, BLOCK_NUMBER, "certificate or registration fault"),
    row(131047, REJECT, "service window closed: send a template"),
    row(131048, after(HOUR, BLOCK_NUMBER), "number restricted for blocks or spam reports"),
    row(131049, REJECT_RECIPIENT, "not sent, to keep engagement healthy; not again within 24 h"),
    row(131050, REJECT_RECIPIENT, "user stopped marketing messages from this business"),
    row(131051, REJECT, "message type not supported"),
    row(131052, REJECT, "media of the user cannot be fetched"),
    row(131053, REJECT, "media sent cannot be processed"),
    row(131055, REJECT, "method not allowed"),
    row(131056, SLOW_PAIR, "too many messages from this number to this recipient"),
    row(131057, MAINTENANCE, "account in maintenance, often a throughput upgrade"),
    row(131063, REJECT, "marketing templates switched off on Cloud API"),
    row(
        131064,
        after(HOUR, BLOCK_ACCOUNT),
        "account limited for template classification violations",
    ),
    row(132000, REJECT, "number of template parameters differs"),
    row(132001, REJECT, "template or language does not exist"),
    row(132005, REJECT, "template text too long once filled in"),
    row(132007, REJECT, "template content breaks a policy"),
    row(132012, REJECT, "template parameter in the wrong format"),
    row(132015, REJECT_TEMPLATE, "template paused for low quality"),
    row(132016, REJECT_TEMPLATE, "template disabled for low quality"),
    row(132018, REJECT, "template breaks the rules of the marketing API"),
    row(132068, REJECT, "flow blocked"),
    row(132069, DEFER_TEMPLATE, "flow throttled"),
    row(133000, BLOCK_NUMBER, "an earlier deregistration is incomplete"),
    row(133004, RETRY, "server unavailable"),
    row(133005, BLOCK_NUMBER, "two-step PIN wrong"),
    row(133006, BLOCK_NUMBER, "number needs to be verified again"),
    row(133008, BLOCK_NUMBER, "too many PIN guesses"),
    row(133009, BLOCK_NUMBER, "PIN guessed too fast"),
    row(133010, BLOCK_NUMBER, "number not registered"),
    row(133015, after(5 * MINUTE, BLOCK_NUMBER), "number deleted lately"),
    row(133016, BLOCK_NUMBER, "too many registration attempts"),
    row(134011, REJECT, "payments terms not accepted"),
    row(134100, REJECT, "marketing API: not a marketing template"),
    row(134101, DEFER_TEMPLATE, "template still syncing"),
    row(134102, REJECT, "marketing API: template unavailable"),
    row(135000, REJECT, "generic user error"),
    range(2_388_000, 2_388_999, REJECT, "template or number management"),
    row(2_494_100, MAINTENANCE, "number in maintenance"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    #[test]
    fn the_table_is_sorted_and_no_code_has_two_rows() {
        for pair in ROWS.windows(2) {
            assert!(pair[0].codes.end() < pair[1].codes.start(), "{:?}", pair[1].codes);
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "most of it is the table as it reads")]
    fn the_table_reads() {
        let mut text = String::new();
        for Row { codes, verdict, meaning } in ROWS {
            let codes = match codes.start() == codes.end() {
                true => codes.start().to_string(),
                false => format!("{}-{}", codes.start(), codes.end()),
            };
            writeln!(text, "{codes:<15} {} {meaning}", shown(*verdict)).unwrap();
        }
        insta::assert_snapshot!(text, @r##"
        0               blocked     account   60s   -  authentication failed
        1               unavailable message   -     x3 bad request or unknown fault
        2               unavailable message   -     -  API down or overloaded
        3               blocked     account   60s   -  capability or permission missing
        4               throttled   account   -     -  app call limit reached
        10              blocked     account   60s   -  permission missing or revoked
        33              blocked     number    600s  -  phone number deleted or its id wrong
        100             refused     message   -     -  unknown or bad parameter, or wrong phone number id
        190             blocked     account   60s   -  access token expired
        200-299         blocked     account   60s   -  permission missing or revoked
        368             blocked     account   60s   -  account blocked for a policy breach
        80007           throttled   account   -     -  rate limit of the business account reached
        130403          refused     recipient -     -  this business has blocked the user
        130429          throttled   number    -     -  throughput of the number reached
        130472          refused     recipient -     -  user is part of a marketing experiment
        130497          refused     recipient -     -  business may not message users in that country
        131000          unavailable message   -     x5 unknown fault
        131005          blocked     account   60s   -  access denied
        131008          refused     message   -     -  required parameter missing
        131009          refused     message   -     -  parameter value invalid, or the phone number id not of this account
        131016          unavailable message   -     -  service unavailable
        131021          refused     recipient -     -  sender and recipient are the same
        131026          refused     recipient -     -  undeliverable: not on WhatsApp, old app or terms not accepted
        131030          refused     recipient -     -  recipient not on the test number's list
        131031          blocked     account   60s   -  account locked
        131037          blocked     number    600s  -  display name not approved
        131042          blocked     account   600s  -  payment trouble
        131045          blocked     number    600s  -  certificate or registration fault
        131047          refused     message   -     -  service window closed: send a template
        131048          blocked     number    3600s -  number restricted for blocks or spam reports
        131049          refused     recipient -     -  not sent, to keep engagement healthy; not again within 24 h
        131050          refused     recipient -     -  user stopped marketing messages from this business
        131051          refused     message   -     -  message type not supported
        131052          refused     message   -     -  media of the user cannot be fetched
        131053          refused     message   -     -  media sent cannot be processed
        131055          refused     message   -     -  method not allowed
        131056          throttled   recipient -     -  too many messages from this number to this recipient
        131057          throttled   number    60s   -  account in maintenance, often a throughput upgrade
        131063          refused     message   -     -  marketing templates switched off on Cloud API
        131064          blocked     account   3600s -  account limited for template classification violations
        132000          refused     message   -     -  number of template parameters differs
        132001          refused     message   -     -  template or language does not exist
        132005          refused     message   -     -  template text too long once filled in
        132007          refused     message   -     -  template content breaks a policy
        132012          refused     message   -     -  template parameter in the wrong format
        132015          refused     template  -     -  template paused for low quality
        132016          refused     template  -     -  template disabled for low quality
        132018          refused     message   -     -  template breaks the rules of the marketing API
        132068          refused     message   -     -  flow blocked
        132069          unavailable template  600s  -  flow throttled
        133000          blocked     number    600s  -  an earlier deregistration is incomplete
        133004          unavailable message   -     -  server unavailable
        133005          blocked     number    600s  -  two-step PIN wrong
        133006          blocked     number    600s  -  number needs to be verified again
        133008          blocked     number    600s  -  too many PIN guesses
        133009          blocked     number    600s  -  PIN guessed too fast
        133010          blocked     number    600s  -  number not registered
        133015          blocked     number    300s  -  number deleted lately
        133016          blocked     number    600s  -  too many registration attempts
        134011          refused     message   -     -  payments terms not accepted
        134100          refused     message   -     -  marketing API: not a marketing template
        134101          unavailable template  600s  -  template still syncing
        134102          refused     message   -     -  marketing API: template unavailable
        135000          refused     message   -     -  generic user error
        2388000-2388999 refused     message   -     -  template or number management
        2494100         throttled   number    60s   -  number in maintenance
        "##);
    }

    #[test]
    fn statuses_read() {
        let mut text = String::new();
        for status in
            [200, 302, 400, 401, 402, 403, 404, 405, 408, 410, 413, 425, 429, 500, 502, 503, 504]
        {
            let (bare, coded) = (by_status(status), of_unknown_code(status));
            writeln!(text, "{status} bare    {}", shown(bare).trim_end()).unwrap();
            writeln!(text, "    unknown {}", shown(coded).trim_end()).unwrap();
        }
        insta::assert_snapshot!(text, @r##"
        200 bare    ambiguous   message   -     -
            unknown refused     message   -     -
        302 bare    blocked     account   60s   -
            unknown blocked     account   60s   -
        400 bare    refused     message   -     -
            unknown refused     message   -     -
        401 bare    blocked     account   60s   -
            unknown blocked     account   60s   -
        402 bare    blocked     account   60s   -
            unknown blocked     account   60s   -
        403 bare    blocked     account   60s   -
            unknown refused     message   -     -
        404 bare    blocked     number    60s   -
            unknown refused     message   -     -
        405 bare    blocked     number    60s   -
            unknown refused     message   -     -
        408 bare    ambiguous   message   -     -
            unknown ambiguous   message   -     -
        410 bare    blocked     number    60s   -
            unknown refused     message   -     -
        413 bare    refused     message   -     -
            unknown refused     message   -     -
        425 bare    unavailable message   -     -
            unknown unavailable message   -     -
        429 bare    throttled   account   -     -
            unknown throttled   account   -     -
        500 bare    ambiguous   message   -     -
            unknown unavailable message   -     x5
        502 bare    ambiguous   message   -     -
            unknown unavailable message   -     x5
        503 bare    unavailable message   -     -
            unknown unavailable message   -     x5
        504 bare    ambiguous   message   -     -
            unknown unavailable message   -     x5
        "##);
    }

    fn shown(verdict: Verdict) -> String {
        let Verdict { class, scope, wait, max_attempts } = verdict;
        let wait = wait.map_or("-".into(), |wait| format!("{}s", wait.as_secs()));
        let most = max_attempts.map_or("-".into(), |most| format!("x{most}"));
        format!("{:<11} {:<9} {wait:<5} {most:<2}", class.name(), scope.name())
    }
}
