import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { HttpAnswer } from '../../src/patch/index.ts';
import { differences, isSafe } from '../../src/patch/index.ts';

const rehearsal = suite('patch/rehearsal');

const answer = (status: number, body: string, headers: Record<string, string> = {}): HttpAnswer => ({
  status,
  headers,
  body: Buffer.from(body),
});
const spec = { headers: ['content-type'] };
const get = { method: 'GET', path: '/x' };
const what = (...args: Parameters<typeof differences>) => differences(...args).map((d) => d.what);

rehearsal('status, the chosen headers and the body are compared, and nothing else', () => {
  const active = answer(200, 'a', { 'content-type': 'text/plain', date: 'today' });
  assert.equal(
    what(get, spec, active, answer(200, 'a', { 'content-type': 'text/plain', date: 'later' })),
    [],
  );
  assert.equal(what(get, spec, active, answer(500, 'b', {})), ['status', 'content-type', 'body']);
  const [difference] = differences(get, spec, active, answer(404, 'a', { 'content-type': 'text/plain' }));
  assert.equal(difference, { request: 'GET /x', what: 'status', active: '200', standby: '404' });
});

rehearsal('rules: what is ignored, text that may differ, and another status that is asked for', () => {
  const active = answer(200, 'version 1.0.0 of 3', { 'content-type': 'a' });
  const standby = answer(200, 'version 1.0.1 of 3', { 'content-type': 'b' });
  assert.equal(what({ ...get, ignore: ['body', 'content-type'] }, spec, active, standby), []);
  const text = { ...get, ignore: ['content-type'], ignoreText: ['version [0-9.]+'] };
  assert.equal(what(text, spec, active, standby), []);
  assert.equal(what(text, spec, active, answer(200, 'version 1.0.1 of 4')), ['body']);
  assert.equal(what({ ...get, expectStatus: 400 }, spec, active, answer(400, 'no')), []);
  assert.equal(what({ ...get, expectStatus: 400 }, spec, active, standby), ['status']);
  assert.equal(what({ ...get, expectStatus: 200 }, spec, active, standby), ['content-type', 'body']);
});

rehearsal('what may write is not asked of the active: its status is as expected, or below 500', () => {
  const post = { method: 'POST', path: '/x', body: 'b' };
  assert.ok(isSafe(get) && !isSafe(post));
  assert.equal(what(post, spec, undefined, answer(404, '')), []);
  assert.equal(what(post, spec, undefined, answer(500, '')), ['status']);
  assert.equal(what({ ...post, expectStatus: 201 }, spec, undefined, answer(200, '')), ['status']);
});

rehearsal.run();
