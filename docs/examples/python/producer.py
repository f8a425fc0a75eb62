#!/usr/bin/env python3
"""Puts WhatsApp messages on RabbitMQ for chakra-sender: none is lost, none is sent twice.

Reads orders from stdin, one JSON object a line, such as
    {"order": 8812, "to": "+919901258433", "text": "Shipped!"}
and puts one job for each:
    AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f python3 producer.py 1027729340496751 < orders.jsonl

Needs pika 1.2 or later (`pip install pika`, or Debian's python3-pika).
"""

import json
import os
import sys
import time

import pika
from pika.exceptions import AMQPError, NackError, UnroutableError

URL = os.environ.get("AMQP_URL", "amqp://guest:guest@127.0.0.1:5672/%2f")
EXCHANGE = os.environ.get("CHAKRA_PREFIX", "chakra") + ".sends"
# How often a job is tried before a person must look, and the pauses between: 1, 2, 4 ... seconds.
TRIES = 8


def job_of(order, phone_number_id):
    """The job and its routing key. The id is made of what the message is about, never at random: put again
    after a crash or a lost confirm, the same message has the same id, and is not sent twice."""
    job = {
        "id": f"order-{order['order']}-shipped",
        "phone_number_id": phone_number_id,
        # Meta's own message object. It goes to Meta byte for byte.
        "message": {
            "messaging_product": "whatsapp",
            "to": order["to"],
            "type": "text",
            "text": {"body": order["text"]},
        },
        # Comes back on each event of this job.
        "metadata": {"order": order["order"]},
    }
    if "expires_at" in order:
        # Never sent after: the result is then `expired`.
        job["expires_at"] = order["expires_at"]
    # Urgent jobs overtake the others of their number: for what somebody is waiting for, such as a code.
    urgent = ".urgent" if order.get("urgent") else ""
    return job, phone_number_id + urgent


class Producer:
    """A connection that publishes with confirms, and is made anew where it breaks."""

    def __init__(self):
        self.connection = None
        self.channel = None

    def connect(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(URL))
        self.channel = self.connection.channel()
        # From here on each publish waits until RabbitMQ has the job on disk.
        self.channel.confirm_delivery()

    def put(self, job, routing_key):
        """Returns when RabbitMQ has the job; raises after the last try."""
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,  # It survives a restart of RabbitMQ.
            message_id=job["id"],
            timestamp=int(time.time()),  # Comes back as `enqueued_at`.
        )
        for tried in range(TRIES):
            if tried:
                time.sleep(2 ** (tried - 1))
            try:
                if self.channel is None or self.channel.is_closed:
                    self.connect()
                self.channel.basic_publish(
                    EXCHANGE, routing_key, json.dumps(job).encode(), properties, mandatory=True
                )
                return
            except NackError:
                # Its lane is full (`lanes.max_length`): later there is room.
                print(f"{job['id']}: refused, its lane is full", file=sys.stderr)
            except UnroutableError:
                # A number without a lane goes to the alternate exchange, which has a queue: what comes back
                # all the same was dropped by RabbitMQ, because somebody took that queue away.
                print(f"{job['id']}: returned, no queue takes it", file=sys.stderr)
            except AMQPError as error:
                # It may or may not have arrived. Put again under the same id it is sent once. (A missing
                # exchange ends here too: the first worker makes it.)
                print(f"{job['id']}: {error!r}", file=sys.stderr)
                self.channel = None
        raise SystemExit(f"{job['id']}: not enqueued after {TRIES} tries; start again with it")


def main():
    if len(sys.argv) != 2:
        raise SystemExit("usage: producer.py PHONE_NUMBER_ID < orders.jsonl")
    producer = Producer()
    for line in sys.stdin:
        job, routing_key = job_of(json.loads(line), sys.argv[1])
        producer.put(job, routing_key)
        print(f"{job['id']}: enqueued", flush=True)
    if producer.connection is not None and producer.connection.is_open:
        producer.connection.close()


if __name__ == "__main__":
    main()
