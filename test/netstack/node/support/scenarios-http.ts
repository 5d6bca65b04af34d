import { once } from 'node:events';
import http from 'node:http';
import http2 from 'node:http2';
import net from 'node:net';
import { closed, type Env, pauseMs, type Scenario } from './scenario.ts';

async function serve(
  env: Env,
  handler: http.RequestListener,
  options: http.ServerOptions = {},
): Promise<{ server: http.Server; port: number }> {
  const server = http.createServer(options, handler);
  server.listen(0, env.host);
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  env.ignorePort(port);
  return { server, port };
}

function get(env: Env, name: string, options: http.RequestOptions, body?: string): Promise<string> {
  return new Promise((resolve) => {
    const request = http.request({ host: env.host, ...options }, (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('error', (error) => env.note(name, 'response', error));
      response.on('close', () => {
        env.note(name, response.statusCode, text, response.complete, response.trailers, request.reusedSocket);
        resolve(text);
      });
    });
    request.on('error', (error) => {
      env.note(name, 'request', error);
      resolve('');
    });
    request.end(body);
  });
}

export const HTTP: readonly Scenario[] = [
  [
    'http.Agent: keep-alive uses one connection',
    async (env) => {
      let connections = 0;
      const { server, port } = await serve(env, (_request, response) => response.end('ok'));
      server.on('connection', () => connections++);
      const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
      for (const name of ['first', 'second']) await get(env, name, { port, agent });
      await Promise.all(['third', 'fourth'].map((name) => get(env, name, { port, agent })));
      env.note('server', connections);
      agent.destroy();
      server.close();
      await closed(server);
    },
  ],
  [
    'http.Agent: the server closes an idle connection',
    async (env) => {
      const { server, port } = await serve(env, (_request, response) => response.end('ok'), {
        keepAliveTimeout: 20,
      });
      const agent = new http.Agent({ keepAlive: true });
      await get(env, 'first', { port, agent });
      await pauseMs(1100);
      await get(env, 'second', { port, agent });
      agent.destroy();
      server.close();
      server.closeAllConnections();
      await closed(server);
    },
  ],
  [
    'http: the server destroys the socket before it answers',
    async (env) => {
      const { server, port } = await serve(env, (request) => request.socket.destroy());
      await get(env, 'client', { port, agent: false });
      server.close();
      await closed(server);
    },
  ],
  [
    'http: the server dies in the middle of a body',
    async (env) => {
      const { server, port } = await serve(env, (request, response) => {
        response.setHeader('content-length', 100);
        response.write('half');
        setTimeout(() => request.socket.destroy(), 10);
      });
      await get(env, 'client', { port, agent: false });
      server.close();
      await closed(server);
    },
  ],
  [
    'http: the client goes away',
    async (env) => {
      let gone: () => void = () => {};
      const seen = new Promise<void>((done) => {
        gone = done;
      });
      const { server, port } = await serve(env, (request, response) => {
        request.on('close', () => env.note('server', 'request closed', request.complete));
        response.on('close', () => {
          env.note('server', 'response closed', response.writableEnded);
          gone();
        });
      });
      const request = http.request({ host: env.host, port, agent: false });
      request.on('error', (error) => env.note('client', error));
      request.end();
      setTimeout(() => request.destroy(), 20);
      await seen;
      server.close();
      await closed(server);
    },
  ],
  [
    'http: a timeout of the client',
    async (env) => {
      const { server, port } = await serve(env, () => {});
      const request = http.request({ host: env.host, port, agent: false, timeout: 30 });
      request.on('timeout', () => {
        env.note('client', 'timeout');
        request.destroy(new Error('too slow'));
      });
      request.on('error', (error) => env.note('client', error));
      request.end();
      await closed(request);
      server.closeAllConnections();
      server.close();
      await closed(server);
    },
  ],
  [
    'http: 100-continue, a body, trailers',
    async (env) => {
      const { server, port } = await serve(env, (request, response) => {
        let size = 0;
        request.on('data', (chunk) => {
          size += chunk.length;
        });
        request.on('end', () => {
          response.writeHead(200, { trailer: 'x-size' });
          response.write('got it');
          response.addTrailers({ 'x-size': String(size) });
          response.end();
        });
      });
      const agent = new http.Agent();
      await get(
        env,
        'client',
        { port, agent, method: 'POST', headers: { expect: '100-continue' } },
        'b'.repeat(100_000),
      );
      server.close();
      await closed(server);
    },
  ],
  [
    'http: upgrade',
    async (env) => {
      const { server, port } = await serve(env, () => {});
      server.on('upgrade', (_request, socket) => {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n');
        socket.pipe(socket);
      });
      const request = http.request({
        host: env.host,
        port,
        headers: { connection: 'Upgrade', upgrade: 'echo' },
      });
      request.end();
      const [, socket] = (await once(request, 'upgrade')) as [unknown, net.Socket];
      socket.end('through');
      let text = '';
      for await (const chunk of socket) text += chunk;
      env.note('client', text);
      server.close();
      await closed(server);
    },
  ],
  [
    'http: CONNECT through a proxy',
    async (env) => {
      const target = await serve(env, (_request, response) => response.end('from behind'));
      const proxy = await serve(env, () => {});
      proxy.server.on('connect', (request, socket) => {
        const upstream = net.connect(Number(request.url!.split(':')[1]), env.host, () => {
          socket.write('HTTP/1.1 200 OK\r\n\r\n');
          upstream.pipe(socket).pipe(upstream);
        });
      });
      const request = http.request({
        host: env.host,
        port: proxy.port,
        method: 'CONNECT',
        path: `${env.host}:${target.port}`,
      });
      request.end();
      const [, socket] = (await once(request, 'connect')) as [unknown, net.Socket];
      await get(env, 'client', {
        createConnection: () => socket,
        port: target.port,
        agent: false,
      } as http.RequestOptions);
      socket.destroy();
      for (const { server } of [target, proxy]) {
        server.close();
        server.closeAllConnections();
        await closed(server);
      }
    },
  ],
  [
    'http: pipelined requests in one segment',
    async (env) => {
      const { server, port } = await serve(env, (request, response) => response.end(request.url));
      const client = env.connect(port);
      client.write(
        'GET /1 HTTP/1.1\r\nhost: x\r\n\r\nGET /2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n',
      );
      let text = '';
      client.removeAllListeners('data');
      for await (const chunk of client) text += chunk;
      env.note('bodies', text.match(/\/\d/g));
      server.close();
      await closed(server);
    },
  ],
  [
    'http: closeIdleConnections, closeAllConnections',
    async (env) => {
      const { server, port } = await serve(env, (request, response) => {
        if (request.url === '/slow') response.write('part');
        else response.end('ok');
      });
      const agent = new http.Agent({ keepAlive: true });
      await get(env, 'idle', { port, agent });
      const slow = get(env, 'slow', { port, agent: false, path: '/slow' });
      await pauseMs(20);
      server.closeIdleConnections();
      await pauseMs(20);
      const left = await new Promise((done) => server.getConnections((_error, n) => done(n)));
      env.note('server', left);
      const ended = closed(server);
      server.close();
      server.closeAllConnections();
      await slow;
      await ended;
      agent.destroy();
    },
  ],
  [
    'fetch: a body, an abort',
    async (env) => {
      const { server, port } = await serve(env, (request, response) => {
        if (request.url === '/hang') response.write('x');
        else response.end('y'.repeat(200_000));
      });
      const whole = await fetch(`http://${env.host}:${port}/`);
      env.note('fetch', whole.status, (await whole.text()).length);
      const control = new AbortController();
      const hanging = await fetch(`http://${env.host}:${port}/hang`, { signal: control.signal });
      control.abort();
      env.note('fetch', await hanging.text().catch((error: Error) => error.name));
      server.closeAllConnections();
      server.close();
      await closed(server);
    },
  ],
  [
    'http2: streams, ping, a reset stream, goaway',
    async (env) => {
      const server = http2.createServer();
      server.on('stream', (stream, headers) => {
        stream.on('error', () => {});
        if (headers[':path'] === '/reset') stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
        else {
          stream.respond({ ':status': 200 });
          stream.end(`you asked for ${headers[':path']}`);
        }
      });
      server.listen(0, env.host);
      await once(server, 'listening');
      const { port } = server.address() as net.AddressInfo;
      env.ignorePort(port);
      const session = http2.connect(`http://${env.host}:${port}`);
      const ask = (path: string) =>
        new Promise((done) => {
          const stream = session.request({ ':path': path });
          let text = '';
          stream.setEncoding('utf8');
          stream.on('data', (chunk) => {
            text += chunk;
          });
          stream.on('error', (error) => env.note(path, error));
          stream.on('close', () => {
            env.note(path, text, stream.rstCode);
            done(undefined);
          });
          stream.end();
        });
      await Promise.all(['/a', '/b', '/reset'].map(ask));
      const ponged = await new Promise((done) => session.ping((error) => done(error === null)));
      env.note('session', ponged);
      session.close();
      await closed(session);
      env.note('session', session.closed, session.destroyed);
      server.close();
      await closed(server);
    },
  ],
  [
    'http2: 2 MiB each way in one stream',
    async (env) => {
      const server = http2.createServer();
      server.on('stream', (stream) => {
        stream.respond({ ':status': 200 });
        stream.pipe(stream);
      });
      server.listen(0, env.host);
      await once(server, 'listening');
      const { port } = server.address() as net.AddressInfo;
      const session = http2.connect(`http://${env.host}:${port}`);
      const stream = session.request({ ':method': 'POST', ':path': '/' });
      let size = 0;
      stream.on('data', (chunk: Buffer) => {
        size += chunk.length;
      });
      stream.end(Buffer.alloc(2 << 20, 1));
      await closed(stream);
      env.note('session', size);
      session.close();
      await closed(session);
      server.close();
      await closed(server);
    },
  ],
];
