import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import { Probe } from '../../../src/daemon/control/probe.ts';
import type { TcpConnection } from '../../../src/netstack/index.ts';
import { cidr, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import type { HealthCheck, ProbeAnswer } from '../../../src/patch/index.ts';
import { within } from '../../support/index.ts';

const probe = suite('daemon/control/probe');
const http: HealthCheck = { http: { port: 80, path: '/version', expectStatus: 200, timeoutMs: 1000 } };
const tcp: HealthCheck = { tcp: { port: 80, timeoutMs: 1000 } };

interface World {
  /** What the last request said. */
  request: string;
  readonly client: Probe;
  ask(health: HealthCheck, address?: string): Promise<ProbeAnswer>;
  /** Lets five seconds pass. */
  later<T>(answer: T): T;
}

/** A server 10.0.0.2 that does `serve` with each connection's request; undefined: it listens, and answers nothing. */
function world(serve?: (connection: TcpConnection) => void, port = 80): World {
  const clock = new VirtualClock();
  const [left, right] = MemoryLink.pair(clock, { segmentation: true });
  const server = new Stack({
    clock,
    random: new SeededRandom(1),
    link: right,
    mac: macAddress('02:00:00:00:00:02'),
    addresses: [cidr('10.0.0.2/24')],
  });
  const client = new Probe({
    link: left,
    addresses: ['10.0.0.1/24'],
    mac: '02:00:00:00:00:01',
    clock,
    random: new SeededRandom(2),
  });
  const made: World = {
    request: '',
    client,
    ask: (health, address = '10.0.0.2/24') => made.later(client.check(address, health)),
    later: (answer) => {
      clock.advance(5000);
      return answer;
    },
  };
  server.tcp.listen({ port }, (connection) => {
    let served = false;
    connection.setHandler({
      connected: () => {},
      readable: () => {
        for (let part = connection.read(); part !== undefined; part = connection.read())
          made.request += part.toString('latin1');
        if (served || !made.request.endsWith('\r\n\r\n')) return;
        served = true;
        serve?.(connection);
      },
      writable: () => {},
      closed: () => {},
    });
  });
  return made;
}

function answering(text: string): (connection: TcpConnection) => void {
  return (connection) => {
    connection.write(Buffer.from(text));
    connection.shutdown();
  };
}

probe(
  'a whole answer with the expected status is well; the request is what a client sends',
  within(async () => {
    const w = world(answering('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi'));
    const answer = await w.ask(http);
    assert.is(answer.ok, true);
    assert.is(answer.detail, 'HTTP/1.1 200 OK');
    assert.ok(answer.localPort >= 32_768);
    assert.ok(answer.durationMs >= 0 && answer.durationMs < 1000);
    assert.match(w.request, /^GET \/version HTTP\/1\.1\r\nHost: 10\.0\.0\.2\r\n/);
    assert.equal(w.client.addresses, ['10.0.0.1']);
  }),
);

probe(
  'checks follow each other, each on a connection of its own',
  within(async () => {
    const w = world(answering('HTTP/1.1 200 OK\r\n\r\n'));
    const first = await w.ask(http);
    w.request = '';
    const second = await w.ask(http, '10.0.0.2');
    assert.equal([first.ok, second.ok], [true, true]);
    assert.is.not(first.localPort, second.localPort);
  }),
);

const UNWELL: readonly [string, ((c: TcpConnection) => void) | undefined, RegExp][] = [
  ['another status', answering('HTTP/1.1 503 Busy\r\n\r\n'), /^HTTP\/1\.1 503 Busy$/],
  ['something that is not HTTP', answering('220 mail ready\r\n'), /no HTTP answer/],
  ['a close without an answer', answering(''), /closed without an answer/],
  [
    'an answer that does not end',
    (c) => void c.write(Buffer.from('HTTP/1.1 200 OK\r\n\r\n')),
    /no whole answer within 1000 ms/,
  ],
  ['silence', undefined, /no whole answer within 1000 ms/],
  ['a reset', (c) => c.abort(), /ECONNRESET|reset/],
];

for (const [title, serve, expected] of UNWELL) {
  probe(
    `${title} is not well`,
    within(async () => {
      const answer = await world(serve).ask(http);
      assert.is(answer.ok, false);
      assert.match(answer.detail, expected);
    }),
  );
}

probe(
  'nobody listening and nobody there are told apart',
  within(async () => {
    const refused = await world(undefined, 81).ask(tcp);
    assert.is(refused.ok, false);
    assert.match(refused.detail, /ECONNREFUSED|refused/);
    const absent = await world().ask(tcp, '10.0.0.77');
    assert.is(absent.ok, false);
    assert.match(absent.detail, /no connection within 1000 ms|EHOSTUNREACH|unreachable/);
    const elsewhere = await world().ask(tcp, '192.0.2.1');
    assert.is(elsewhere.ok, false);
    assert.match(elsewhere.detail, /ENETUNREACH|unreachable/);
  }),
);

probe(
  'a TCP check is well when the connection is made',
  within(async () => {
    const answer = await world().ask(tcp);
    assert.equal([answer.ok, answer.detail], [true, 'connected']);
  }),
);

probe(
  'checks at the same time do not disturb each other',
  within(async () => {
    const w = world(answering('HTTP/1.1 200 OK\r\n\r\n'));
    // Each forgets what the others have learned; none may forget what another is asking for.
    const answers = await Promise.all(
      w.later(Array.from({ length: 20 }, () => w.client.check('10.0.0.2', http))),
    );
    for (const answer of answers) assert.ok(answer.ok && answer.durationMs < 900, answer.detail);
  }),
);

probe(
  'a pulse is a check like any other, and gives way to private work',
  within(async () => {
    const w = world(answering('HTTP/1.1 200 OK\r\n\r\n'));
    const first = await w.later(w.client.pulse('10.0.0.2', http));
    assert.is(first?.ok, true);
    const silent = world(undefined);
    const waiting = silent.client.pulse('10.0.0.2', http);
    const order: string[] = [];
    await silent.client.privately(async () => {
      assert.is(await waiting, undefined);
      order.push('abandoned');
      assert.is(await silent.client.pulse('10.0.0.2', http), undefined);
      order.push('refused');
    });
    assert.equal(order, ['abandoned', 'refused']);
    assert.is((await silent.later(silent.client.pulse('10.0.0.2', http)))?.ok, false);
    await rejects(silent.client.privately(() => Promise.reject(new Error('thrown'))));
    assert.is((await silent.later(silent.client.pulse('10.0.0.2', tcp)))?.ok, true);
  }),
);

async function rejects(work: Promise<unknown>): Promise<void> {
  let thrown: unknown;
  await work.catch((error) => {
    thrown = error;
  });
  assert.ok(thrown instanceof Error);
}

probe.run();
