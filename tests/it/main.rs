//! Stories, one binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a story that cannot go on fails there")]
#![allow(unreachable_pub, reason = "the binary has no outside")]

mod administrators;
mod alerts;
mod asyncapi;
mod bad_input;
mod brake;
mod broker_trouble;
mod chakra_client;
mod commands;
mod configuration;
mod configuration_changes;
mod conservation;
mod dashboard;
mod dead_letters;
mod delivery;
mod deploy;
mod enqueue;
mod enqueue_table;
mod examples;
mod fence;
mod file_mode;
mod handing_over;
mod jobs_and_events;
mod learning;
mod ledger;
mod limiter;
mod limiter_changes;
mod live_settings;
mod metrics;
mod nothing_twice;
mod numbers;
mod odd_bytes;
mod ownership;
mod pauses;
mod pausing;
mod plugin_numbers;
mod presence;
mod processes;
mod provider_processes;
mod provider_trouble;
mod rabbitmq;
mod rabbitmq_outages;
mod sandbox;
mod sandbox_webhooks;
mod status_page;
mod statuses;
mod support;
mod through_rabbitmq;
mod tidy;
mod webhook;
mod why;
mod wire_events;
mod wire_jobs;
mod wire_messages;
