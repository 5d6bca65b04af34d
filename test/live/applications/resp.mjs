/**
 * A small key-value server that speaks RESP, the protocol of Redis, on port 6379: PING, GET, SET, INCR, CONFIG. A change is
 * acknowledged when it is durable in an append-only file. HTTP on port 80 for health checks and readers. An ordinary program.
 */
import { open, rename } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';

const FILE = '/data/resp.aof';
/** From so many bytes on the file is written anew at the start, with the values alone. */
const COMPACT_BYTES = 256 * 1024;

const values = new Map();
let file = await open(FILE, 'a+');
const text = await file.readFile('utf8');
for (const line of text.split('\n')) {
  const [key, value] = line.split('\t');
  if (value !== undefined) values.set(key, value);
}
if (text.length > COMPACT_BYTES) {
  const compact = await open(`${FILE}.new`, 'w');
  await compact.writeFile(lines([...values].map(([key, value]) => ({ key, value }))));
  await compact.sync();
  await compact.close();
  await file.close();
  await rename(`${FILE}.new`, FILE);
  file = await open(FILE, 'a+');
  await file.sync();
}

function lines(changes) {
  return changes.map(({ key, value }) => `${key}\t${value}\n`).join('');
}

let waiting = [];
let writing = false;

/** Changes that come while a write is under way share the next one. */
async function commit() {
  if (writing) return;
  writing = true;
  while (waiting.length > 0) {
    const batch = waiting;
    waiting = [];
    let failed;
    try {
      await file.appendFile(lines(batch));
      await file.datasync();
    } catch (error) {
      failed = error;
    }
    for (const { done } of batch) done(failed);
  }
  writing = false;
}

function store(key, value) {
  values.set(key, value);
  return new Promise((resolve) => {
    waiting.push({ key, value, done: resolve });
    void commit();
  });
}

const bulk = (text) => (text === undefined ? '$-1\r\n' : `$${Buffer.byteLength(text)}\r\n${text}\r\n`);

async function answer([command = '', key = '', value = '']) {
  switch (command.toUpperCase()) {
    case 'PING':
      return '+PONG\r\n';
    case 'GET':
      return bulk(values.get(key));
    case 'SET': {
      const failed = await store(key, value);
      return failed === undefined ? '+OK\r\n' : `-ERR ${failed.message}\r\n`;
    }
    case 'INCR': {
      const next = String(Number(values.get(key) ?? '0') + 1);
      const failed = await store(key, next);
      return failed === undefined ? `:${next}\r\n` : `-ERR ${failed.message}\r\n`;
    }
    case 'CONFIG':
      return '*2\r\n' + bulk(key) + bulk('');
    default:
      return `-ERR unknown command ${command}\r\n`;
  }
}

/** One request at the beginning of `text`: its words and what is left; undefined while it is not whole. */
function parse(text) {
  const head = /^\*(\d+)\r\n/.exec(text);
  if (head === null) return undefined;
  const words = [];
  let at = head[0].length;
  for (let i = 0; i < Number(head[1]); i++) {
    const length = /^\$(\d+)\r\n/.exec(text.slice(at, at + 16));
    if (length === null) return undefined;
    at += length[0].length;
    const end = at + Number(length[1]);
    if (text.length < end + 2) return undefined;
    words.push(text.slice(at, end));
    at = end + 2;
  }
  return { words, rest: text.slice(at) };
}

net
  .createServer((socket) => {
    let text = '';
    let chain = Promise.resolve();
    socket.on('data', (chunk) => {
      text += chunk.toString('latin1');
      for (let one = parse(text); one !== undefined; one = parse(text)) {
        text = one.rest;
        const { words } = one;
        chain = chain.then(async () => socket.write(await answer(words)));
      }
    });
    socket.on('error', () => {});
  })
  .listen(6379, () => {
    const server = http.createServer((_request, response) => response.end(`${values.size} keys\n`));
    server.keepAliveTimeout = 60_000;
    server.listen(80);
  });
