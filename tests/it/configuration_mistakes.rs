//! Mistakes in the configuration that look right to who made them: each is told, none is ignored.

use crate::configuration::Given;
use secrecy::ExposeSecret;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

#[test]
fn a_variable_with_an_underscore_too_few_or_no_text_is_a_problem() {
    let problems = Given::toml("")
        .variable("CHAKRA_SENDER_CHAKRA__TOKEN", "EAAGsecret")
        .variable("CHAKRA_SENDER__CHAKRA__TOKEN", OsStr::from_bytes(b"EAAG\xff"))
        .variable("CHAKRA_SENDER__CHAKRA_PLUGIN", "a1b2")
        .variable("CHAKRA_SENDER__NUMBERS__OVERRIDE[0]__ID", "1027729340496751")
        .variable("SOMEBODYS_CHAKRA_SENDER__TOKEN", OsStr::from_bytes(b"\xff"))
        .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has 5 problems:
      CHAKRA_SENDER_CHAKRA__TOKEN: is no setting: two underscores follow CHAKRA_SENDER, and two stand between a section and its key, as in CHAKRA_SENDER__CHAKRA__TOKEN; call it otherwise if it is not meant for chakra-sender
      CHAKRA_SENDER__CHAKRA__TOKEN: chakra.token: has a value that is no UTF-8
      CHAKRA_SENDER__NUMBERS__OVERRIDE[0]__ID: numbers.override[0].rate: is missing; an override has an id and a rate
      CHAKRA_SENDER__CHAKRA_PLUGIN: chakra_plugin: unknown key
      CHAKRA_SENDER__NUMBERS__OVERRIDE[0]__ID: numbers.override: is a list of tables, which stands in the file only: write [[numbers.override]] there
    "#);
}

#[test]
fn a_table_in_the_shape_of_another_is_told_from_what_was_meant() {
    let problems = Given::toml(
        r#"
        chakra.token = ["EAAGsecret"]
        limits.account = "EAAGsecret"
        [numbers.override]
        id = "1027729340496751"
        rate = 5
        [chakra.code]
        code = 131049
        [[limits.number]]
        rate = 5
        [[log]]
        level = "debug"
        [limts]
        max_wait = "5s"
        [limits.recipients]
        [recipient]
        burst = 5
        "#,
    )
    .variable("CHAKRA_SENDER__RABBITMQ", "amqp://user:pa55word@broker")
    .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has 10 problems:
      /chakra-sender.toml: chakra.code: is a list of tables: write [[chakra.code]]
      /chakra-sender.toml: chakra.token: is one value, no table and no list
      /chakra-sender.toml: limits.account: is one table: write [limits.account]
      /chakra-sender.toml: limits.number: is one table: write [limits.number]
      /chakra-sender.toml: limits.recipients: unknown section; the nearest known one is limits.recipient
      /chakra-sender.toml: limts: unknown section; the nearest known one is limits
      /chakra-sender.toml: log: is a section: write [log]
      /chakra-sender.toml: numbers.override: is a list of tables: write [[numbers.override]]
      CHAKRA_SENDER__RABBITMQ: rabbitmq: is a section: give each key in it, such as CHAKRA_SENDER__RABBITMQ__CA_FILE
      /chakra-sender.toml: recipient: unknown section; the nearest known one is limits.recipient
    "#);
}

#[test]
fn a_section_that_is_a_value_is_a_problem_however_much_is_given_beside_it() {
    for wrong in ["chakra = 'EAAGsecret'", "rabbitmq = 'EAAGsecret'", "[[chakra]]", "[[limits]]"] {
        let problems = Given::toml(wrong)
            .variable("CHAKRA_SENDER__CHAKRA__TOKEN", "EAAGsecret")
            .variable("CHAKRA_SENDER__RABBITMQ__PREFIX", "mine")
            .problems();
        let name = wrong.trim_matches(['[', ']']).split(' ').next().unwrap();
        let told = format!("/chakra-sender.toml: {name}: is a section: write [{name}]");
        assert!(problems.ends_with(&told), "{problems}");
    }
}

#[test]
fn a_uri_that_names_no_virtual_host_or_has_half_an_encoding_is_refused() {
    for (uri, reason) in [
        ("amqp://user:pa55word@broker/", "ends with /, which names the virtual host \"\": "),
        ("amqp://broker,amqp://user:pa55word@broker:5672/", "(URI 2) ends with /, "),
        ("amqp://user:pa55word%zz@broker", "has a % that begins no percent-encoding: "),
        ("amqp://user:pa55word@broker/100%", "has a % that begins no percent-encoding: "),
    ] {
        let problems = Given::toml("").variable("CHAKRA_SENDER__RABBITMQ__URI", uri).problems();
        assert!(problems.contains(&format!("rabbitmq.uri = (hidden): {reason}")), "{problems}");
        assert!(!problems.contains("pa55word"), "{problems}");
    }
    for uri in ["amqp://user@broker", "amqp://user:%25@broker/%2F"] {
        assert!(
            Given::toml("").variable("CHAKRA_SENDER__RABBITMQ__URI", uri).load().is_ok(),
            "{uri}"
        );
    }
}

#[test]
fn a_password_of_its_own_is_no_percent_encoding() {
    let settings = Given::toml("[rabbitmq]\nuri = 'amqp://sender@one'\npassword = '50%25@%zz'\n");
    let uri = settings.load().unwrap().rabbitmq.uris.remove(0);
    assert_eq!(uri.expose_secret(), "amqp://sender:50%2525%40%25zz@one");
}

#[test]
fn a_token_that_could_be_guessed_is_refused() {
    for token in ["'fifteen-letters'", "'sixteen letters!'", "'sixteen-lettérs'"] {
        let problems = Given::toml(&format!("[admin]\ntoken = {token}\n")).problems();
        let told =
            "admin.token = (hidden): must be at least 16 visible ASCII characters without spaces";
        assert!(problems.ends_with(told), "{problems}");
    }
    let settings = Given::toml("[admin]\ntoken = 'sixteen-letters!'\n").load().unwrap();
    assert_eq!(settings.admin.token.unwrap().expose_secret(), "sixteen-letters!");
}
