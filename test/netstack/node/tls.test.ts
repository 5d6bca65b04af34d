/** TLS, abort signals, pipelines and timeouts of unmodified programs on the stack, through the override. */
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import tls from 'node:tls';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import type { StackSocket } from '../../../src/netstack/index.ts';
import { cidr, installNetOverride, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';
import { eventually, within } from '../../support/index.ts';

const over = suite('netstack/node/tls');

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

/** A self-signed certificate of a minute ago, for the address and a name. */
const identity = (() => {
  const directory = mkdtempSync(join(tmpdir(), 'changeover-tls-'));
  const [keyFile, certFile] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
  const subject = ['-subj', '/CN=service.example', '-addext'];
  const names = `subjectAltName=DNS:service.example,IP:${ADDRESS}`;
  const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
  execFileSync(
    'openssl',
    [
      'req',
      '-x509',
      ...curve,
      '-nodes',
      '-keyout',
      keyFile,
      '-out',
      certFile,
      '-days',
      '2',
      ...subject,
      names,
    ],
    { stdio: 'ignore' },
  );
  const made = { key: readFileSync(keyFile), cert: readFileSync(certFile) };
  rmSync(directory, { recursive: true });
  return made;
})();

over.after(() => {
  installed.uninstall();
  installed.face.close();
  link.close();
  otherEnd.close();
});
over.before.each(() => {
  accepted.length = 0;
});

const closed = (server: net.Server) => new Promise((done) => server.close(done));

over(
  'https: server and client, the certificate is checked, bodies are whole, keep-alive reuses the connection',
  within(async () => {
    const server = https.createServer(identity, (request, response) => {
      response.setHeader('x-client', request.socket.remoteAddress ?? 'nobody');
      request.pipe(response);
    });
    await new Promise<void>((done) => server.listen(8443, done));
    const agent = new https.Agent({ keepAlive: true, ca: identity.cert, maxSockets: 1 });
    const body = randomBytes(300_000);
    for (let i = 0; i < 2; i++) {
      const request = https.request({ host: ADDRESS, port: 8443, method: 'POST', agent });
      request.end(body);
      const [response] = (await once(request, 'response')) as [http.IncomingMessage];
      assert.ok((response.socket as tls.TLSSocket).authorized);
      assert.is(response.headers['x-client'], ADDRESS, 'the server knows who asks');
      const got = await response.toArray();
      assert.ok(Buffer.concat(got as Buffer[]).equals(body));
    }
    assert.is(accepted.length, 1, 'one connection, through the stack');
    const stranger = https.get({ host: ADDRESS, port: 8443, agent: false });
    const [error] = (await once(stranger, 'error')) as [NodeJS.ErrnoException];
    assert.is(error.code, 'DEPTH_ZERO_SELF_SIGNED_CERT');
    agent.destroy();
    server.closeAllConnections();
    await closed(server);
  }),
);

over(
  'tls.connect and tls.createServer: server name, protocol, end in order, and a peer that speaks no TLS',
  within(async () => {
    const server = tls.createServer(identity, (socket) => {
      socket.end(`hello ${socket.servername}`);
    });
    await new Promise<void>((done) => server.listen(8444, ADDRESS, done));
    const near = tls.connect({ host: ADDRESS, port: 8444, ca: identity.cert, servername: 'service.example' });
    await once(near, 'secureConnect');
    assert.ok(near.authorized);
    assert.is(near.getProtocol(), 'TLSv1.3');
    assert.is(near.remoteAddress, ADDRESS);
    let text = '';
    for await (const chunk of near) text += chunk;
    assert.is(text, 'hello service.example');

    const refused = once(server, 'tlsClientError') as Promise<[NodeJS.ErrnoException]>;
    const plain = net.connect(8444, ADDRESS);
    plain.on('error', () => {});
    plain.write('GET / HTTP/1.1\r\n\r\n');
    const [error] = await refused;
    assert.match(error.code ?? '', /^ERR_SSL_/);
    plain.destroy();
    await closed(server);
  }),
);

over(
  'STARTTLS: both ends go over to TLS on a connection that has spoken without',
  within(async () => {
    const server = net.createServer((raw) => {
      raw.once('data', () => {
        raw.write('go ahead');
        const secure = new tls.TLSSocket(raw, { isServer: true, ...identity });
        secure.on('data', (data: Buffer) => secure.end(`secret ${data}`));
      });
    });
    await new Promise<void>((done) => server.listen(8451, done));
    const plain = net.connect(8451, ADDRESS);
    plain.write('STARTTLS');
    await once(plain, 'data');
    const near = tls.connect({ socket: plain, ca: identity.cert, servername: 'service.example' });
    await once(near, 'secureConnect');
    assert.is(near.remotePort, 8451);
    near.write('word');
    let text = '';
    for await (const chunk of near) text += chunk;
    assert.is(text, 'secret word');
    await closed(server);
  }),
);

over(
  'an AbortSignal ends a connect, a request and a server; the reason reaches the caller',
  within(async () => {
    const server = http.createServer(() => {
      // Never answers.
    });
    const stop = new AbortController();
    server.listen({ port: 8445, signal: stop.signal });
    await once(server, 'listening');

    const first = new AbortController();
    const near = net.connect({ host: ADDRESS, port: 8445, signal: first.signal } as net.NetConnectOpts);
    await once(near, 'connect');
    const ended = once(near, 'error') as Promise<[Error]>;
    first.abort();
    assert.is((await ended)[0].name, 'AbortError');
    assert.ok(near.destroyed);

    const second = new AbortController();
    const answer = fetch(`http://${ADDRESS}:8445/`, { signal: second.signal });
    await eventually('the request is there', () => accepted.length >= 2);
    second.abort();
    const error = await answer.catch((thrown: Error) => thrown);
    assert.is((error as Error).name, 'AbortError');
    const last = accepted.at(-1)!;
    await eventually('the connection is gone at the server, too', () => last.destroyed);

    stop.abort();
    await once(server, 'close');
    assert.not.ok(stack.tcp.listeningPorts().includes(8445));
  }),
);

over(
  'pipeline: 30 MB through a slow reader, byte-exact, with memory held back all the way to the source',
  within(async () => {
    const total = 30 * 1024 * 1024;
    const chunk = randomBytes(65_536);
    const received = createHash('sha256');
    let got = 0;
    let produced = 0;
    let farthest = 0;
    const server = net.createServer((socket) => {
      const slow = new Transform({
        transform(data: Buffer, _encoding, done) {
          got += data.length;
          received.update(data);
          farthest = Math.max(farthest, produced - got);
          // Now and then somebody else has the processor.
          if (got % 7 === 0) setImmediate(done);
          else done();
        },
      });
      slow.resume();
      pipeline(socket, slow).then(
        () => socket.destroy(),
        () => {},
      );
    });
    await new Promise<void>((done) => server.listen(8446, done));
    const sent = createHash('sha256');
    const source = Readable.from(
      (function* () {
        while (produced < total) {
          produced += chunk.length;
          sent.update(chunk);
          yield chunk;
        }
      })(),
      { objectMode: false },
    );
    const near = net.connect(8446, ADDRESS);
    await pipeline(source, near);
    await eventually('all of it arrives', () => got === total, 20_000);
    assert.is(received.digest('hex'), sent.digest('hex'));
    assert.ok(farthest < 12 * 1024 * 1024, `${farthest} bytes were under way at most`);
    await closed(server);
  }, 30_000),
);

over(
  'pipeline: a server that goes away in the middle is an error, and the source is destroyed',
  within(async () => {
    const server = net.createServer((socket) => {
      socket.once('data', () => socket.resetAndDestroy());
    });
    await new Promise<void>((done) => server.listen(8447, done));
    const source = new Readable({
      read() {
        this.push(Buffer.alloc(16_384));
      },
    });
    const error = (await pipeline(source, net.connect(8447, ADDRESS)).catch(
      (thrown: NodeJS.ErrnoException) => thrown,
    )) as NodeJS.ErrnoException;
    assert.ok(['ECONNRESET', 'EPIPE', 'ERR_STREAM_PREMATURE_CLOSE'].includes(error.code ?? ''), error.code);
    assert.ok(source.destroyed);
    await closed(server);
  }),
);

over(
  'half-open: with allowHalfOpen a server answers after the client’s end, with TLS as well as without',
  within(async () => {
    const answering = (socket: net.Socket) => {
      let said = '';
      socket.on('data', (data: Buffer) => {
        said += data;
      });
      socket.on('end', () => socket.end(`you said ${said}`));
    };
    const plain = net.createServer({ allowHalfOpen: true }, answering).listen(8448);
    const secure = tls.createServer({ ...identity, allowHalfOpen: true }, answering).listen(8449);
    await Promise.all([once(plain, 'listening'), once(secure, 'listening')]);
    const sockets = [
      net.connect({ host: ADDRESS, port: 8448, allowHalfOpen: true }),
      tls.connect({
        host: ADDRESS,
        port: 8449,
        ca: identity.cert,
        allowHalfOpen: true,
      } as tls.ConnectionOptions),
    ];
    for (const socket of sockets) {
      socket.end('it');
      let text = '';
      for await (const chunk of socket) text += chunk;
      assert.is(text, 'you said it');
    }
    await Promise.all([closed(plain), closed(secure)]);
  }),
);

over(
  'timeouts: a silent socket, a request without answer, headers that do not come',
  within(async () => {
    const server = http.createServer({ headersTimeout: 300, connectionsCheckingInterval: 100 }, () => {});
    await new Promise<void>((done) => server.listen(8450, done));
    const socket = net.connect(8450, ADDRESS);
    socket.setTimeout(80);
    await once(socket, 'timeout');
    assert.not.ok(socket.destroyed, 'a timeout tells, it does not end');
    socket.setTimeout(0);
    socket.write('GET / HTTP/1.1\r\n');
    const [said] = (await once(socket, 'data')) as [Buffer];
    assert.match(said.toString(), '408');
    const request = http.get({ host: ADDRESS, port: 8450, timeout: 100 });
    await once(request, 'timeout');
    request.destroy(new Error('too slow'));
    const [error] = (await once(request, 'error')) as [Error];
    assert.is(error.message, 'too slow');
    const late = await fetch(`http://${ADDRESS}:8450/`, { signal: AbortSignal.timeout(100) }).catch(
      (thrown: Error) => thrown,
    );
    assert.is((late as Error).name, 'TimeoutError');
    socket.destroy();
    server.closeAllConnections();
    await closed(server);
  }),
);

over.run();
