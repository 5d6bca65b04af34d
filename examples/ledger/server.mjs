/**
 * A ledger: entries are appended to a file on the application disk and acknowledged when they are durable. An ordinary Node program;
 * it knows nothing of partitions or of Changeover.
 *
 *   POST /entries              body = text of the entry (≤ 4 KiB) → 201 {"n": N}
 *   GET  /entries/:n           the entry
 *   GET  /entries              {"count": N}
 *   GET  /slow                 20 lines over 2 seconds
 *   GET  /version              {"name": "ledger", "version": …}
 *   GET  /reports/:name        a file of the folder reports/
 */
import { open, readFile } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';

const VERSION = '1.0.0';
const DATA = process.env.LEDGER_DATA ?? '/data';
const REPORTS = process.env.LEDGER_REPORTS ?? '/srv/ledger/reports';
const PORT = Number(process.env.PORT ?? 80);
const MAX_ENTRY = 4096;

/** Text of entry n at index n - 1. */
const entries = [];
const file = await open(path.join(DATA, 'ledger.jsonl'), 'a+');
const stored = await file.readFile('utf8');
for (const line of stored.split('\n')) {
  if (line === '') continue;
  try {
    const { n, text } = JSON.parse(line);
    entries[n - 1] = text;
  } catch {
    // A line torn by a crash: it was never acknowledged, its number is given again.
  }
}
/** The file ends within a line: the next one must start with a line break. */
let torn = stored !== '' && !stored.endsWith('\n');

/** Entries of all requests that arrive while one write is under way share the next write and the next sync. */
let waiting = [];
let writing = false;

async function commit() {
  if (writing) return;
  writing = true;
  while (waiting.length > 0) {
    const batch = waiting;
    waiting = [];
    const first = entries.length + 1;
    try {
      const lines = batch.map((entry, i) => `${JSON.stringify({ n: first + i, text: entry.text })}\n`).join('');
      await file.appendFile(torn ? `\n${lines}` : lines);
      await file.datasync();
      torn = false;
      for (const entry of batch) entries.push(entry.text);
      batch.forEach((entry, i) => {
        entry.done(first + i);
      });
    } catch (error) {
      torn = true;
      for (const entry of batch) entry.failed(error);
    }
  }
  writing = false;
}

function append(text) {
  return new Promise((done, failed) => {
    waiting.push({ text, done, failed });
    void commit();
  });
}

function reply(res, status, body) {
  const text = JSON.stringify(body);
  res.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  res.end(text);
}

function post(req, res) {
  const parts = [];
  let size = 0;
  req.on('data', (chunk) => {
    size += chunk.length;
    if (size <= MAX_ENTRY) parts.push(chunk);
  });
  req.on('end', async () => {
    if (size > MAX_ENTRY) return reply(res, 413, { error: `an entry has at most ${MAX_ENTRY} bytes` });
    try {
      reply(res, 201, { n: await append(Buffer.concat(parts).toString('utf8')) });
    } catch (error) {
      reply(res, 503, { error: `not stored: ${error.message}` });
    }
  });
}

function slow(res) {
  res.writeHead(200, { 'content-type': 'text/plain' });
  let line = 0;
  const timer = setInterval(() => {
    line += 1;
    res.write(`line ${line} of 20\n`);
    if (line === 20) {
      clearInterval(timer);
      res.end();
    }
  }, 100);
  res.on('close', () => clearInterval(timer));
}

async function report(name, res) {
  try {
    reply(res, 200, { name, text: await readFile(path.join(REPORTS, name), 'utf8') });
  } catch {
    reply(res, 404, { error: `no report ${name}` });
  }
}

const server = http.createServer((req, res) => {
  const { pathname } = new URL(req.url, 'http://ledger');
  if (req.method === 'POST' && pathname === '/entries') return post(req, res);
  if (req.method !== 'GET') return reply(res, 405, { error: `${req.method} is not supported here` });
  if (pathname === '/version') return reply(res, 200, { name: 'ledger', version: VERSION });
  if (pathname === '/slow') return slow(res);
  if (pathname === '/entries') return reply(res, 200, { count: entries.length });
  if (pathname.startsWith('/entries/')) {
    const n = Number(pathname.slice('/entries/'.length));
    const text = Number.isInteger(n) ? entries[n - 1] : undefined;
    return text === undefined ? reply(res, 404, { error: 'no such entry' }) : reply(res, 200, { n, text });
  }
  if (pathname.startsWith('/reports/')) {
    return void report(decodeURIComponent(pathname.slice('/reports/'.length)), res);
  }
  return reply(res, 404, { error: 'no such page' });
});

server.keepAliveTimeout = 60_000;
server.listen(PORT, () => console.log(`ledger ${VERSION} listens on port ${PORT} with ${entries.length} entries`));
