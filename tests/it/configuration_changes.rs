//! The code table in the configuration, and what changes when a configuration is read again.

use crate::configuration::Given;
use chakra_sender::chakra::{Override, Verdict};
use chakra_sender::config::{Change, DEFAULT, LIVE, diff};
use chakra_sender::telemetry::Format;
use chakra_sender::wire::{Class, Scope};
use std::time::Duration;

#[test]
fn rows_of_the_code_table_are_overridden() {
    let settings = Given::toml(
        r#"
        [[chakra.code]]
        code = 131049
        class = "unavailable"
        scope = "recipient"
        wait = "6h"
        max_attempts = 2
        [[chakra.code]]
        codes = "200-299"
        class = "blocked"
        scope = "number"
        "#,
    )
    .load()
    .unwrap();
    let verdict = |class, scope, wait, max_attempts| Verdict {
        class,
        scope,
        wait: Some(Duration::from_secs(wait)),
        max_attempts,
    };
    let deferred = verdict(Class::Unavailable, Scope::Recipient, 6 * 3_600, Some(2));
    // What is blocked is left alone for a while in any case.
    let blocked = verdict(Class::Blocked, Scope::Number, 60, None);
    assert_eq!(
        settings.codes.overrides(),
        [
            Override { codes: 200..=299, verdict: blocked },
            Override { codes: 131_049..=131_049, verdict: deferred },
        ]
    );
}

/// Each row is wrong in its own way.
const WRONG_CODES: &str = r#"
    chakra.code = [
        { code = 131049, class = "refused", scope = "message", wait = "1h", max_attempts = 2 },
        { codes = "131049-131050", class = "refused", scope = "number" },
        { code = 1, codes = "2-3", class = "unavailable", scope = "account" },
        { codes = "299-200", class = "blocked", scope = "message" },
        { class = "throttled", scope = "message", max_attempts = 3 },
        { code = 190, class = "refused", scope = "message" },
        { codes = "205-207", class = "ambiguous", scope = "template", wait = "0s" },
        { code = 131052, class = "unavailable", scope = "message", wait = "3h" },
        { code = 131053, class = "invalid", scope = "world" },
        { code = 10000000, clas = "blocked", scope = "number" },
    ]
    retry.max_age = "2h"
    "#;

#[test]
fn every_problem_of_the_code_table_is_told_at_once() {
    insta::assert_snapshot!(Given::toml(WRONG_CODES).problems(), @r#"
    the configuration has 22 problems:
      /chakra-sender.toml: chakra.code[0].wait = "1h": has no use: what is refused is not tried again
      /chakra-sender.toml: chakra.code[0].max_attempts = 2: needs class "unavailable": the others are not tried by attempts
      /chakra-sender.toml: chakra.code[1].scope = "number": needs class "throttled" or "blocked": else each job fails, or spends its attempts, for what is wrong with all of them
      /chakra-sender.toml: chakra.code[1].codes = "131049-131050": stands in chakra.code[0] already: keep one
      /chakra-sender.toml: chakra.code[2].codes = "2-3": is given, and so is chakra.code[2].code: keep one
      /chakra-sender.toml: chakra.code[2].scope = "account": needs class "throttled" or "blocked": else each job fails, or spends its attempts, for what is wrong with all of them
      /chakra-sender.toml: chakra.code[3].codes = "299-200": must be two codes up to 9999999, written like "200-299"
      /chakra-sender.toml: chakra.code[3].scope = "message": needs class "unavailable": what is throttled or blocked spends no attempts, and a message that is so by itself would be tried for ever
      /chakra-sender.toml: chakra.code[4].code: is missing; a row has a code, or a range of codes
      /chakra-sender.toml: chakra.code[4].scope = "message": needs class "unavailable": what is throttled or blocked spends no attempts, and a message that is so by itself would be tried for ever
      /chakra-sender.toml: chakra.code[4].max_attempts = 3: needs class "unavailable": the others are not tried by attempts
      /chakra-sender.toml: chakra.code[5].class = "refused": must be "blocked" or "throttled" for code 190, access token expired: no job may fail for what is wrong with the account
      /chakra-sender.toml: chakra.code[6].wait = "0s": must be a duration from 1s to 1d, written like "250ms" or "5s"
      /chakra-sender.toml: chakra.code[6].scope = "template": must be "message" for class "ambiguous": each message is looked for by itself
      /chakra-sender.toml: chakra.code[6].class = "ambiguous": must be "blocked" or "throttled" for code 200, permission missing or revoked: no job may fail for what is wrong with the account
      /chakra-sender.toml: chakra.code[6].wait = "0s": has no use: when to look for a message stands in [doubt]
      /chakra-sender.toml: chakra.code[7].wait = "3h": must be at most retry.max_age, 2h: else no retry
      /chakra-sender.toml: chakra.code[8].class = "invalid": must be "refused" or "throttled" or "unavailable" or "blocked" or "ambiguous"
      /chakra-sender.toml: chakra.code[8].scope = "world": must be "message" or "recipient" or "template" or "number" or "account"
      /chakra-sender.toml: chakra.code[9].code = 10000000: must be a whole number from 0 to 9999999
      /chakra-sender.toml: chakra.code[9].class: is missing; a row has a class and a scope
      /chakra-sender.toml: chakra.code[9].clas: unknown key; the nearest known one is chakra.code.class
    "#);
}

#[test]
fn the_code_table_has_a_bound() {
    let row =
        |code| format!("[[chakra.code]]\ncode = {code}\nclass = 'refused'\nscope = 'message'\n");
    let rows = |count: u32| (0..count).map(|n| row(500_000 + n)).collect::<String>();
    assert_eq!(Given::toml(&rows(200)).load().unwrap().codes.overrides().len(), 200);
    let problems = Given::toml(&rows(201)).problems();
    assert!(problems.ends_with("chakra.code: has 201 rows: 200 at most"), "{problems}");
}

/// What changed between two files, as a person reads it.
fn changed(old: Given, new: Given) -> String {
    let changes = diff(&old.load().unwrap(), &new.load().unwrap());
    let lines = |changes: &[Change]| -> String {
        changes.iter().map(|change| format!("  {change}\n")).collect()
    };
    format!("live\n{}restart\n{}", lines(&changes.live), lines(&changes.at_restart))
}

const BEFORE: &str = r#"
    [chakra]
    token = "EAAGsecret"
    [[chakra.code]]
    code = 131049
    class = "refused"
    scope = "recipient"
    [rabbitmq]
    uri = "amqp://user:pa55word@one"
    [[numbers.override]]
    id = "1"
    rate = 70
    [[numbers.override]]
    id = "2"
    rate = 17.0
    [limits.account]
    rate = 300
    [retry]
    max_delay = "1h"
    "#;

const AFTER: &str = r#"
    [chakra]
    token = "EAAGother"
    timeout = "20s"
    [[chakra.code]]
    code = 190
    class = "blocked"
    scope = "number"
    [[chakra.code]]
    code = 131049
    class = "unavailable"
    scope = "recipient"
    [rabbitmq]
    uri = "amqp://user:pa66word@one"
    [numbers]
    max_lanes = 7
    [[numbers.override]]
    id = "2"
    rate = 17
    [[numbers.override]]
    id = "3"
    rate = 20
    [limits]
    max_wait = "2s"
    [log]
    level = "debug"
    format = "json"
    [doubt]
    looks_per_second = 5
    "#;

#[test]
fn what_changed_is_told_key_by_key_and_no_secret_with_it() {
    let old = Given::toml(BEFORE);
    let new = Given::toml(AFTER).variable("CHAKRA_SENDER__RETRY__MAX_ATTEMPTS", "5");
    insta::assert_snapshot!(changed(old, new), @r#"
    live
      chakra.code[131049].class: "refused" -> "unavailable"
      chakra.code[190].class: unset -> "blocked"
      chakra.code[190].code: unset -> 190
      chakra.code[190].scope: unset -> "number"
      doubt.looks_per_second: 10 -> 5
      limits.account.rate: 300 -> unset
      limits.max_wait: "5s" -> "2s"
      log.level: "info" -> "debug"
      numbers.override[1].id: "1" -> unset
      numbers.override[1].rate: 70 -> unset
      numbers.override[3].id: unset -> "3"
      numbers.override[3].rate: unset -> 20
      retry.max_attempts: 12 -> "5"
    restart
      chakra.timeout: "30s" -> "20s"
      chakra.token: (hidden) -> (hidden)
      log.format: "text" -> "json"
      numbers.max_lanes: 500 -> 7
      rabbitmq.uri: (hidden) -> (hidden)
    "#);
}

#[test]
fn the_same_settings_in_another_layer_or_order_are_no_change() {
    let old = Given::toml("[retry]\nmax_attempts = 5\n[limits.number]\nrate = 70\n");
    let new = Given::toml("[limits.number]\nrate = 70.0\n")
        .variable("CHAKRA_SENDER__RETRY__MAX_ATTEMPTS", "5");
    assert_eq!(changed(old, new), "live\nrestart\n");
}

#[test]
fn what_a_running_worker_takes_over_is_told_no_second_time_and_the_rest_is() {
    let running = Given::toml("").load().unwrap();
    let new = Given::toml(
        "[retry]\nmax_attempts = 5\n[chakra]\ntimeout = '10s'\n[log]\nformat = 'json'\nlevel = 'warn'\n",
    )
    .load()
    .unwrap();
    let now = running.retuned(&new);
    assert_eq!((now.retry.max_attempts, now.doubt.policy.max_attempts), (5, 5));
    assert_eq!((now.log.format, now.log.level.as_str()), (Format::Text, "warn"));
    // A call under way may still take as long as it could: no look counts before.
    assert_eq!(now.doubt.policy.longest_call, Duration::from_secs(30));
    assert_eq!(now.chakra.timeout, Duration::from_secs(30));
    let again = diff(&now, &new);
    assert_eq!(again.live, []);
    let keys: Vec<&str> = again.at_restart.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["chakra.timeout", "log.format"]);
}

#[test]
fn the_reference_names_what_a_hangup_changes() {
    let told = DEFAULT.lines().skip_while(|line| !line.contains("SIGHUP")).take(3);
    let told: String = told.collect();
    for key in LIVE {
        assert!(told.contains(key), "{key} is not in {told:?}");
    }
}
