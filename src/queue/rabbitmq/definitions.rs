//! What an administrator must create where the worker may not (`rabbitmq.declare = false`), in the
//! form that RabbitMQ imports (`rabbitmqctl import_definitions`, the management page).

use super::topology::{Argument, Arguments, Kind, Topology};
use serde_json::{Map, Value, json};

/// The definitions of `topology` in `vhost`.
pub fn definitions(topology: &Topology, vhost: &str) -> Value {
    let exchanges: Vec<Value> = topology
        .exchanges
        .iter()
        .map(|exchange| {
            let kind = match exchange.kind {
                Kind::Direct => "direct",
                Kind::Fanout => "fanout",
                Kind::Topic => "topic",
            };
            json!({
                "name": exchange.name, "vhost": vhost, "type": kind, "durable": true,
                "auto_delete": false, "internal": false, "arguments": arguments(&exchange.arguments),
            })
        })
        .collect();
    let queues: Vec<Value> = topology
        .queues
        .iter()
        .map(|queue| {
            json!({
                "name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false,
                "arguments": arguments(&queue.arguments),
            })
        })
        .collect();
    let bindings: Vec<Value> = topology
        .bindings
        .iter()
        .map(|binding| {
            json!({
                "source": binding.exchange, "vhost": vhost, "destination": binding.queue,
                "destination_type": "queue", "routing_key": binding.key, "arguments": {},
            })
        })
        .collect();
    json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings })
}

fn arguments(arguments: &Arguments) -> Map<String, Value> {
    let value = |argument: &Argument| match argument {
        Argument::Text(text) => json!(text),
        Argument::Number(number) => json!(number),
        Argument::Flag(flag) => json!(flag),
    };
    arguments.iter().map(|(name, argument)| ((*name).to_owned(), value(argument))).collect()
}
