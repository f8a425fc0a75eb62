//! The configuration: layers, and every problem told at once.

#![expect(clippy::unwrap_used, reason = "a story that cannot be set up has failed")]

use chakra_sender::config::{Accept, ClientIdentity, ConfigError, NumberOverride, Settings, load};
use chakra_sender::telemetry::Format;
use chakra_sender::webhook::Proof;
use chakra_sender::wire::NumberId;
use secrecy::ExposeSecret;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// A folder with a configuration, and the variables beside it.
pub(crate) struct Given {
    folder: TempDir,
    toml: String,
    variables: Vec<(OsString, OsString)>,
}

impl Given {
    pub(crate) fn toml(toml: &str) -> Given {
        let folder = TempDir::new().unwrap();
        Given { folder, toml: toml.to_owned(), variables: Vec::new() }
    }

    pub(crate) fn variable(mut self, name: &str, value: impl AsRef<OsStr>) -> Given {
        self.variables.push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// A file beside the configuration; its path stands in for `{name}` in what follows.
    fn file(mut self, name: &str, text: &str) -> Given {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        self.toml = self.toml.replace(&format!("{{{name}}}"), &path);
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn load(self) -> Result<Settings, ConfigError> {
        let file = self.path("chakra-sender.toml");
        fs::write(&file, &self.toml).unwrap();
        load(Some(&file), self.variables.into_iter())
    }

    /// What is reported, without the folder's own name.
    pub(crate) fn problems(self) -> String {
        let folder = self.folder.path().display().to_string();
        self.load().unwrap_err().to_string().replace(&folder, "")
    }
}

#[test]
fn the_defaults_are_those_of_the_reference() {
    let settings = load(None, std::iter::empty()).unwrap();
    assert_eq!(settings.chakra.base_url, "https://api.chakrahq.com");
    assert_eq!(settings.chakra.api_version, "v24.0");
    assert_eq!(settings.chakra.timeout, Duration::from_secs(30));
    assert_eq!(settings.chakra.max_in_flight, 1024);
    assert_eq!(settings.rabbitmq.uris[0].expose_secret(), "amqp://guest:guest@127.0.0.1:5672/%2f");
    assert!(settings.rabbitmq.declare && settings.rabbitmq.identity.is_none());
    assert_eq!((settings.numbers.accept, settings.numbers.max_lanes), (Accept::Plugin, 500));
    assert_eq!((settings.limits.number.rate, settings.limits.account.rate), (None, None));
    let recipient = settings.limits.recipient.unwrap();
    assert_eq!((recipient.burst, recipient.every), (20, Duration::from_secs(6)));
    assert_eq!((settings.retry.factor, settings.retry.max_attempts), (4.0, 12));
    assert_eq!(settings.results.max_bytes, 1 << 30);
    assert_eq!(settings.dead_letters.keep, Duration::from_secs(30 * 86_400));
    assert_eq!(settings.lanes.max_length, None);
    assert_eq!(settings.worker.drain_timeout, Duration::from_secs(40));
    assert_eq!(settings.admin.listen, Some(([127, 0, 0, 1], 9464).into()));
    assert_eq!((settings.log.format, settings.log.level.as_str()), (Format::Text, "info"));
}

#[test]
fn a_variable_goes_over_the_file_and_the_file_over_the_default() {
    let settings = Given::toml("[rabbitmq]\nprefix = 'from-file'\n[worker]\nmax_held = 7\n")
        .variable("CHAKRA_SENDER__RABBITMQ__PREFIX", "from-variable")
        .load()
        .unwrap();
    assert_eq!(settings.rabbitmq.prefix, "from-variable");
    assert_eq!(settings.worker.max_held, 7);
    assert_eq!(settings.numbers.max_lanes, 500);
}

#[test]
fn variables_are_text_that_becomes_what_the_key_needs() {
    let settings = Given::toml("")
        .variable("CHAKRA_SENDER__CHAKRA__TOKEN", "00123")
        .variable("CHAKRA_SENDER__CHAKRA__PLUGIN_ID", "1e5")
        .variable("CHAKRA_SENDER__CHAKRA__MAX_IN_FLIGHT", "64")
        .variable("CHAKRA_SENDER__RABBITMQ__DECLARE", "false")
        .variable("CHAKRA_SENDER__LIMITS__NUMBER__RATE", "17")
        .variable("CHAKRA_SENDER__RESULTS__MAX_BYTES", "64MiB")
        .variable("CHAKRA_SENDER__LOG__FORMAT", "json")
        .variable("CHAKRA_SENDER__ADMIN__LISTEN", "off")
        .load()
        .unwrap();
    assert_eq!(settings.chakra.token.as_ref().unwrap().expose_secret(), "00123");
    assert_eq!(settings.chakra.plugin_id.as_deref(), Some("1e5"));
    assert_eq!(settings.chakra.max_in_flight, 64);
    assert!(!settings.rabbitmq.declare);
    assert_eq!(settings.limits.number.rate, Some(17.0));
    assert_eq!(settings.results.max_bytes, 64 << 20);
    assert_eq!((settings.log.format, settings.admin.listen), (Format::Json, None));
}

#[test]
fn empty_variables_and_those_of_others_are_left_alone() {
    let settings = Given::toml("")
        .variable("CHAKRA_SENDER__CHAKRA__TOKEN", "")
        // Kubernetes sets these for a service that is called chakra-sender.
        .variable("CHAKRA_SENDER_SERVICE_HOST", "10.0.0.7")
        .variable("CHAKRA_SENDER_PORT", "tcp://10.0.0.7:9464")
        .load()
        .unwrap();
    assert!(settings.chakra.token.is_none());
}

/// Something is wrong in every section.
const WRONG: &str = r#"
    prefix = "bulk"
    [chakra]
    base_url = "api.chakrahq.com/"
    tokn = "EAAG-secret"
    api_version = 24.0
    timeout = "1 minute"
    connect_timeout = "5s"
    max_in_flight = 0
    [rabbitmq]
    uri = "amqp://user:pa55word@broker:port/%2f"
    prefix = "Chakra"
    declare = "perhaps"
    client_cert_file = "/nowhere/client.pem"
    [rabbitmq.heartbeat]
    seconds = 10
    [numbers]
    accept = "all"
    [[numbers.override]]
    id = "1027729340496751"
    rate = 70
    [[numbers.override]]
    id = "1027729340496751"
    rate = 0
    brust = 2
    [[numbers.override]]
    id = 1027729340496752
    [limits]
    max_wait = "31s"
    account.burst = 5
    [retry]
    initial = "2h"
    factor = 0.5
    max_delay = "1m"
    [webhook]
    listen = "0.0.0.0:80"
    [graphite]
    listen = "0.0.0.0:2003"
    [doubt]
    strong = "perhaps"
    [ledger]
    max_entries = 10
    [log]
    level = "inof"
    "#;

#[test]
fn every_problem_is_told_at_once() {
    let problems = Given::toml(WRONG)
        .variable("CHAKRA_SENDER__ADMIN__LISTEN", "localhost:9464")
        .variable("CHAKRA_SENDER__LANES", "5")
        .variable("CHAKRA_SENDER__CHAKRA__MAX_INFLIGHT", "5")
        .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has 30 problems:
      /chakra-sender.toml: chakra.base_url = "api.chakrahq.com/": must be an http or https URL without user, query, fragment or a slash at its end, like "https://api.chakrahq.com"
      /chakra-sender.toml: chakra.api_version = 24: must be text, in quotes
      /chakra-sender.toml: chakra.timeout = "1 minute": must be a duration from 1s to 10m, written like "250ms" or "5s"
      /chakra-sender.toml: chakra.max_in_flight = 0: must be a whole number from 1 to 65536
      /chakra-sender.toml: rabbitmq.uri = (hidden): must be amqp:// or amqps://user:password@host:port/vhost, with other characters than letters and digits percent-encoded in user, password and vhost
      /chakra-sender.toml: rabbitmq.prefix = "Chakra": must be 1 to 64 of a-z, 0-9, ".", "_" and "-"
      /chakra-sender.toml: rabbitmq.declare = "perhaps": must be true or false
      /chakra-sender.toml: rabbitmq.client_cert_file = "/nowhere/client.pem": cannot be read: No such file or directory (os error 2)
      /chakra-sender.toml: rabbitmq.client_cert_file = "/nowhere/client.pem": needs rabbitmq.client_key_file as well
      /chakra-sender.toml: numbers.accept = "all": must be "plugin" or "any"
      /chakra-sender.toml: numbers.override[1].rate = 0: must be a number from 0.1 to 1000000
      /chakra-sender.toml: numbers.override[1].id = "1027729340496751": has an override already: keep one
      /chakra-sender.toml: numbers.override[2].rate: is missing; an override has an id and a rate
      /chakra-sender.toml: numbers.override[2].id = 1027729340496752: must be text, in quotes
      /chakra-sender.toml: limits.max_wait = "31s": must be a duration from 0s to 30s, written like "250ms" or "5s"
      /chakra-sender.toml: limits.account.burst = 5: needs limits.account.rate as well
      /chakra-sender.toml: retry.initial = "2h": must be a duration from 10ms to 1h, written like "250ms" or "5s"
      /chakra-sender.toml: retry.factor = 0.5: must be a number from 1 to 100
      /chakra-sender.toml: doubt.strong = "perhaps": must be "report" or "resend"
      /chakra-sender.toml: ledger.max_entries = 10: must be a whole number from 1000 to 1000000000
      CHAKRA_SENDER__ADMIN__LISTEN: admin.listen = "localhost:9464": must be an IP address and a port, like "127.0.0.1:9464" or "[::]:9464", or "off"
      /chakra-sender.toml: webhook.listen = "0.0.0.0:80": needs webhook.secret (ChakraHQ: Admin, Team, Secrets) or webhook.path_secret: without either anybody could tell of deliveries
      /chakra-sender.toml: log.level = "inof": must be a level or directives like "info,lapin=warn": "inof" is neither a level (off, error, warn, info, debug, trace) nor target=level
      CHAKRA_SENDER__CHAKRA__MAX_INFLIGHT: chakra.max_inflight: unknown key; the nearest known one is chakra.max_in_flight
      /chakra-sender.toml: chakra.tokn: unknown key; the nearest known one is chakra.token
      /chakra-sender.toml: graphite: unknown section
      CHAKRA_SENDER__LANES: lanes: is a section: give each key in it, such as CHAKRA_SENDER__LANES__MAX_LENGTH
      /chakra-sender.toml: numbers.override[1].brust: unknown key; the nearest known one is numbers.override.burst
      /chakra-sender.toml: prefix: unknown key; the nearest known one is rabbitmq.prefix
      /chakra-sender.toml: rabbitmq.heartbeat: is one value, no table and no list
    "#);
}

#[test]
fn relations_between_keys_are_checked() {
    let problems = Given::toml(
        r#"
        [chakra]
        timeout = "40s"
        connect_timeout = "40s"
        [rabbitmq]
        heartbeat = "1500ms"
        client_key_file = "{key.pem}"
        client_p12_password = "archive-password"
        [retry]
        initial = "30m"
        max_delay = "10m"
        [worker]
        drain_timeout = "45s"
        "#,
    )
    .file("key.pem", "")
    .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has 6 problems:
      /chakra-sender.toml: chakra.connect_timeout = "40s": must be below chakra.timeout, 40s
      /chakra-sender.toml: rabbitmq.client_key_file = "/key.pem": needs rabbitmq.client_cert_file as well
      /chakra-sender.toml: rabbitmq.client_p12_password = (hidden): needs rabbitmq.client_p12_file as well
      /chakra-sender.toml: rabbitmq.heartbeat = "1500ms": must be whole seconds: AMQP knows no parts of one
      /chakra-sender.toml: retry.initial = "30m": must be at most retry.max_delay, 10m
      /chakra-sender.toml: worker.drain_timeout = "45s": must exceed chakra.timeout (40s) by more than 5s
    "#);
}

#[test]
fn a_file_that_cannot_be_read_does_not_hide_other_problems() {
    let missing = load(
        Some("/nowhere/chakra-sender.toml".as_ref()),
        [("CHAKRA_SENDER__LOG__FORMAT".into(), "xml".into())].into_iter(),
    );
    insta::assert_snapshot!(missing.unwrap_err(), @r#"
    the configuration has 2 problems:
      /nowhere/chakra-sender.toml: cannot be read: No such file or directory (os error 2)
      CHAKRA_SENDER__LOG__FORMAT: log.format = "xml": must be "text" or "json"
    "#);
}

#[test]
fn a_mistake_in_the_syntax_is_told_by_its_line_and_never_shows_a_secret() {
    for (toml, line) in [
        ("[chakra]\ntoken = EAAGsecret\n", "line 2"),
        ("[chakra]\ntoken = 'EAAGsecret\n", "line 2"),
        ("[chakra]\n\ntoken = 'x' EAAGsecret\n", "line 3"),
        ("[chakra]\ntoken = \"EAAGsecret\\q\"\n", "line 2"),
        ("[chakra]\ntoken = 'EAAGsecret'\ntoken = 'EAAGsecret'\n", "line 3"),
        ("[worker]\nmax_held = 99999999999999999999\n", "/chakra-sender.toml"),
    ] {
        let problems = Given::toml(toml).problems();
        assert!(problems.contains(line), "{problems}");
        assert!(!problems.contains("EAAG"), "{problems}");
    }
}

#[test]
fn a_secret_is_read_from_its_file_without_the_newline_at_its_end() {
    let settings = Given::toml(
        "[chakra]\ntoken_file = '{token}'\n[rabbitmq]\nuri_file = '{uri}'\npassword_file = '{password}'",
    )
    .file("token", "EAAG-token\r\n")
    .file("uri", "amqps://sender:old@one:5671/prod,amqps://sender@two/prod\n")
    .file("password", "p@ss/word\n")
    .load()
    .unwrap();
    assert_eq!(settings.chakra.token.as_ref().unwrap().expose_secret(), "EAAG-token");
    let uris: Vec<&str> = settings.rabbitmq.uris.iter().map(|uri| uri.expose_secret()).collect();
    assert_eq!(
        uris,
        ["amqps://sender:p%40ss%2Fword@one:5671/prod", "amqps://sender:p%40ss%2Fword@two/prod"]
    );
}

#[test]
fn a_secret_and_its_file_are_one_too_many() {
    let problems = Given::toml("[chakra]\ntoken = 'EAAG'\n")
        .variable("CHAKRA_SENDER__CHAKRA__TOKEN_FILE", "/run/secrets/token")
        .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has a problem:
      /chakra-sender.toml: chakra.token = (hidden): is given, and so is chakra.token_file: keep one
    "#);
}

#[test]
fn a_secret_that_cannot_be_read_or_used_is_told_without_it() {
    let problems = Given::toml(
        r#"
        [chakra]
        token_file = "{token}"
        [rabbitmq]
        uri = "amqp://user:pa55word@one,http://user:pa55word@two"
        password_file = "/nowhere/password"
        client_p12_password = 1234
        "#,
    )
    .file("token", "EAAG\nEAAG\n")
    .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has 5 problems:
      /chakra-sender.toml: chakra.token_file = "/token": names a file whose text must be visible ASCII characters without spaces, on one line
      /chakra-sender.toml: rabbitmq.uri = (hidden): (URI 2) must be amqp:// or amqps://user:password@host:port/vhost, with other characters than letters and digits percent-encoded in user, password and vhost
      /chakra-sender.toml: rabbitmq.password_file = "/nowhere/password": cannot be read: No such file or directory (os error 2)
      /chakra-sender.toml: rabbitmq.client_p12_password = (hidden): must be text, in quotes
      /chakra-sender.toml: rabbitmq.client_p12_password = (hidden): needs rabbitmq.client_p12_file as well
    "#);
}

#[test]
fn a_uri_that_the_library_would_take_for_localhost_is_refused() {
    for uri in ["amqp://user@[::1]:5672/", "amqp:///vhost", "amqp:broker", "amqp://a,amqp://[::1]"]
    {
        let problems = Given::toml("").variable("CHAKRA_SENDER__RABBITMQ__URI", uri).problems();
        assert!(problems.contains("rabbitmq.uri = (hidden)"), "{uri}: {problems}");
    }
}

#[test]
fn secrets_are_not_seen_in_debug_output() {
    let settings = Given::toml(
        r#"
        [chakra]
        token = "EAAGsecret"
        [rabbitmq]
        uri = "amqps://user:pa55word@broker/%2f"
        client_p12_file = "{archive}"
        client_p12_password = "archivepa55word"
        [webhook]
        listen = "127.0.0.1:9465"
        secret = "hmac-pa55word"
        path_secret = "segment-pa55word"
        verify_token = "challenge-pa55word"
        [admin]
        token = "admin-pa55word-16"
        "#,
    )
    .file("archive", "")
    .load()
    .unwrap();
    assert!(matches!(settings.rabbitmq.identity, Some(ClientIdentity::Pkcs12 { .. })));
    let shown = format!("{settings:?}");
    assert!(!shown.contains("EAAG"), "{shown}");
    assert!(!shown.contains("pa55word"), "{shown}");
}

#[test]
fn a_webhook_that_cannot_be_told_apart_from_a_strangers_is_refused() {
    let problems = Given::toml(
        r#"
        [webhook]
        listen = "localhost:9465"
        secret = ""
        path_secret = "too/short"
        verify_token = "two words"
        public_url = "hooks.example.com"
        "#,
    )
    .problems();
    insta::assert_snapshot!(problems, @r#"
    the configuration has 5 problems:
      /chakra-sender.toml: webhook.listen = "localhost:9465": must be an IP address and a port, like "127.0.0.1:9465" or "[::]:9465"
      /chakra-sender.toml: webhook.secret = (hidden): must not be empty
      /chakra-sender.toml: webhook.path_secret = (hidden): must be 16 to 128 of a-z, A-Z, 0-9, "-" and "_"
      /chakra-sender.toml: webhook.verify_token = (hidden): must be 1 to 128 visible ASCII characters without spaces
      /chakra-sender.toml: webhook.public_url = "hooks.example.com": must be an http or https URL without user, query, fragment or a slash at its end, like "https://example.com/webhook"
    "#);
}

#[test]
fn webhooks_are_off_until_an_address_is_given() {
    assert!(Given::toml("[webhook]\nsecret = 'sesame'\n").load().unwrap().webhook.is_none());
    let settings = Given::toml("[webhook]\nsecret_file = '{secret}'\nlisten = '127.0.0.1:9465'\n")
        .file("secret", "sesame\n")
        .load()
        .unwrap();
    let webhook = settings.webhook.unwrap();
    let Proof::Signature(secret) = &webhook.proof else { panic!("{:?}", webhook.proof) };
    assert_eq!(secret.expose_secret(), "sesame");
    assert_eq!((webhook.listen.port(), webhook.verify_token.is_none()), (9465, true));
}

#[test]
fn numbers_are_overridden_by_their_digits() {
    let settings = Given::toml(
        r#"
        [[numbers.override]]
        id = "0027729340496751"
        rate = 0.5
        burst = 1
        [[numbers.override]]
        id = "1027729340496751"
        rate = 900
        "#,
    )
    .load()
    .unwrap();
    let given = |id, rate, burst| NumberOverride { id: NumberId::parse(id).unwrap(), rate, burst };
    assert_eq!(
        settings.numbers.overrides,
        [given("0027729340496751", 0.5, Some(1)), given("1027729340496751", 900.0, None)]
    );
}

#[test]
fn a_worker_needs_an_account_and_is_told_all_that_it_lacks() {
    let settings = load(None, std::iter::empty()).unwrap();
    insta::assert_snapshot!(settings.require_account().unwrap_err(), @r#"
    the configuration has 2 problems:
      chakra.token: is needed: ChakraHQ's API key, or chakra.token_file
      chakra.plugin_id: is needed: the plugin that sends
    "#);
    let settings = Given::toml("[chakra]\ntoken = 'EAAG'\nplugin_id = 'a1b2'\n").load().unwrap();
    assert!(settings.require_account().is_ok());
}
