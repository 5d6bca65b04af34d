import { once } from 'node:events';
import { PassThrough, pipeline, Transform } from 'node:stream';
import { closed, pauseMs, type Scenario, turn } from './scenario.ts';

const KIB = 1024;

export const DATA: readonly Scenario[] = [
  [
    'echo',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.pipe(accepted);
      client.on('data', () => client.end());
      client.write('hello');
      await Promise.all([closed(client), closed(accepted)]);
      env.note('client', client.bytesRead, client.bytesWritten, accepted.bytesRead, accepted.bytesWritten);
    },
  ],
  [
    'setEncoding with a character cut in two',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.setEncoding('utf8');
      client.on('data', () => {});
      const bytes = Buffer.from('grün€');
      accepted.write(bytes.subarray(0, 3));
      await pauseMs(15);
      accepted.end(bytes.subarray(3));
      await closed(client);
    },
  ],
  [
    'encodings of writes',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.on('data', () => {});
      client.resume();
      client.write('61', 'hex');
      client.write('Yg==', 'base64');
      client.write('c', 'latin1');
      client.setDefaultEncoding('hex');
      client.write('64');
      client.write(new Uint8Array([0x65]));
      client.end();
      await closed(client);
      env.note('client', client.bytesWritten);
    },
  ],
  [
    'writes that are none',
    async (env) => {
      const { client } = await env.joined();
      env.attempt('client', () => client.write(null as unknown as string));
      env.attempt('client', () => client.write(5 as unknown as string));
      env.attempt('client', () => client.write(''));
      await turn();
    },
  ],
  [
    'write after end',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      client.resume();
      client.end('a');
      env.attempt('client', () => client.write('b', (error) => env.note('client', 'wrote', error)));
      await closed(client);
    },
  ],
  [
    'write after destroy',
    async (env) => {
      const { client } = await env.joined();
      client.destroy();
      env.attempt('client', () => client.write('b', (error) => env.note('client', 'wrote', error)));
      await closed(client);
      env.attempt('client', () => client.write('c', (error) => env.note('client', 'wrote', error)));
      await turn();
    },
  ],
  [
    'end twice, with callbacks',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      client.resume();
      client.end('a', () => env.note('client', 'first'));
      client.end((error?: Error) => env.note('client', 'second', error));
      await closed(client);
      client.end((error?: Error) => env.note('client', 'third', error));
      await turn();
    },
  ],
  [
    'callbacks of writes come in order',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      for (const n of [1, 2, 3]) client.write('x'.repeat(n), () => env.note('client', n));
      client.cork();
      client.write('y', () => env.note('client', 'corked'));
      client.uncork();
      client.end();
      client.resume();
      await closed(client);
    },
  ],
  [
    'back-pressure: write says false, drain follows',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.pause();
      let writes = 0;
      while (client.write(Buffer.alloc(64 * KIB)) && writes < 2000) writes++;
      env.note('client', client.writableNeedDrain, client.writableLength > 0, writes < 2000);
      setTimeout(() => accepted.resume(), 5);
      await once(client, 'drain');
      env.note('client', client.writableNeedDrain, client.writableLength);
      client.resetAndDestroy();
    },
  ],
  [
    '4 MiB through pipes and back',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.pipe(new PassThrough()).pipe(accepted);
      client.resume();
      for (let i = 0; i < 64; i++) if (!client.write(Buffer.alloc(64 * KIB, i))) await once(client, 'drain');
      client.end();
      await closed(client);
      env.note('totals', client.bytesRead, client.bytesWritten, accepted.bytesRead, accepted.bytesWritten);
    },
  ],
  [
    'pause and resume',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.on('data', () => {});
      client.pause();
      accepted.write('while paused');
      await pauseMs(20);
      env.note('client', 'still', client.isPaused(), client.readableFlowing);
      client.resume();
      await once(client, 'data');
      accepted.end();
      await closed(client);
    },
  ],
  [
    'paused: the end comes after reading',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.pause();
      accepted.end('last words');
      await pauseMs(20);
      env.note('client', client.readableEnded, client.readableLength, client.destroyed);
      client.resume();
      await closed(client);
    },
  ],
  [
    'read(n)',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.end('abcdef');
      await once(client, 'readable');
      while (client.readableLength < 6) await turn();
      env.note('client', String(client.read(2)), String(client.read(3)), client.readableLength);
      client.unshift(Buffer.from('zz'));
      env.note('client', String(client.read()));
      client.resume();
      await closed(client);
    },
  ],
  [
    'async iteration',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.end('one two');
      let text = '';
      for await (const chunk of client) text += chunk;
      env.note('client', text, client.destroyed);
    },
  ],
  [
    'leaving an async iteration',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      accepted.write('one');
      for await (const chunk of client) {
        env.note('client', String(chunk));
        break;
      }
      await closed(accepted);
      env.note('client', client.destroyed);
    },
  ],
  [
    'pipeline of sockets',
    async (env) => {
      const { client, accepted } = await env.joined();
      const upper = new Transform({
        transform: (chunk, _encoding, done) => done(null, String(chunk).toUpperCase()),
      });
      pipeline(accepted, upper, accepted, (error) => env.note('pipeline', error ?? 'done'));
      client.end('shout');
      client.on('data', () => {});
      await closed(client);
    },
  ],
  [
    'pipeline whose source fails',
    async (env) => {
      const { client, accepted } = await env.joined();
      const source = new PassThrough();
      accepted.resume();
      pipeline(source, client, (error) => env.note('pipeline', error));
      source.write('x');
      await turn();
      source.destroy(new Error('source failed'));
      await closed(client);
    },
  ],
  [
    'setNoDelay and small writes',
    async (env) => {
      const { client, accepted } = await env.joined({ client: { noDelay: true } });
      accepted.on('data', () => {});
      for (const letter of 'abc') client.write(letter);
      client.end();
      client.resume();
      await closed(accepted);
    },
  ],
  [
    'destroySoon writes what is left',
    async (env) => {
      const { client, accepted } = await env.joined();
      let bytes = 0;
      accepted.on('data', (chunk) => {
        bytes += chunk.length;
      });
      client.write('q'.repeat(10));
      client.destroySoon();
      await Promise.all([closed(client), closed(accepted)]);
      env.note('totals', bytes);
    },
  ],
  [
    'a high water mark',
    async (env) => {
      const { client, accepted } = await env.joined({ server: { highWaterMark: 10 } });
      env.note(
        'accepted',
        accepted.readableHighWaterMark,
        accepted.writableHighWaterMark,
        accepted.write('x'.repeat(20)),
      );
      client.resume();
      await turn();
    },
  ],
];
