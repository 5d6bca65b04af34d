import { once } from 'node:events';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import net from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import type { StackSocket } from '../../../src/netstack/index.ts';
import {
  cidr,
  connectOn,
  MemoryLink,
  macAddress,
  NetFace,
  RequestTracker,
  Stack,
} from '../../../src/netstack/index.ts';
import { eventually, within } from '../../support/index.ts';
import { pair, SERVER } from './support/index.ts';

const tracker = suite('netstack/node/request-tracker');

interface Rig {
  readonly tracker: RequestTracker;
  readonly raw: StackSocket;
  /** Responses waiting to be finished by the test. */
  readonly held: http.ServerResponse[];
  /** All text the raw client has received. */
  text(): string;
  close(): void;
}

async function rig(): Promise<Rig> {
  const watching = new RequestTracker();
  const faces = pair({ onConnection: watching.onConnection });
  const held: http.ServerResponse[] = [];
  const server = http.createServer((request, response) => {
    request.resume();
    if (request.url === '/hold') held.push(response);
    else response.end(`${request.method} ${request.url}\n`);
  });
  faces.server.listen(server, { port: 80 });
  const raw = connectOn(faces.client, { host: SERVER, port: 80 });
  let received = '';
  raw.on('data', (chunk: Buffer) => {
    received += chunk.toString();
  });
  await once(raw, 'connect');
  await eventually('the connection is tracked', () => watching.connections().length === 1);
  return { tracker: watching, raw, held, text: () => received, close: faces.close };
}

const only = (t: RequestTracker) => t.connections()[0]?.requests;

tracker(
  'idle → safe → idle by a GET, unsafe by a POST until its response has left',
  within(async () => {
    const { tracker: t, raw, held, text, close } = await rig();
    assert.is(only(t), 'idle');
    raw.write('GET /hold HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually('held', () => held.length === 1);
    assert.is(only(t), 'safe');
    held[0]!.end('done-1');
    await eventually('answered', () => text().includes('done-1'));
    assert.is(only(t), 'idle');
    raw.write('POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc');
    await eventually('held', () => held.length === 2);
    assert.is(only(t), 'unsafe');
    held[1]!.end('done-2');
    await eventually('answered', () => text().includes('done-2'));
    assert.is(only(t), 'idle');
    close();
  }),
);

tracker(
  'a partial head is unsafe from its first octet; a partial body keeps its request in flight',
  within(async () => {
    const { tracker: t, raw, text, close } = await rig();
    raw.write('G');
    await eventually('one octet counts', () => only(t) === 'unsafe');
    raw.write('ET /a HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually('answered', () => text().includes('GET /a'));
    assert.is(only(t), 'idle');
    raw.write('PUT /b HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab');
    await eventually('answered before the body is complete', () => text().includes('PUT /b'));
    assert.is.not(only(t), 'idle');
    raw.write('cd');
    await eventually('idle with the last octet', () => only(t) === 'idle');
    close();
  }),
);

tracker(
  'pipelined requests: idle only after the last of them',
  within(async () => {
    const { tracker: t, raw, held, text, close } = await rig();
    raw.write(
      'GET /hold HTTP/1.1\r\nHost: x\r\n\r\nPOST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n',
    );
    await eventually('held', () => held.length === 1);
    assert.is(only(t), 'unsafe', 'the POST behind the GET counts');
    held[0]!.end('first');
    await eventually('both answered', () => text().includes('POST /p'));
    await eventually('idle', () => only(t) === 'idle');
    close();
  }),
);

tracker(
  'quiesce freezes idle connections at once, others when their response has left, and waits for the unsafe only',
  within(async () => {
    const { tracker: t, raw, held, text, close } = await rig();
    raw.write('POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n');
    await eventually('held', () => held.length === 1);
    let done = false;
    const quiet = t.quiesce(5000).then((result) => {
      done = true;
      return result;
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.not.ok(done);
    held[0]!.end('written');
    // The next request arrives right behind: it must not be delivered.
    raw.write('POST /late HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n');
    const result = await quiet;
    assert.is(result.idle.length, 1);
    assert.equal(result.unfinished, []);
    assert.is(t.connections()[0]!.frozen, true);
    await eventually('the response leaves', () => text().includes('written'));
    assert.not.ok(text().includes('/late'));
    t.resume();
    await eventually('read again', () => text().includes('POST /late'));
    close();
  }),
);

tracker(
  'the budget ends the wait and names who is unfinished',
  within(async () => {
    const { tracker: t, raw, held, close } = await rig();
    raw.write('POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n');
    await eventually('held', () => held.length === 1);
    const result = await t.quiesce(50);
    assert.is(result.unfinished.length, 1);
    assert.is(result.unfinished[0]!.remotePort, raw.localPort);
    assert.ok(result.waitedMs >= 49);
    close();
  }),
);

tracker(
  'an upgraded connection is never idle; a silent one of another protocol is safe, an unanswered one unsafe',
  within(async () => {
    const watching = new RequestTracker();
    const faces = pair({ onConnection: watching.onConnection });
    const server = http.createServer();
    server.on('upgrade', (_request, upgraded) => {
      upgraded.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n');
    });
    faces.server.listen(server, { port: 80 });
    const up = connectOn(faces.client, { host: SERVER, port: 80 });
    up.write('GET / HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n');
    await once(up, 'data');
    assert.is(only(watching), 'safe');

    const line = net.createServer((far) => {
      far.on('data', (chunk: Buffer) => {
        if (chunk.toString() !== 'slow') far.write('ok');
      });
    });
    faces.server.listen(line, { port: 81 });
    const raw = connectOn(faces.client, { host: SERVER, port: 81 });
    await once(raw, 'connect');
    const state = () => watching.connections().find(({ flow }) => flow.localPort === 81)?.requests;
    await eventually('tracked', () => state() === 'idle');
    raw.write('slow');
    await eventually('unanswered', () => state() === 'unsafe');
    raw.write('fast');
    await once(raw, 'data');
    assert.is(state(), 'safe');
    faces.close();
  }),
);

tracker(
  'keep-alive clients stay connected while their connections move to another stack and application',
  within(async () => {
    // A learning bridge of three stacks: client, old and next share the service address's network.
    const service = '10.0.0.11';
    const watching = new RequestTracker();
    const [clientLink, oldEnd] = MemoryLink.pair(systemClock, { segmentation: true });
    const [nextLink, nextEnd] = MemoryLink.pair(systemClock, { segmentation: true });
    const [oldLink, oldFar] = MemoryLink.pair(systemClock, { segmentation: true });
    // The switch: everything from the client goes to where the path points.
    let path: MemoryLink = oldFar;
    const forward = (to: () => MemoryLink) => ({
      receive: (buffer: Uint8Array, offset: number, length: number) =>
        void to().transmit(buffer, offset, length),
      endOfBatch: () => to().flush(),
      writable: () => {},
    });
    oldEnd.attach(forward(() => path));
    oldFar.attach(forward(() => oldEnd));
    nextEnd.attach(forward(() => oldEnd));
    const stack = (link: MemoryLink, address: string, mac: string) =>
      new Stack({
        clock: systemClock,
        random: systemRandom,
        link,
        mac: macAddress(mac),
        addresses: [cidr(`${address}/24`)],
      });
    const client = new NetFace(stack(clientLink, '10.0.0.1', '02:00:00:00:00:01'));
    const old = new NetFace(stack(oldLink, service, '02:00:00:00:00:11'), {
      onConnection: watching.onConnection,
    });
    // The same MAC: the switch does not look at it, the client's ARP cache need not change.
    const next = new NetFace(stack(nextLink, service, '02:00:00:00:00:11'));
    const application = (name: string) =>
      http.createServer((request, response) => {
        request.resume();
        request.on('end', () =>
          response.end(`${name} ${request.method} ${(request.socket.address() as AddressInfo).port}`),
        );
      });
    old.listen(application('old'), { port: 80 });
    next.listen(application('next'), { port: 80 });

    const agent = new http.Agent({ keepAlive: true, maxSockets: 20 });
    const made: StackSocket[] = [];
    Object.assign(agent, {
      createConnection: () => {
        const socket = connectOn(client, { host: service, port: 80 });
        made.push(socket);
        return socket;
      },
    });
    const ask = (method: string) =>
      new Promise<string>((resolve, reject) => {
        const request = http.request({ agent, host: service, port: 80, method }, (response) => {
          let text = '';
          response.on('data', (chunk: Buffer) => {
            text += chunk.toString();
          });
          response.on('end', () => resolve(text));
        });
        request.on('error', reject);
        request.end(method === 'POST' ? 'body' : undefined);
      });
    const before = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 === 0 ? 'GET' : 'POST')));
    assert.ok(before.every((text) => text.startsWith('old')));
    const connections = made.length;
    assert.is(connections, 20);

    const quiet = await watching.quiesce(1000);
    assert.is(quiet.idle.length, 20);
    const { connections: states, kept } = watching.exportFrozen();
    assert.equal(kept, []);
    const result = next.importConnections(JSON.parse(JSON.stringify(states)));
    assert.equal(result.refused, []);
    assert.is(result.imported, 20);
    path = nextEnd;

    const after = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 === 0 ? 'GET' : 'POST')));
    assert.ok(
      after.every((text) => text.startsWith('next')),
      after.join(),
    );
    assert.is(made.length, connections, 'no client had to connect again');
    assert.is(old.stack.tcp.counters.resetsOut + next.stack.tcp.counters.resetsOut, 0);
    agent.destroy();
    for (const face of [client, old, next]) face.close();
  }),
);

tracker(
  'quiesce of all waits for requests that only read, too, and names those that exceed the budget',
  within(async () => {
    const { tracker: t, raw, held, text, close } = await rig();
    raw.write('GET /hold HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually('held', () => held.length === 1);
    const late = await t.quiesce(30, true);
    assert.is(late.unfinished.length, 1);
    assert.equal([late.draining, late.idle], [[], []]);
    t.resume();
    const waiting = t.quiesce(5_000, true);
    held[0]!.end('done');
    const quiesced = await waiting;
    assert.equal([quiesced.unfinished, quiesced.draining], [[], []]);
    assert.is(quiesced.idle.length, 1);
    await eventually('answered', () => text().includes('done'));
    const some = await t.quiesce(0);
    assert.is(some.idle.length, 1, 'frozen already');
    close();
  }),
);

tracker(
  'a few at a time: the others go on being read, the next ones are others, busy ones are left alone',
  within(async () => {
    const watching = new RequestTracker();
    const faces = pair({ onConnection: watching.onConnection });
    const held: http.ServerResponse[] = [];
    const server = http.createServer((request, response) => {
      if (request.url === '/hold') held.push(response);
      else response.end(`${request.url}\n`);
    });
    faces.server.listen(server, { port: 80 });
    const clients = Array.from({ length: 4 }, () => connectOn(faces.client, { host: SERVER, port: 80 }));
    const texts = clients.map(() => '');
    for (const [i, client] of clients.entries()) {
      client.on('data', (chunk: Buffer) => {
        texts[i] += chunk.toString();
      });
    }
    await eventually('all are tracked', () => watching.connections().length === 4);
    clients[3]!.write('GET /hold HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually('one is busy', () => held.length === 1);
    const first = watching.freezeIdle(2).map((flow) => flow.remotePort);
    assert.is(first.length, 2);
    const isFirst = (client: StackSocket) => first.includes(client.localPort!);
    const index = clients.findIndex((client, i) => i !== 3 && !isFirst(client));
    const frozen = clients.findIndex(isFirst);
    for (const i of [index, frozen]) clients[i]!.write(`GET /from-${i} HTTP/1.1\r\nHost: x\r\n\r\n`);
    await eventually('who was not taken is answered', () => texts[index]!.includes(`/from-${index}`));
    assert.not.ok(texts[frozen]!.includes('/from'), 'who was taken waits');
    watching.resume();
    await eventually('and is answered afterwards', () => texts[frozen]!.includes(`/from-${frozen}`));
    await eventually('idle', () => watching.connections().filter((c) => c.requests === 'idle').length === 3);
    const next = watching.freezeIdle(1).map((flow) => flow.remotePort);
    assert.equal(next, [clients[index]!.localPort], 'who was not taken before comes first');
    watching.resume();
    assert.is(watching.freezeIdle(10).length, 3, 'the busy one never');
    faces.close();
  }),
);

/** A server that answers each line with its length, and one client. */
async function lines(stateless: boolean) {
  const watching = new RequestTracker({ stateless });
  const faces = pair({ onConnection: watching.onConnection });
  let answerNow = true;
  const due: (() => void)[] = [];
  const seen: string[] = [];
  const server = net.createServer((socket) => {
    socket.on('data', (chunk) => {
      seen.push(chunk.toString());
      const answer = () => socket.write(`${chunk.length}\n`);
      if (answerNow) answer();
      else due.push(answer);
    });
    socket.on('error', () => {});
  });
  faces.server.listen(server, { port: 80 });
  const raw = connectOn(faces.client, { host: SERVER, port: 80 });
  let received = '';
  let ended = false;
  raw.on('data', (chunk: Buffer) => {
    received += chunk.toString();
  });
  raw.on('end', () => {
    ended = true;
  });
  await once(raw, 'connect');
  raw.write('one');
  await eventually('the answer', () => received === '3\n');
  return {
    watching,
    raw,
    seen,
    later: () => {
      answerNow = false;
    },
    due,
    text: () => received,
    ended: () => ended,
    close: faces.close,
  };
}

tracker(
  'a silent connection of an unknown protocol is wound down: its side ends, never while an answer is due',
  within(async () => {
    const { watching, raw, later, due, text, ended, close } = await lines(false);
    const flows = () => watching.connections().map(({ flow }) => flow);
    later();
    raw.write('busy');
    await eventually('delivered', () => due.length === 1);
    assert.equal(watching.windDown(flows()), [], 'an answer is due');
    due[0]!();
    await eventually('answered', () => text() === '3\n4\n');
    assert.equal(watching.windDown([]), [], 'none was named');
    assert.is(watching.windDown(flows()).length, 1);
    await eventually('the end', () => ended());
    assert.is(text(), '3\n4\n', 'everything sent before arrived');
    close();
  }),
);

tracker(
  'stateless: a busy connection is frozen between its answer and the next request, which stays unread',
  within(async () => {
    const { watching, raw, seen, later, due, text, close } = await lines(true);
    assert.is(only(watching), 'idle');
    later();
    raw.write('slow');
    await eventually('delivered', () => due.length === 1);
    const waiting = watching.quiesce(5_000, true);
    due[0]!();
    raw.write('next');
    const { idle, unfinished } = await waiting;
    assert.is(idle.length, 1);
    assert.equal(unfinished, []);
    await eventually('answered', () => text() === '3\n4\n');
    assert.equal(seen, ['one', 'slow'], 'the next request was read although the connection is to be moved');
    watching.resume();
    await eventually('read after the thaw', () => seen.length === 3);
    close();
  }),
);

tracker.run();
