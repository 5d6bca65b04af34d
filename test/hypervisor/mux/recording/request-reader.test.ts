import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { ReadRequest } from '../../../../src/hypervisor/mux/recording/request-reader.ts';
import { RequestReader } from '../../../../src/hypervisor/mux/recording/request-reader.ts';
import { limitMs, seeded, Trials, within } from '../../../support/index.ts';

const test = suite('hypervisor/mux/recording/request-reader');
const LIMITS = { headBytes: 512, bodyBytes: 64 };

function read(text: string, cuts: readonly number[] = []): { requests: string[]; open: boolean } {
  const requests: string[] = [];
  const reader = new RequestReader(LIMITS, (request) => requests.push(shown(request)));
  const bytes = Buffer.from(text, 'latin1');
  const ends = [...cuts, bytes.length];
  let from = 0;
  let open = true;
  for (const end of ends) {
    open = reader.push(bytes.subarray(from, end));
    from = end;
  }
  return { requests, open };
}

function shown({ method, target, headers, body }: ReadRequest): string {
  const fields = [...headers].filter(([name]) => name !== 'host').map(([name, value]) => `${name}=${value}`);
  return [method, target, ...fields, ...(body.length === 0 ? [] : [`[${body.toString('latin1')}]`])].join(
    ' ',
  );
}

const GET = 'GET /a?b=c HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\nACCEPT: */*\r\n\r\n';
const POST = 'POST /p HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello';
const CHUNKED =
  'PUT /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;name="v"\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: t\r\n\r\n';
const ALL = `${GET}${POST}${CHUNKED}\r\n${GET}`;
const EXPECTED = [
  'GET /a?b=c accept=text/html, */*',
  'POST /p content-length=5 [hello]',
  'PUT /c transfer-encoding=chunked [hello world]',
  'GET /a?b=c accept=text/html, */*',
];

test('pipelined requests, with a length, chunked, with trailers and an empty line between', () => {
  assert.equal(read(ALL), { requests: EXPECTED, open: true });
});

test('cut at every byte, and into single bytes, the same requests come out', () => {
  for (let cut = 0; cut <= ALL.length; cut++)
    assert.equal(read(ALL, [cut]).requests, EXPECTED, `cut at ${cut}`);
  assert.equal(
    read(
      ALL,
      [...ALL].map((_, i) => i),
    ),
    { requests: EXPECTED, open: true },
  );
});

test('what is not to the letter ends the reading, and what came before stands', () => {
  const bad: Record<string, string> = {
    'a bare LF': 'GET / HTTP/1.1\nHost: x\r\n\r\n',
    'a folded field': 'GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n',
    'a space before the colon': 'GET / HTTP/1.1\r\nHost : x\r\n\r\n',
    'two lengths': 'POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx',
    'length and coding': 'POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx',
    'a length that is none': 'POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\nx',
    'another coding': 'POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n',
    'a chunk without its end': 'PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n',
    'a chunk size that is none': 'PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n',
    'another version': 'GET / HTTP/2.0\r\n\r\n',
    'an upgrade': 'GET /ws HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n',
    'a tunnel': 'CONNECT x:1 HTTP/1.1\r\n\r\n',
    'a NUL in a value': 'GET / HTTP/1.1\r\nA: b\0c\r\n\r\n',
    TLS: '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
  };
  for (const [what, text] of Object.entries(bad)) {
    assert.equal(read(GET + text + GET), { requests: [EXPECTED[0]], open: false }, what);
  }
});

test('oversize: a long body is passed over and the next request read; a long head ends it', () => {
  const long = `POST /long HTTP/1.1\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(100_000)}`;
  const chunks = `PUT /l HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n${`28\r\n${'y'.repeat(40)}\r\n`.repeat(50)}0\r\n\r\n`;
  assert.equal(read(long + chunks + GET), { requests: [EXPECTED[0]], open: true });
  assert.is(read(`GET /${'x'.repeat(600)} HTTP/1.1\r\n\r\n`).open, false);
  assert.is(read(`GET / HTTP/1.1\r\n${'A: b\r\n'.repeat(200)}`).open, false);
  assert.is(
    read(`PUT /t HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n${'A: b\r\n'.repeat(200)}`).open,
    false,
  );
});

test('a target for a proxy or for the server as a whole is not a request for a path', () => {
  const other = 'GET http://x/ HTTP/1.1\r\n\r\nOPTIONS * HTTP/1.1\r\n\r\n';
  assert.equal(read(other + GET), { requests: [EXPECTED[0]], open: true });
});

test(
  'fuzz: mutated and cut at random, it neither throws nor keeps more than its limits, and what comes out is well formed',
  within(
    () =>
      seeded((random, seed) => {
        const trials = new Trials('N5: connections with requests of clients', 20_000, 5_000_000);
        const pieces = [
          GET,
          POST,
          CHUNKED,
          '\r\n',
          'Content-Length: 3\r\n',
          'Transfer-Encoding: chunked\r\n',
          '0\r\n',
        ];
        for (; trials.more; trials.count++) {
          let text = '';
          for (let i = random.below(4) + 1; i > 0; i--) text += pieces[random.below(pieces.length)];
          const bytes = Buffer.from(text, 'latin1');
          for (let i = random.below(4); i > 0; i--) bytes[random.below(bytes.length)] = random.below(256);
          const reader = new RequestReader(LIMITS, ({ method, target, headers, body }) => {
            assert.match(method, /^[!-~]{1,32}$/);
            assert.match(target, /^\/[!-~]*$/);
            assert.ok(body.length <= LIMITS.bodyBytes);
            for (const value of headers.values()) assert.not.match(value, /[\r\n\0]/);
          });
          let open = true;
          for (let from = 0; from < bytes.length && open; ) {
            const end = Math.min(bytes.length, from + 1 + random.below(40));
            open = reader.push(bytes.subarray(from, end));
            from = end;
          }
          if (!open) assert.is(reader.push(Buffer.from(GET)), false, 'what has ended stays so');
        }
        trials.report(seed);
      }),
    limitMs(30_000),
  ),
);

test.run();
