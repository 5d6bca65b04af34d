import { once } from 'node:events';
import type { Server, Socket } from 'node:net';
import net from 'node:net';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { NetFace, StackSocket } from '../../../src/netstack/index.ts';
import { connectOn } from '../../../src/netstack/index.ts';
import { eventually, within } from '../../support/index.ts';
import { pair, SERVER } from './support/index.ts';

const socket = suite('netstack/node/socket');

async function joined(options: { allowHalfOpen?: boolean } = {}): Promise<{
  near: StackSocket;
  far: Socket;
  server: Server;
  faces: { client: NetFace; server: NetFace };
  close(): void;
}> {
  const faces = pair();
  const server = net.createServer({ allowHalfOpen: options.allowHalfOpen ?? false });
  faces.server.listen(server, { port: 7000 });
  await once(server, 'listening');
  const accepted = once(server, 'connection') as Promise<[Socket]>;
  const near = connectOn(faces.client, { host: SERVER, port: 7000, ...options });
  await once(near, 'connect');
  const [far] = await accepted;
  return { near, far, server, faces, close: faces.close };
}

async function textOf(stream: Socket): Promise<string> {
  let text = '';
  for await (const chunk of stream) text += chunk;
  return text;
}

socket(
  'both ends are net.Sockets with the names and states of node:net',
  within(async () => {
    const { near, far, server, close } = await joined();
    assert.instance(near, net.Socket);
    assert.instance(far, net.Socket);
    assert.is(near.remoteAddress, '10.0.0.2');
    assert.is(near.remotePort, 7000);
    assert.is(near.remoteFamily, 'IPv4');
    assert.is(near.localAddress, '10.0.0.1');
    assert.equal(far.address(), { address: '10.0.0.2', family: 'IPv4', port: 7000 });
    assert.is(far.remotePort, near.localPort);
    assert.is(near.readyState, 'open');
    assert.is(near.pending, false);
    assert.is(near.connecting, false);
    assert.equal(server.address(), { address: '0.0.0.0', family: 'IPv4', port: 7000 });
    assert.ok(server.listening);
    const count = await new Promise((done) => server.getConnections((_error, n) => done(n)));
    assert.is(count, 1);
    far.end('bye');
    assert.is(await textOf(near), 'bye');
    assert.is(near.bytesRead, 3);
    await eventually('the far end closes', () => far.destroyed);
    assert.is(far.bytesWritten, 3);
    assert.is(far.remotePort, near.localPort, 'names remain after the end');
    server.close();
    await once(server, 'close');
    assert.not.ok(server.listening);
    close();
  }),
);

socket(
  'connecting to a closed port is ECONNREFUSED with syscall, address and port',
  within(async () => {
    const faces = pair();
    const near = connectOn(faces.client, { host: SERVER, port: 9 });
    assert.ok(near.connecting);
    assert.is(near.readyState, 'opening');
    const [error] = (await once(near, 'error')) as [
      NodeJS.ErrnoException & { address: string; port: number },
    ];
    assert.is(error.message, 'connect ECONNREFUSED 10.0.0.2:9');
    assert.is(error.code, 'ECONNREFUSED');
    assert.is(error.syscall, 'connect');
    assert.is(error.errno, -111);
    assert.is(error.address, '10.0.0.2');
    assert.is(error.port, 9);
    const [hadError] = await once(near, 'close');
    assert.is(hadError, true);
    faces.close();
  }),
);

socket(
  'an address without a route is ENETUNREACH, a port in use EADDRINUSE with node’s message',
  within(async () => {
    const faces = pair();
    const [error] = await once(connectOn(faces.client, { host: '192.0.2.1', port: 9 }), 'error');
    assert.is((error as Error).message, 'connect ENETUNREACH 192.0.2.1:9');
    const first = net.createServer();
    faces.server.listen(first, { port: 7000 });
    const second = net.createServer();
    faces.server.listen(second, { port: 7000, host: '10.0.0.2' });
    const [inUse] = (await once(second, 'error')) as [NodeJS.ErrnoException];
    assert.is(inUse.message, 'listen EADDRINUSE: address already in use 10.0.0.2:7000');
    assert.is(inUse.code, 'EADDRINUSE');
    assert.is(inUse.syscall, 'listen');
    assert.not.ok(second.listening);
    faces.close();
  }),
);

socket(
  'resetAndDestroy is ECONNRESET at the other end',
  within(async () => {
    const { near, far, close } = await joined();
    near.resetAndDestroy();
    const [error] = (await once(far, 'error')) as [NodeJS.ErrnoException];
    assert.is(error.message, 'read ECONNRESET');
    assert.is(error.code, 'ECONNRESET');
    assert.equal(await once(far, 'close'), [true]);
    close();
  }),
);

socket(
  'without allowHalfOpen the end is answered with an end; with it the other direction stays open',
  within(async () => {
    const plain = await joined();
    plain.near.end('x');
    plain.far.resume();
    plain.near.resume();
    await Promise.all([once(plain.far, 'close'), once(plain.near, 'close')]);
    plain.close();
    const open = await joined({ allowHalfOpen: true });
    open.near.end('question');
    assert.is(await textOf(open.far), 'question');
    assert.is(open.far.readyState, 'writeOnly');
    open.far.end('answer');
    assert.is(await textOf(open.near), 'answer');
    open.close();
  }),
);

socket(
  'writing after the other end has reset is EPIPE or ECONNRESET, never silence',
  within(async () => {
    const { near, far, close } = await joined();
    far.resetAndDestroy();
    const failed = once(near, 'error');
    near.write('a');
    const [error] = (await failed) as [NodeJS.ErrnoException];
    assert.ok(error.code === 'ECONNRESET' || error.code === 'EPIPE');
    close();
  }),
);

socket(
  'a reader that pauses holds the writer back within bounded memory, and drain lets it go on',
  within(async () => {
    const { near, far, faces, close } = await joined();
    far.pause();
    const block = Buffer.alloc(256 * 1024, 1);
    const total = 64 * block.length;
    for (let i = 0; i < 64; i++) near.write(block);
    assert.ok(near.writableNeedDrain);
    const { connection } = near;
    await eventually('the window is shut', () => {
      const { sndWnd, flight, effMss } = connection!.status;
      return flight <= 1 && sndWnd < effMss;
    });
    assert.ok(connection!.unacknowledgedBytes < 5 * 1024 * 1024, 'send buffer is bounded');
    assert.ok((far as StackSocket).connection!.readableBytes < 5 * 1024 * 1024, 'receive buffer is bounded');
    assert.ok(near.writableLength > 0, 'the rest waits in the program');
    const drained = once(near, 'drain');
    let received = 0;
    far.on('data', (chunk: Buffer) => {
      received += chunk.length;
    });
    far.resume();
    await drained;
    near.end();
    await once(far, 'end');
    assert.is(received, total);
    assert.is(faces.client.stack.tcp.counters.resetsOut, 0);
    close();
  }),
);

socket(
  'setTimeout emits timeout when idle, and traffic puts it off',
  within(async () => {
    const { near, far, close } = await joined();
    near.setTimeout(300);
    const startedMs = performance.now();
    const beat = setInterval(() => far.write('.'), 20);
    setTimeout(() => clearInterval(beat), 400);
    near.resume();
    await once(near, 'timeout');
    assert.ok(performance.now() - startedMs >= 650, 'traffic put it off');
    close();
  }),
);

socket(
  'writes before the connection is there are sent when it is',
  within(async () => {
    const faces = pair();
    const server = net.createServer((far) => far.pipe(far));
    faces.server.listen(server, { port: 7000 });
    const near = connectOn(faces.client, { host: SERVER, port: 7000 });
    near.setNoDelay(true).setKeepAlive(true, 5000);
    near.write('one ');
    near.write(Buffer.from('two '));
    near.end('drei ü', 'utf8');
    assert.is(await textOf(near), 'one two drei ü');
    assert.is(near.bytesWritten, 15);
    faces.close();
  }),
);

socket(
  'maxConnections drops what is too many and says so',
  within(async () => {
    const faces = pair();
    const server = net.createServer((far) => far.resume());
    server.maxConnections = 1;
    faces.server.listen(server, { port: 7000 });
    const first = connectOn(faces.client, { host: SERVER, port: 7000 });
    await once(first, 'connect');
    const dropped = once(server, 'drop');
    const second = connectOn(faces.client, { host: SERVER, port: 7000 });
    second.resume();
    const [data] = (await dropped) as [{ remoteAddress: string }];
    assert.is(data.remoteAddress, '10.0.0.1');
    await once(second, 'close');
    faces.close();
  }),
);

socket(
  'a destroyed socket that had unread bytes resets its peer; close comes once',
  within(async () => {
    const { near, far, close } = await joined();
    far.pause();
    near.write('never read');
    await eventually('the bytes are there', () => (far as StackSocket).connection!.bytesReceived === 10);
    let closes = 0;
    far.on('close', () => closes++);
    far.destroy();
    const outcome = await Promise.race([
      once(near, 'error').then(([e]) => (e as NodeJS.ErrnoException).code),
      once(near, 'end').then(() => 'end'),
    ]);
    near.resume();
    assert.ok(outcome === 'ECONNRESET' || outcome === 'end');
    await eventually('close', () => closes > 0);
    assert.is(closes, 1);
    close();
  }),
);

socket.run();
