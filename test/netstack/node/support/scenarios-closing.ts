import { once } from 'node:events';
import net from 'node:net';
import { closed, pauseMs, type Scenario, turn } from './scenario.ts';

export const CLOSING: readonly Scenario[] = [
  [
    'half-open: the server answers after the end',
    async (env) => {
      const { client, accepted } = await env.joined({ server: { allowHalfOpen: true } });
      accepted.on('data', () => {});
      accepted.on('end', () => accepted.end('after your end'));
      client.on('data', () => {});
      client.end('question');
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'half-open client',
    async (env) => {
      const { client, accepted } = await env.joined({ client: { allowHalfOpen: true } });
      client.resume();
      accepted.on('data', () => {});
      accepted.end();
      await once(client, 'end');
      env.note('client', client.readyState, client.writable, client.readable, client.allowHalfOpen);
      client.end('still here');
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'not half-open: the end of one is the end of both',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.resume();
      accepted.resume();
      client.end();
      await Promise.all([closed(client), closed(accepted)]);
      env.note('states', client.readyState, accepted.readyState);
    },
  ],
  [
    'both end at once',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.resume();
      accepted.resume();
      client.end('a');
      accepted.end('b');
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'resetAndDestroy',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      env.note('client', client.resetAndDestroy() === client);
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'resetAndDestroy while connecting',
    async (env) => {
      const { port } = await env.server();
      const client = env.connect(port);
      client.resetAndDestroy();
      await closed(client);
    },
  ],
  [
    'resetAndDestroy of a closed socket',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      client.destroy();
      await closed(client);
      client.resetAndDestroy();
      await turn();
      env.note('client', client.destroyed);
    },
  ],
  [
    'resetAndDestroy of a socket that never was',
    async (env) => {
      const client = env.watch('client', new net.Socket());
      client.resetAndDestroy();
      await closed(client);
    },
  ],
  [
    'destroy twice',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      client.destroy();
      client.destroy(new Error('late'));
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'destroy with an error',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.resume();
      client.destroy(new Error('of mine'));
      await Promise.all([closed(client), closed(accepted)]);
      env.note('client', client.errored);
    },
  ],
  [
    'destroy in the handler of data',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.on('data', () => client.destroy());
      accepted.resume();
      accepted.write('a');
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'destroy in the handler of end',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.on('end', () => client.destroy());
      client.resume();
      accepted.resume();
      accepted.end();
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'destroy in the handler of connect',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.resume());
      const client = env.connect(port);
      client.on('connect', () => client.destroy());
      await closed(client);
    },
  ],
  [
    'writes to a peer that has reset',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.resume();
      accepted.resetAndDestroy();
      await closed(client);
      client.write('x', (error) => env.note('client', 'wrote', error));
      await turn();
    },
  ],
  [
    'destroy while a write waits',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.pause();
      while (client.write(Buffer.alloc(65_536)));
      client.write('last', (error) => env.note('client', 'wrote', error));
      client.destroy();
      await closed(client);
    },
  ],
  [
    'reset while a write waits',
    async (env) => {
      const { client, accepted } = await env.joined();
      accepted.pause();
      client.resume();
      while (client.write(Buffer.alloc(65_536)));
      client.write('last', (error) =>
        env.note(
          'client',
          'wrote',
          (error as NodeJS.ErrnoException).code === 'ECONNRESET' ||
            (error as NodeJS.ErrnoException).code === 'EPIPE',
        ),
      );
      accepted.resetAndDestroy();
      await closed(client);
    },
  ],
  [
    'autoDestroy after both ends',
    async (env) => {
      const { client, accepted } = await env.joined();
      client.resume();
      accepted.resume();
      client.end();
      await once(client, 'finish');
      env.note('client', client.writableFinished, client.writableEnded);
      await closed(client);
      env.note('client', client.destroyed, client.readable, client.writable);
    },
  ],
  [
    'Symbol.asyncDispose of a server',
    async (env) => {
      const { server } = await env.server();
      await server[Symbol.asyncDispose]();
      env.note('server', server.listening, server.address());
    },
  ],
  // --- servers -------------------------------------------------------------------------------------------------------------
  [
    'a port in use',
    async (env) => {
      const { port } = await env.server();
      const second = env.watch('second', net.createServer());
      second.listen(port, env.host);
      await once(second, 'error');
      env.note('second', second.listening, second.address());
    },
  ],
  [
    'listen twice',
    async (env) => {
      const { server } = await env.server();
      env.attempt('server', () => server.listen(0, env.host));
    },
  ],
  [
    'listen on a port that is none',
    (env) => env.attempt('server', () => net.createServer().listen(70_000, env.host)),
  ],
  [
    'listen on nothing',
    (env) => env.attempt('server', () => net.createServer().listen({} as net.ListenOptions)),
  ],
  [
    'listen on an address of somebody else',
    async (env) => {
      const server = env.watch('second', net.createServer());
      server.listen(7999, '192.0.2.77');
      await once(server, 'error');
    },
  ],
  [
    'listening is an event of a later tick',
    async (env) => {
      const server = env.watch('second', net.createServer());
      server.listen(0, env.host, () => env.note('second', 'callback'));
      env.note('second', 'returned', server.listening);
      await once(server, 'listening');
      server.close();
      await closed(server);
    },
  ],
  [
    'close without having listened',
    async (env) => {
      const server = env.watch('second', net.createServer());
      server.close((error) => env.note('second', 'callback', error));
      await turn();
    },
  ],
  [
    'close twice',
    async (env) => {
      const { server } = await env.server();
      server.close((error) => env.note('server', 'first', error));
      server.close((error) => env.note('server', 'second', error));
      await closed(server);
      await turn();
    },
  ],
  [
    'close waits for connections',
    async (env) => {
      const { client, accepted, server } = await env.joined();
      client.resume();
      accepted.resume();
      server.close();
      await pauseMs(10);
      env.note('server', 'still open', server.listening);
      client.end();
      await closed(server);
    },
  ],
  [
    'after close nobody is let in',
    async (env) => {
      const { server, port } = await env.server();
      server.close();
      await closed(server);
      await closed(env.connect(port));
      env.note('server', server.address());
    },
  ],
  [
    'listen again after close',
    async (env) => {
      const { server } = await env.server();
      server.close();
      await closed(server);
      server.listen(0, env.host);
      await once(server, 'listening');
      env.note('server', server.listening);
    },
  ],
  [
    'close in the handler of listening',
    async (env) => {
      const server = env.watch('second', net.createServer());
      server.listen(0, env.host, () => server.close());
      await closed(server);
    },
  ],
  [
    'getConnections',
    async (env) => {
      const { client, accepted, server } = await env.joined();
      client.resume();
      accepted.resume();
      const count = () => new Promise((done) => server.getConnections((error, n) => done([error, n])));
      env.note('server', await count());
      client.destroy();
      await closed(accepted);
      env.note('server', await count());
    },
  ],
  [
    'maxConnections: one too many is dropped',
    async (env) => {
      const { server, port } = await env.server();
      server.maxConnections = 1;
      const first = env.connect(port, {}, 'first');
      await once(server, 'connection');
      const second = env.connect(port, {}, 'second');
      second.resume();
      const [[data]] = await Promise.all([once(server, 'drop'), closed(second)]);
      env.note('drop', Object.keys(data as object).sort());
      first.destroy();
    },
  ],
  [
    'pauseOnConnect',
    async (env) => {
      const { client, accepted } = await env.joined({ server: { pauseOnConnect: true } });
      client.end('early');
      await pauseMs(10);
      env.note('accepted', accepted.isPaused(), accepted.readableLength, accepted.bytesRead);
      accepted.resume();
      await closed(accepted);
    },
  ],
  [
    'a signal ends a server',
    async (env) => {
      const control = new AbortController();
      const server = env.watch('second', net.createServer());
      server.listen({ port: 0, host: env.host, signal: control.signal });
      await once(server, 'listening');
      control.abort();
      await closed(server);
    },
  ],
  [
    'a signal aborted before listen',
    async (env) => {
      const server = env.watch('second', net.createServer());
      server.listen({ port: 0, host: env.host, signal: AbortSignal.abort() });
      await closed(server);
    },
  ],
  [
    'a signal of listen that is none',
    (env) =>
      env.attempt('server', () =>
        net.createServer().listen({ port: 0, host: env.host, signal: 5 as unknown as AbortSignal }),
      ),
  ],
  [
    'ref and unref of a server',
    async (env) => {
      const { server } = await env.server();
      env.note('server', server.ref() === server, server.unref() === server, server.ref() === server);
    },
  ],
  [
    'accepted sockets know their server',
    async (env) => {
      const { accepted, server } = await env.joined();
      env.note('accepted', (accepted as unknown as { server: unknown }).server === server);
    },
  ],
  [
    'a connection ended in its own handler',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.end('short'));
      const client = env.connect(port);
      client.on('data', () => {});
      await closed(client);
    },
  ],
  [
    'a connection destroyed in its own handler',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.destroy());
      const client = env.connect(port);
      client.resume();
      await closed(client);
    },
  ],
  [
    'a backlog of one, three clients at once',
    async (env) => {
      const server = net.createServer((socket) => socket.end('x'));
      server.listen({ port: 0, host: env.host, backlog: 1 });
      await once(server, 'listening');
      const { port } = server.address() as net.AddressInfo;
      const names = ['one', 'two', 'three'];
      await Promise.all(
        names.map(async (name) => {
          const socket = env.connect(port, {}, name);
          socket.resume();
          await closed(socket);
        }),
      );
      server.close();
      await closed(server);
    },
  ],
];
