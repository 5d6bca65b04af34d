import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { emitRequest, parseAnswer } from '../../../src/daemon/control/http-message.ts';

const message = suite('daemon/control/http-message');

const answer = (text: string) => {
  const parsed = parseAnswer(Buffer.from(text, 'latin1'));
  return parsed === undefined ? undefined : { ...parsed, body: Buffer.from(parsed.body).toString('latin1') };
};

message('a request has its own headers, its length where there is a body, and ends the connection', () => {
  const request = { method: 'POST', path: '/a?b', host: '10.0.0.1', port: 80, timeoutMs: 1 };
  const text = emitRequest({ ...request, headers: { Accept: 'x/y' }, body: 'ä' }).toString('latin1');
  assert.match(text, /^POST \/a\?b HTTP\/1\.1\r\n/);
  for (const line of ['accept: x/y', 'host: 10.0.0.1', 'connection: close', 'content-length: 2'])
    assert.ok(text.includes(`\r\n${line}\r\n`), line);
  assert.not.ok(emitRequest(request).includes('content-length'));
});

message('answers with a length, in chunks, until the end, after an interim one, and without a body', () => {
  const expected = { status: 200, body: 'abc' };
  const part = (got: ReturnType<typeof answer>) => ({ status: got?.status, body: got?.body });
  assert.equal(part(answer('HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd')), expected);
  assert.equal(part(answer('HTTP/1.0 200 OK\r\n\r\nabc')), expected);
  assert.equal(part(answer('HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nabc')), expected);
  const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n2\r\nbc\r\n0\r\n\r\n';
  assert.equal(part(answer(chunked)), expected);
  assert.is(answer('HTTP/1.1 204 No Content\r\n\r\n')?.body, '');
  assert.is(answer('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n')?.body, '', 'the answer to HEAD');
  assert.equal(answer('HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n')?.headers, {
    'set-cookie': 'a, b',
  });
});

message('what is not a whole answer is none: cut at every byte, no HTTP, bad lengths and chunks', () => {
  const whole = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n';
  const end = whole.lastIndexOf('0\r\n') + 3;
  for (let length = 0; length < end; length++)
    assert.is(answer(whole.slice(0, length)), undefined, String(length));
  for (const text of [
    '',
    'SSH-2.0-x\r\n\r\n',
    'HTTP/1.1 200 OK\r\nno colon\r\n\r\n',
    'HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\na',
    'HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc',
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n',
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\nabc\r\n0\r\n\r\n',
  ]) {
    assert.is(answer(text), undefined, JSON.stringify(text));
  }
});

message.run();
