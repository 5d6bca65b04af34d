/** A process that did not run for a while (stopped, suspended, starved) must not take the others for dead when it goes on. */
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ChannelClient, isSilent } from '../../src/channel/index.ts';
import { codeOf } from '../../src/common/index.ts';
import { inScratch, within } from '../support/index.ts';

const silence = suite('channel/silence');

/** Answers `ping` at once and `sleep` never, on a thread of its own. */
const SERVER = `
const { parentPort, workerData } = require('node:worker_threads');
require('node:net').createServer((socket) => {
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk;
    for (let end = text.indexOf('\\n'); end >= 0; end = text.indexOf('\\n')) {
      const { execute, id } = JSON.parse(text.slice(0, end));
      text = text.slice(end + 1);
      if (execute === 'ping') socket.write(JSON.stringify({ return: {}, id }) + '\\n');
    }
  });
}).listen(workerData, () => parentPort.postMessage('listening'));
`;
type Commands = Record<'ping' | 'sleep', { arguments: object; result: object }>;

async function withServer(body: (client: ChannelClient<Commands>) => Promise<void>): Promise<void> {
  await inScratch(async (directory) => {
    const socket = join(directory, 'server.sock');
    const worker = new Worker(SERVER, { eval: true, workerData: socket });
    await new Promise((resolve) => worker.once('message', resolve));
    const client = await ChannelClient.connect<Commands>(socket, 'the server');
    try {
      await body(client);
    } finally {
      client.close();
      await worker.terminate();
    }
  });
}

/** As SIGSTOP and SIGCONT do it to this thread. */
function standStill(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

silence(
  'an answer that came while this process did not run is no timeout',
  within(() =>
    withServer(async (client) => {
      await client.execute('ping', {});
      const answer = client.execute('ping', {}, { timeoutMs: 50 });
      // The question leaves first.
      await new Promise((resolve) => setImmediate(resolve));
      standStill(200);
      assert.equal(await answer, {});
    }),
  ),
);

silence(
  'who never answers times out, and is silent',
  within(() =>
    withServer(async (client) => {
      const code = await client.execute('sleep', {}, { timeoutMs: 20 }).catch(codeOf);
      assert.is(code, 'timeout');
      assert.ok(await isSilent((timeoutMs) => client.execute('sleep', {}, { timeoutMs }), 40));
      assert.not(await isSilent((timeoutMs) => client.execute('ping', {}, { timeoutMs }), 5_000));
    }),
  ),
);

silence(
  'one question that was lost with the time in which nobody ran does not make a process silent',
  within(async () => {
    let asked = 0;
    const ask = (timeoutMs: number) =>
      ++asked === 1
        ? Promise.reject(Object.assign(new Error(`nothing within ${timeoutMs} ms`), { code: 'timeout' }))
        : Promise.resolve();
    assert.not(await isSilent(ask, 100));
    assert.is(asked, 2);
  }),
);

silence.run();
