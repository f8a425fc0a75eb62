#!/usr/bin/env python3
"""Keeps in a database what became of each message: acknowledged only once it is written, and each event
counted once however often it is delivered.

    AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f python3 consumer.py outcomes.db

Takes from the queue `chakra.results`, which keeps all events until somebody takes them. Where several
services want them, each needs a queue of its own: see the example in Node.js.

Needs pika 1.2 or later (`pip install pika`, or Debian's python3-pika). Ctrl-C or SIGTERM end it at any point:
what was not acknowledged comes again.
"""

import json
import os
import signal
import sqlite3
import sys
import time

import pika
from pika.exceptions import AMQPError

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
QUEUE = os.environ.get("CHAKRA_PREFIX", "chakra") + ".results"

# How far a message comes, in this order. Statuses may overtake each other, and the result too.
STEPS = ["sent", "delivered", "read", "played", "failed"]

TABLES = """
CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS message (
    id TEXT PRIMARY KEY, status TEXT, whatsapp_message_id TEXT, error TEXT, delivery TEXT);
"""


def on_result(database, event):
    """How a job ended: exactly one such event for each job, and one more after each replay."""
    error = event["error"] and json.dumps(event["error"])
    database.execute(
        "INSERT INTO message (id, status, whatsapp_message_id, error) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (id) DO UPDATE SET status = excluded.status,"
        " whatsapp_message_id = excluded.whatsapp_message_id, error = excluded.error",
        (event["id"], event["status"], event["whatsapp_message_id"], error),
    )
    if event["status"] == "accepted":
        return "accepted"  # Meta has it. Delivery is told later, by a status.
    if event["status"] == "expired":
        return "expired: nothing was sent, and it may be asked for anew"
    if event["status"] == "unknown":
        return "unknown: it may have been sent; a person decides, not a retry"
    # `invalid` and `refused` would be refused again. The rest was tried for hours: it may pass later, by
    # `chakra-sender dead-letters replay`.
    return f"failed: {event['error']['class']}: {event['error']['message']}"


def on_status(database, event):
    """How far an accepted message came: forward only."""
    if event["id"] is None:
        return "is of no job that is known here"
    if event["status"] not in STEPS:
        return event["status"]  # A status that came later than this program.
    known = database.execute("SELECT delivery FROM message WHERE id = ?", (event["id"],)).fetchone()
    if known and known[0] and STEPS.index(known[0]) > STEPS.index(event["status"]):
        return f"{event['status']}, after {known[0]}"
    database.execute(
        "INSERT INTO message (id, delivery) VALUES (?, ?)"
        " ON CONFLICT (id) DO UPDATE SET delivery = excluded.delivery",
        (event["id"], event["status"]),
    )
    return event["status"]


def handle(database, message_id, event):
    """The event and the mark that it was seen, in one transaction: both or neither."""
    with database:
        seen = database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (message_id,))
        if seen.rowcount == 0:
            return
        if event["event"] == "result":
            said = on_result(database, event)
        elif event["event"] == "status":
            said = on_status(database, event)
        else:
            return  # A kind that came later than this program.
    print(f"{event['id']}: {said}", flush=True)


def follow(database):
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    # Events in hand at once: without this, all that stands in the queue is sent here.
    channel.basic_qos(prefetch_count=100)
    for method, properties, body in channel.consume(QUEUE):
        handle(database, properties.message_id, json.loads(body))
        # Last: what ends the program before brings the event again.
        channel.basic_ack(method.delivery_tag)


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: consumer.py DATABASE")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    database = sqlite3.connect(sys.argv[1])
    database.executescript(TABLES)
    while True:
        try:
            follow(database)
        except AMQPError as error:
            print(f"again in a second: {error!r}", file=sys.stderr, flush=True)
            time.sleep(1)
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
