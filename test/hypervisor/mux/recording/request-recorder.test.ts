import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { RecordingRules } from '../../../../src/hypervisor/mux/recording/request-recorder.ts';
import { within } from '../../../support/index.ts';
import type { Bench } from '../harness.ts';
import { bench, CLIENT, FLAG, SERVICE, tcp } from '../harness.ts';

const test = suite('hypervisor/mux/recording/request-recorder');

const RULES: RecordingRules = {
  port: 80,
  methods: [],
  paths: [],
  headers: [],
  requests: 3,
  maxAgeMs: 60_000,
  connectionsPerSecond: 100,
};

function recording(rules: Partial<RecordingRules> = {}): Bench {
  const b = bench();
  b.mux.requestsRecord({ address: SERVICE, record: { ...RULES, ...rules } });
  return b;
}

const segment = (sport: number, flags: number, seq: number, payload = '', dport = 80) =>
  tcp({ from: CLIENT, to: SERVICE, sport, dport, flags, seq, payload });

function client(b: Bench, sport: number, text: string, dport = 80): void {
  b.up.deliver(segment(sport, FLAG.SYN, 99, '', dport));
  b.up.deliver(segment(sport, FLAG.ACK, 100, text, dport));
  b.up.deliver(segment(sport, FLAG.FIN | FLAG.ACK, 100 + text.length, '', dport));
  b.clock.advance(1);
}

const get = (path: string, fields = '') => `GET ${path} HTTP/1.1\r\nHost: shop\r\n${fields}\r\n`;
const recorded = (b: Bench) => b.mux.requestsRecorded({ address: SERVICE });
const names = (b: Bench) =>
  recorded(b).requests.map(({ method, path, count }) => `${method} ${path} ${count}`);

test(
  'requests of clients on their way to the service, one of each kind, the most frequent first; nothing is kept of other ports',
  within(() => {
    const b = recording();
    client(b, 4000, get('/a') + get('/b') + get('/b'));
    client(b, 4001, get('/a?x=1'));
    client(b, 4002, get('/other'), 8080);
    assert.equal(names(b), ['GET /b 2', 'GET /a?x=1 1', 'GET /a 1']);
    assert.is(b.a.take().length, 9, 'every packet went on its way');
  }),
);

test(
  'segments out of order and repeated; a connection that began before is not read',
  within(() => {
    const b = bench();
    b.up.deliver(segment(4000, FLAG.SYN, 99));
    b.mux.requestsRecord({ address: SERVICE, record: RULES });
    b.up.deliver(segment(4000, FLAG.ACK, 100, get('/before')));
    const text = get('/shuffled');
    b.up.deliver(
      segment(4001, FLAG.SYN, 99),
      segment(4001, FLAG.SYN, 99),
      segment(4001, FLAG.ACK, 110, text.slice(10)),
      segment(4001, FLAG.ACK, 100, text.slice(0, 12)),
      segment(4001, FLAG.ACK, 100, text),
    );
    assert.equal(names(b), ['GET /shuffled 1']);
  }),
);

test(
  'cookies, credentials and what else is not on the list are not kept, unless they are named',
  within(() => {
    const fields =
      'Authorization: Basic x\r\nCookie: id=1\r\nX-Api-Key: k\r\nAccept: text/html\r\nConnection: close\r\n';
    const b = recording();
    client(b, 4000, get('/a', fields));
    assert.equal(recorded(b).requests[0]?.headers, { accept: 'text/html' });
    const named = recording({ headers: ['cookie'] });
    client(named, 4000, get('/a', fields));
    assert.equal(recorded(named).requests[0]?.headers, { cookie: 'id=1', accept: 'text/html' });
  }),
);

test(
  'only safe methods and the paths that are named; others when the configuration says so',
  within(() => {
    const post = 'POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi';
    const b = recording({ paths: ['/a', '/b/'] });
    client(b, 4000, post + get('/a1') + get('/b') + get('/b/x'));
    assert.equal(names(b).sort(), ['GET /a1 1', 'GET /b/x 1']);
    assert.is(recorded(b).refused, 2);
    const wider = recording({ methods: ['POST'] });
    client(wider, 4000, post + get('/a'));
    assert.equal(names(wider), ['POST /a 1']);
    assert.is(recorded(wider).requests[0]?.body, 'hi');
    // The harness sends text as UTF-8: one of its two bytes alone is none.
    client(wider, 4001, 'POST /binary HTTP/1.1\r\nContent-Length: 1\r\n\r\n\xff');
    assert.equal(names(wider), ['POST /a 1']);
    assert.is(recorded(wider).refused, 2);
  }),
);

test(
  'bounded: number, age, connections per second; what came often stays',
  within(() => {
    const b = recording();
    for (let i = 0; i < 3; i++) client(b, 4000 + i, get('/often'));
    for (let i = 0; i < 20; i++) client(b, 4100 + i, get(`/crawled/${i}`));
    assert.equal(names(b), ['GET /often 3', 'GET /crawled/19 1', 'GET /crawled/18 1']);
    b.clock.advance(60_100);
    assert.equal(names(b), []);
    const slow = recording({ connectionsPerSecond: 2 });
    for (let i = 0; i < 10; i++) client(slow, 4000 + i, get('/x'));
    // A third one on what came in during the first two.
    assert.equal(recorded(slow).connections, { followed: 3, passedOver: 7, givenUp: 0 });
    assert.equal(names(slow), ['GET /x 3']);
    slow.clock.advance(1_000);
    client(slow, 4200, get('/x'));
    assert.equal(names(slow), ['GET /x 4']);
  }),
);

test(
  'garbage and a gap are given up; many connections at once take the places of idle ones',
  within(() => {
    const b = recording();
    client(b, 4000, '\x16\x03\x01 no HTTP\r\n\r\n');
    b.up.deliver(segment(4001, FLAG.SYN, 99), segment(4001, FLAG.ACK, 100_000_000, 'far ahead'));
    assert.is(recorded(b).connections.givenUp, 2);
    b.up.deliver(segment(4002, FLAG.SYN, 99));
    b.clock.advance(1);
    for (let i = 0; i < 40; i++) b.up.deliver(segment(5000 + i, FLAG.SYN, 99));
    b.up.deliver(segment(4002, FLAG.ACK, 100, get('/displaced')), segment(5039, FLAG.ACK, 100, get('/kept')));
    assert.equal(names(b), ['GET /kept 1']);
  }),
);

test(
  'the same rules again keep what there is, other rules begin anew, null forgets',
  within(() => {
    const b = recording();
    client(b, 4000, get('/a'));
    b.mux.requestsRecord({ address: SERVICE, record: { ...RULES } });
    assert.equal(names(b), ['GET /a 1']);
    b.mux.requestsRecord({ address: SERVICE, record: { ...RULES, requests: 4 } });
    assert.equal(names(b), []);
    client(b, 4001, get('/a'));
    b.mux.requestsRecord({ address: SERVICE, record: null });
    assert.equal(recorded(b).requests, []);
    assert.throws(
      () => b.mux.requestsRecord({ address: '10.77.0.99', record: RULES }),
      (error: { code: string }) => error.code === 'unknown-address',
    );
  }),
);

test.run();
