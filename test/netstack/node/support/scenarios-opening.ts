import { once } from 'node:events';
import net from 'node:net';
import { closed, pauseMs, type Scenario, turn } from './scenario.ts';

const state = (socket: net.Socket) => [
  socket.readyState,
  socket.connecting,
  socket.pending,
  socket.destroyed,
  socket.closed,
];

export const OPENING: readonly Scenario[] = [
  [
    'connect, then the other end ends',
    async (env) => {
      const { client, accepted } = await env.joined();
      env.note('states', ...state(client), ...state(accepted));
      accepted.end('bye');
      client.resume();
      await Promise.all([closed(client), closed(accepted)]);
      env.note('states', ...state(client), ...state(accepted));
    },
  ],
  [
    'connect to a closed port',
    async (env) => {
      const client = env.connect(await env.closedPort());
      env.note('states', ...state(client));
      await closed(client);
      env.note('states', ...state(client), client.errored);
    },
  ],
  [
    'connect with a callback',
    async (env) => {
      const { port } = await env.server();
      const client = env.watch(
        'client',
        net.connect(port, env.host, () => env.note('client', 'callback')),
      );
      await once(client, 'ready');
    },
  ],
  [
    'the names of both ends',
    async (env) => {
      const { client, accepted, server } = await env.joined();
      env.note(
        'client',
        client.address(),
        client.remoteAddress,
        client.remotePort,
        client.remoteFamily,
        client.localFamily,
      );
      env.note(
        'accepted',
        accepted.address(),
        accepted.remoteAddress,
        accepted.remoteFamily,
        accepted.localPort,
      );
      env.note('server', server.address());
    },
  ],
  [
    'names after destroy',
    async (env) => {
      const { client } = await env.joined();
      client.destroy();
      await closed(client);
      env.note('client', client.address(), client.remoteAddress, client.remotePort);
    },
  ],
  [
    'names before connect',
    (env) => {
      const client = env.watch('client', new net.Socket());
      env.note('client', client.address(), client.remoteAddress, client.localPort, ...state(client));
    },
  ],
  ['a port that is none', (env) => env.attempt('client', () => net.connect(70_000, env.host))],
  ['a negative port', (env) => env.attempt('client', () => net.connect(-1, env.host))],
  [
    'a port that is text',
    (env) => env.attempt('client', () => net.connect({ port: 'x' as unknown as number, host: env.host })),
  ],
  ['neither port nor path', (env) => env.attempt('client', () => net.connect({} as net.TcpNetConnectOpts))],
  [
    'a host that is no text',
    (env) => env.attempt('client', () => net.connect({ port: 1, host: 5 as unknown as string })),
  ],
  [
    'a local address that is none',
    (env) => env.attempt('client', () => net.connect({ port: 1, host: env.host, localAddress: 'x' })),
  ],
  [
    'a lookup that is no function',
    (env) =>
      env.attempt('client', () =>
        net.connect({ port: 1, host: 'name.test', lookup: 5 as unknown as net.LookupFunction }),
      ),
  ],
  [
    'a local address of somebody else',
    async (env) => {
      const { port } = await env.server();
      await closed(env.connect(port, { localAddress: '192.0.2.77' }));
    },
  ],
  [
    'destroy in the same tick',
    async (env) => {
      const { port } = await env.server();
      const client = env.connect(port);
      client.destroy();
      env.note('states', ...state(client));
      await closed(client);
    },
  ],
  [
    'destroy with an error in the same tick',
    async (env) => {
      const { port } = await env.server();
      const client = env.connect(port);
      client.destroy(new Error('enough'));
      await closed(client);
    },
  ],
  [
    'end before connected',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.resume());
      const client = env.connect(port);
      client.resume();
      client.end();
      env.note('states', ...state(client));
      await closed(client);
    },
  ],
  [
    'write before connected, with callbacks',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.resume());
      const client = env.connect(port);
      client.resume();
      env.note(
        'client',
        client.write('a', () => env.note('client', 'wrote a')),
        client.bytesWritten,
      );
      client.write('b', () => env.note('client', 'wrote b'));
      client.end('c', () => env.note('client', 'ended'));
      await closed(client);
      env.note('client', client.bytesWritten, client.bytesRead);
    },
  ],
  [
    'write before connecting to a closed port',
    async (env) => {
      const client = env.connect(await env.closedPort());
      client.write('a', (error) => env.note('client', 'wrote', error));
      await closed(client);
    },
  ],
  [
    'a signal that was aborted before',
    async (env) => {
      const { port } = await env.server();
      const client = env.connect(port, { signal: AbortSignal.abort() } as object);
      await closed(client);
    },
  ],
  [
    'a signal that is aborted while connecting',
    async (env) => {
      const { port } = await env.server();
      const control = new AbortController();
      const client = env.connect(port, { signal: control.signal } as object);
      control.abort();
      await closed(client);
    },
  ],
  [
    'a signal that is aborted afterwards',
    async (env) => {
      const control = new AbortController();
      const { client, accepted } = await env.joined({ client: { signal: control.signal } as object });
      accepted.resume();
      control.abort();
      await Promise.all([closed(client), closed(accepted)]);
    },
  ],
  [
    'connect again after close',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.end());
      const client = env.connect(port);
      client.resume();
      await closed(client);
      client.connect(port, env.host);
      await closed(client);
      env.note('states', ...state(client));
    },
  ],
  [
    'connect again after a refusal',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.end('hi'));
      const client = env.connect(await env.closedPort());
      await closed(client);
      client.connect(port, env.host);
      client.resume();
      await closed(client);
    },
  ],
  [
    'a lookup of one’s own',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.end());
      const lookup = ((
        name: string,
        options: { all?: boolean },
        done: (error: null, ...rest: unknown[]) => void,
      ) => {
        env.note('lookup', name, options.all);
        process.nextTick(() =>
          options.all ? done(null, [{ address: env.host, family: 4 }]) : done(null, env.host, 4),
        );
      }) as unknown as net.LookupFunction;
      const client = env.connect(port, { host: 'name.test', lookup });
      client.resume();
      await closed(client);
    },
  ],
  [
    'a lookup that fails',
    async (env) => {
      const lookup = ((_name: string, _options: unknown, done: (error: Error) => void) =>
        process.nextTick(() =>
          done(Object.assign(new Error('no such name'), { code: 'ENOTFOUND' })),
        )) as unknown as net.LookupFunction;
      await closed(env.connect(9, { host: 'name.test', lookup }));
    },
  ],
  [
    'a lookup with two addresses, the first of which refuses',
    async (env) => {
      const { port } = await env.server({}, (socket) => socket.end());
      const other = env.host.replace(/\d+$/, '9');
      const lookup = ((_name: string, _options: unknown, done: (error: null, all: unknown) => void) =>
        process.nextTick(() =>
          done(null, [
            { address: env.host, family: 4 },
            { address: other, family: 4 },
          ]),
        )) as unknown as net.LookupFunction;
      const client = env.connect(port, { host: 'name.test', lookup });
      client.resume();
      await closed(client);
    },
  ],
  [
    'a timeout while idle',
    async (env) => {
      const { client } = await env.joined();
      client.setTimeout(30, () => env.note('client', 'callback'));
      await once(client, 'timeout');
      env.note('states', client.timeout, ...state(client));
    },
  ],
  [
    'a timeout as an option',
    async (env) => {
      const { client } = await env.joined({ client: { timeout: 30 } });
      await once(client, 'timeout');
      client.destroy();
      await closed(client);
    },
  ],
  [
    'a timeout taken back',
    async (env) => {
      const { client } = await env.joined();
      client.setTimeout(20);
      client.setTimeout(0);
      await pauseMs(60);
      env.note('states', ...state(client));
    },
  ],
  [
    'bad timeouts',
    async (env) => {
      const { client } = await env.joined();
      env.attempt('client', () => client.setTimeout(-1));
      env.attempt('client', () => client.setTimeout('x' as unknown as number));
      env.attempt('client', () => client.setTimeout(5, 'x' as unknown as () => void));
    },
  ],
  [
    'options of sockets return the socket',
    async (env) => {
      const { client, accepted } = await env.joined({
        client: { noDelay: true, keepAlive: true, keepAliveInitialDelay: 1000 },
      });
      for (const socket of [client, accepted]) {
        env.note(
          'client',
          socket.setNoDelay() === socket,
          socket.setNoDelay(false) === socket,
          socket.setKeepAlive(true, 1000) === socket,
        );
        env.note(
          'client',
          socket.setKeepAlive(false) === socket,
          socket.ref() === socket,
          socket.unref() === socket,
          socket.setTimeout(0) === socket,
        );
      }
      await turn();
    },
  ],
  [
    'a blocked address',
    (env) => {
      const blockList = new net.BlockList();
      blockList.addAddress(env.host);
      return closed(env.connect(9, { blockList } as object));
    },
  ],
];
