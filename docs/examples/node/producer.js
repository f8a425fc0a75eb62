// Puts WhatsApp messages on RabbitMQ for chakra-sender: none is lost, none is sent twice.
//
// Reads orders from stdin, one JSON object a line, such as
//     {"order": 8812, "to": "+919901258433", "text": "Shipped!"}
// and puts one job for each:
//     npm ci
//     AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f node producer.js 1027729340496751 < orders.jsonl

import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import amqp from 'amqplib';

const URL = process.env.AMQP_URL ?? 'amqp://guest:guest@127.0.0.1:5672/%2f';
const EXCHANGE = `${process.env.CHAKRA_PREFIX ?? 'chakra'}.sends`;
// How often a job is tried before a person must look, and the pauses between: 1, 2, 4 ... seconds.
const TRIES = 8;

// The job and its routing key. The id is made of what the message is about, never at random: put again after
// a crash or a lost confirm, the same message has the same id, and is not sent twice.
function jobOf(order, phoneNumberId) {
  const job = {
    id: `order-${order.order}-shipped`,
    phone_number_id: phoneNumberId,
    // Meta's own message object. It goes to Meta byte for byte.
    message: {
      messaging_product: 'whatsapp',
      to: order.to,
      type: 'text',
      text: { body: order.text },
    },
    // Never sent after: the result is then `expired`. Undefined, it is left out.
    expires_at: order.expires_at,
    // Comes back on each event of this job.
    metadata: { order: order.order },
  };
  // Urgent jobs overtake the others of their number: for what somebody is waiting for, such as a code.
  return { job, routingKey: phoneNumberId + (order.urgent ? '.urgent' : '') };
}

// A connection that publishes with confirms, and is made anew where it breaks.
class Producer {
  #connection;
  #channel;
  #returned = new Set();

  async #open() {
    if (this.#channel) return;
    this.#connection = await amqp.connect(URL);
    const lost = (error) => {
      if (error) console.error(`connection: ${error.message}`);
      this.#channel = undefined;
    };
    this.#connection.on('error', lost).on('close', lost);
    const channel = await this.#connection.createConfirmChannel();
    channel.on('error', lost).on('close', lost);
    // A message that no queue took comes back before its confirm.
    channel.on('return', (message) => this.#returned.add(message.properties.messageId));
    this.#channel = channel;
  }

  // Resolves when RabbitMQ has the job; rejects after the last try.
  async put(job, routingKey) {
    for (let tried = 0; tried < TRIES; tried += 1) {
      if (tried > 0) await pause(1000 * 2 ** (tried - 1));
      try {
        await this.#open();
        await this.#publish(job, routingKey);
        // A number without a lane goes to the alternate exchange, which has a queue: what comes back all the
        // same was dropped by RabbitMQ, because somebody took that queue away.
        if (!this.#returned.delete(job.id)) return;
        console.error(`${job.id}: returned, no queue takes it`);
      } catch (error) {
        // Refused, because its lane is full (`lanes.max_length`); or the connection broke, and it may or may
        // not have arrived. Put again under the same id it is sent once. (A missing exchange ends here too:
        // the first worker makes it.)
        console.error(`${job.id}: ${error.message}`);
      }
    }
    throw new Error(`${job.id}: not enqueued after ${TRIES} tries; start again with it`);
  }

  #publish(job, routingKey) {
    const options = {
      contentType: 'application/json',
      persistent: true, // It survives a restart of RabbitMQ.
      mandatory: true,
      messageId: job.id,
      timestamp: Math.floor(Date.now() / 1000), // Seconds. Comes back as `enqueued_at`.
    };
    return new Promise((resolve, reject) => {
      const confirmed = (error) => (error ? reject(error) : resolve());
      this.#channel.publish(EXCHANGE, routingKey, Buffer.from(JSON.stringify(job)), options, confirmed);
    });
  }

  async close() {
    await this.#connection?.close();
  }
}

const [phoneNumberId] = process.argv.slice(2);
if (!phoneNumberId) {
  console.error('usage: node producer.js PHONE_NUMBER_ID < orders.jsonl');
  process.exit(2);
}
const producer = new Producer();
for await (const line of createInterface({ input: process.stdin })) {
  const { job, routingKey } = jobOf(JSON.parse(line), phoneNumberId);
  await producer.put(job, routingKey);
  console.log(`${job.id}: enqueued`);
}
await producer.close();
