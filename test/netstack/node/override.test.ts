import type { EventEmitter } from 'node:events';
import { once } from 'node:events';
import http from 'node:http';
import { createRequire } from 'node:module';
import net from 'node:net';
import Fastify from 'fastify';
import { fetch as undiciFetch } from 'undici';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import type { StackSocket } from '../../../src/netstack/index.ts';
import { cidr, installNetOverride, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';

// These two bring no types of their own.
const require = createRequire(import.meta.url);
const express = require('express') as () => {
  get(path: string, handler: (request: unknown, response: { send(text: string): void }) => void): void;
  listen(port: number, host: string): http.Server;
};
interface WebSocketLike extends EventEmitter {
  send(data: string): void;
  terminate(): void;
}
const { WebSocket, WebSocketServer } = require('ws') as {
  WebSocket: new (url: string) => WebSocketLike;
  WebSocketServer: new (options: { port: number; host: string }) => EventEmitter & { close(): void };
};

const override = suite('netstack/node/override');

const ADDRESS = '10.0.0.2';
const accepted: StackSocket[] = [];
const [link, otherEnd] = MemoryLink.pair(systemClock);
const stack = new Stack({
  clock: systemClock,
  random: systemRandom,
  link,
  mac: macAddress('02:00:00:00:00:02'),
  addresses: [cidr(`${ADDRESS}/24`)],
});
const installed = installNetOverride(stack, { onConnection: (_server, socket) => accepted.push(socket) });

override.after(() => {
  installed.uninstall();
  installed.face.close();
  link.close();
  otherEnd.close();
});
override.before.each(() => {
  accepted.length = 0;
});

const closed = (server: net.Server) => new Promise((done) => server.close(done));

override(
  'an unmodified http server and http client run on the stack; close with idle connections ends',
  within(async () => {
    const server = http.createServer((request, response) =>
      response.end(`hello ${request.socket.remoteAddress}`),
    );
    await new Promise<void>((done) => server.listen(8080, done));
    assert.equal(server.address(), { address: '0.0.0.0', family: 'IPv4', port: 8080 });
    const agent = new http.Agent({ keepAlive: true });
    const [response] = (await once(http.get({ host: ADDRESS, port: 8080, agent }), 'response')) as [
      http.IncomingMessage,
    ];
    let text = '';
    for await (const chunk of response) text += chunk;
    assert.is(text, `hello ${ADDRESS}`);
    assert.is(accepted.length, 1);
    assert.instance(accepted[0], net.Socket);
    // Since Node 19 close ends idle keep-alive connections.
    await closed(server);
    assert.is(stack.tcp.listeningPorts().length, 0);
    agent.destroy();
  }),
);

override(
  'Fastify, Express and ws serve and are reached by undici and ws',
  within(async () => {
    const fastify = Fastify();
    fastify.post('/echo', (request) => ({ got: request.body }));
    await fastify.listen({ port: 3000, host: '0.0.0.0' });
    const answer = await undiciFetch(`http://${ADDRESS}:3000/echo`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ n: 1 }),
    });
    assert.equal(await answer.json(), { got: { n: 1 } });
    assert.is((fastify.server.address() as net.AddressInfo).port, 3000);

    const app = express();
    app.get('/', (_request, response) => response.send('express'));
    const server = app.listen(3001, ADDRESS);
    await once(server, 'listening');
    assert.is(await (await fetch(`http://${ADDRESS}:3001/`)).text(), 'express');

    const sockets = new WebSocketServer({ port: 3002, host: ADDRESS });
    await once(sockets, 'listening');
    sockets.on('connection', (socket: WebSocketLike) =>
      socket.on('message', (data: Buffer) => socket.send(`re: ${data}`)),
    );
    const client = new WebSocket(`ws://${ADDRESS}:3002`);
    await once(client, 'open');
    client.send('x'.repeat(100_000));
    const [message] = (await once(client, 'message')) as [Buffer];
    assert.is(message.length, 100_004);
    assert.is(accepted.length, 3, 'all three came through the stack');
    client.terminate();
    sockets.close();
    server.closeAllConnections();
    await closed(server);
    await fastify.close();
  }),
);

override(
  'overloads of listen: port 0, host, backlog, options, signal; a second listen is node’s own error',
  within(async () => {
    const any = net.createServer().listen(0, '0.0.0.0', 16);
    await once(any, 'listening');
    const { port } = any.address() as net.AddressInfo;
    assert.ok(port >= 1024);
    assert.throws(
      () => any.listen(1234),
      (error: NodeJS.ErrnoException) => error.code === 'ERR_SERVER_ALREADY_LISTEN',
    );
    const taken = net.createServer().listen({ port, host: ADDRESS });
    const [error] = (await once(taken, 'error')) as [NodeJS.ErrnoException];
    assert.is(error.code, 'EADDRINUSE');
    await closed(any);
    const controller = new AbortController();
    const aborted = net
      .createServer()
      .listen({ port: '4001', signal: controller.signal } as unknown as net.ListenOptions);
    await once(aborted, 'listening');
    controller.abort();
    await once(aborted, 'close');
    assert.throws(
      () => net.createServer().listen({ port: 70_000 }),
      (thrown: NodeJS.ErrnoException) => thrown.code === 'ERR_SOCKET_BAD_PORT',
    );
  }),
);

override(
  'unix paths and loopback stay with node',
  within(async () => {
    const path = `\0changeover-test-${process.pid}`;
    const unix = net.createServer((socket) => socket.end('unix')).listen(path);
    await once(unix, 'listening');
    const near = net.connect(path);
    const [chunk] = (await once(near, 'data')) as [Buffer];
    assert.is(chunk.toString(), 'unix');
    await closed(unix);
    const local = net.createServer((socket) => socket.end('loopback')).listen(0, '127.0.0.1');
    await once(local, 'listening');
    const back = net.connect((local.address() as net.AddressInfo).port, '127.0.0.1');
    const [said] = (await once(back, 'data')) as [Buffer];
    assert.is(said.toString(), 'loopback');
    await closed(local);
    assert.is(accepted.length, 0);
  }),
);

override(
  'names are looked up, by the caller’s lookup if given, and the lookup event tells',
  within(async () => {
    const server = net.createServer((socket) => socket.end('named')).listen(5000);
    await once(server, 'listening');
    const seen: unknown[] = [];
    const near = net.connect({
      host: 'service.example',
      port: 5000,
      lookup: (_host, _options, done) =>
        setImmediate(done as (e: null, a: string, f: number) => void, null, ADDRESS, 4),
    });
    near.on('lookup', (_error, ...found) => seen.push(found));
    const [chunk] = (await once(near, 'data')) as [Buffer];
    assert.is(chunk.toString(), 'named');
    assert.equal(seen, [[ADDRESS, 4, 'service.example']]);
    await closed(server);
  }),
);

override(
  'refusals reach unmodified clients as node’s errors',
  within(async () => {
    const request = http.get(`http://${ADDRESS}:9/`);
    const [error] = (await once(request, 'error')) as [NodeJS.ErrnoException];
    assert.is(error.code, 'ECONNREFUSED');
    assert.is(error.message, `connect ECONNREFUSED ${ADDRESS}:9`);
  }),
);

override.run();
