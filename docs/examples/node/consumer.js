// Keeps in a file what became of each message: acknowledged only once it is written, and each event counted
// once however often it is delivered.
//
//     npm ci
//     AMQP_URL=amqp://guest:guest@127.0.0.1:5672/%2f node consumer.js outcomes.jsonl
//
// Takes from a queue of its own, so that it shares with no other service: events that came before the queue
// was made are in `chakra.results` (see the example in Python). Ctrl-C or SIGTERM end it at any point: what was
// not acknowledged comes again.

import { existsSync, openSync, readFileSync, fsyncSync, writeSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import amqp from 'amqplib';

const URL = process.env.AMQP_URL ?? 'amqp://guest:guest@127.0.0.1:5672/%2f';
const EXCHANGE = `${process.env.CHAKRA_PREFIX ?? 'chakra'}.results`;
const QUEUE = process.env.QUEUE ?? 'orders.whatsapp-events';
// Keys are `result.<status>.<phone_number_id>` and `status.<status>.<phone_number_id>`: `#` is all of them,
// `result.failed.*` would be the failures alone.
const PATTERN = '#';

// What was handled, by the AMQP message id of its event. A real service keeps this in the database where the
// effect of an event is, and writes both in one transaction.
class Outcomes {
  #seen = new Set();
  #file;

  constructor(path) {
    const lines = existsSync(path) ? readFileSync(path, 'utf8').split('\n') : [];
    for (const line of lines.filter(Boolean)) this.#seen.add(JSON.parse(line).message_id);
    this.#file = openSync(path, 'a');
  }

  // False where it was kept before.
  keep(messageId, event) {
    if (this.#seen.has(messageId)) return false;
    writeSync(this.#file, `${JSON.stringify({ message_id: messageId, ...event })}\n`);
    fsyncSync(this.#file);
    this.#seen.add(messageId);
    return true;
  }
}

// What an event means for who asked for the message.
function meaning(event) {
  // A kind or a status that came later than this program is kept, and has no meaning here yet.
  if (event.event !== 'result') return event.status ?? event.event;
  switch (event.status) {
    case 'accepted':
      return 'accepted'; // Meta has it. Delivery is told later, by a status.
    case 'expired':
      return 'expired: nothing was sent, and it may be asked for anew';
    case 'unknown':
      return 'unknown: it may have been sent; a person decides, not a retry';
    case 'failed':
      // `invalid` and `refused` would be refused again. The rest was tried for hours: it may pass later, by
      // `chakra-sender dead-letters replay`.
      return `failed: ${event.error.class}: ${event.error.message}`;
    default:
      return event.status;
  }
}

async function follow(outcomes) {
  const connection = await amqp.connect(URL);
  const over = new Promise((resolve) => {
    connection.on('close', resolve).on('error', (error) => console.error(error.message));
  });
  const channel = await connection.createChannel();
  // One that the broker closes (its queue was deleted) is of no use any more.
  channel.on('error', (error) => console.error(error.message));
  channel.on('close', () => connection.close().catch(() => {}));
  const quorum = { durable: true, arguments: { 'x-queue-type': 'quorum' } };
  await channel.assertQueue(QUEUE, quorum);
  await channel.bindQueue(QUEUE, EXCHANGE, PATTERN);
  // Events in hand at once: without this, all that stands in the queue is sent here.
  await channel.prefetch(100);
  await channel.consume(QUEUE, (message) => {
    if (!message) return void connection.close().catch(() => {});
    const event = JSON.parse(message.content);
    if (outcomes.keep(message.properties.messageId, event)) {
      console.log(`${event.id}: ${meaning(event)}`);
    }
    // Last: what ends the program before brings the event again.
    channel.ack(message);
  });
  console.log(`following ${QUEUE}`);
  await over;
}

const [path] = process.argv.slice(2);
if (!path) {
  console.error('usage: node consumer.js FILE');
  process.exit(2);
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
const outcomes = new Outcomes(path);
for (;;) {
  await follow(outcomes).catch((error) => console.error(error.message));
  console.error('again in a second');
  await pause(1000);
}
