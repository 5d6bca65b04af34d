/** Our TCP with the kernel's as peer, over a TAP: an unmodified program run by `changeover stack`. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import { eventually, liveSuite, run, within } from '../support/index.ts';

const live = liveSuite('live/tcp-stack');
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

const STACK = '10.99.0.2';
const KERNEL = '10.99.0.1';
const PORT = 8080;
let child: ChildProcess | undefined;
let output = '';

async function start(options: { offload: boolean; mtu?: number; address?: string[] }): Promise<void> {
  const given = {
    tap: 'tapstack',
    address: `${STACK}/24`,
    app: here('./applications/web.mjs'),
    args: [String(PORT)],
    ...options,
  };
  output = '';
  const process_ = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', here('./support/stack-process.ts'), JSON.stringify(given)],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  child = process_;
  for (const stream of [process_.stdout, process_.stderr]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  await eventually('the program is ready', () => output.includes('ready'), 15_000);
  await run('ip', ['addr', 'add', `${KERNEL}/24`, 'dev', 'tapstack']);
}

async function stop(): Promise<void> {
  const running = child;
  child = undefined;
  if (running === undefined || running.exitCode !== null) return;
  const exited = once(running, 'exit');
  running.kill('SIGTERM');
  const [code] = await exited;
  assert.is(code, 0, `clean end: ${output}`);
}

live.after(() => {
  child?.kill('SIGKILL');
});

function request(
  path: string,
  options: http.RequestOptions = {},
  body?: Buffer,
): Promise<{ headers: http.IncomingHttpHeaders; body: Buffer }> {
  return new Promise((resolve, reject) => {
    const sent = http.request({ host: STACK, port: PORT, path, ...options }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('end', () => resolve({ headers: response.headers, body: Buffer.concat(chunks) }));
      response.on('error', reject);
    });
    sent.on('error', reject);
    sent.end(body);
  });
}

const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

for (const offload of [true, false]) {
  live(
    `64 MiB both ways byte-exact, ${offload ? 'with' : 'without'} offloads; curl, Fastify, half-close, RST, a client`,
    within(async () => {
      await start({ offload });
      const { stdout } = await run('curl', ['-s', '-m', '5', `http://${STACK}:${PORT}/`]);
      assert.is(stdout, 'hello\n');
      const fastify = await request('/', { port: PORT + 1 });
      assert.is(fastify.body.toString(), '{"server":"fastify"}');

      const down = await request('/big');
      assert.is(down.body.length, 64 * 1024 * 1024);
      assert.is(sha(down.body), down.headers['x-sha256']);
      const up = await request('/', { method: 'PUT' }, down.body);
      assert.is(up.body.toString(), sha(down.body));

      const half = net.connect({ host: STACK, port: PORT + 2, allowHalfOpen: true });
      half.end('it');
      let answer = '';
      for await (const chunk of half) answer += chunk;
      assert.is(answer, 'you said it');

      const refused = net.connect(9, STACK);
      const [error] = (await once(refused, 'error')) as [NodeJS.ErrnoException];
      assert.is(error.code, 'ECONNREFUSED');

      const kernelServer = http
        .createServer((_request, response) => response.end('from the kernel'))
        .listen(0, KERNEL);
      await once(kernelServer, 'listening');
      const { port } = kernelServer.address() as net.AddressInfo;
      assert.is((await request(`/fetch/${KERNEL}:${port}`)).body.toString(), 'from the kernel');
      kernelServer.close();
      kernelServer.closeAllConnections();
      assert.is((await request(`/fetch/${KERNEL}:9`)).body.toString(), `connect ECONNREFUSED ${KERNEL}:9`);
      await stop();
    }, 60_000),
  );
}

live(
  '200 concurrent keep-alive connections of wrk without an error',
  within(async () => {
    await start({ offload: true });
    const { stdout } = await run('wrk', ['-t1', '-c200', '-d3s', `http://${STACK}:${PORT}/`]);
    assert.not.match(stdout, /Socket errors|Non-2xx/);
    const requests = Number(/(\d+) requests in/.exec(stdout)?.[1]);
    assert.ok(requests > 1000, stdout);
    await stop();
  }, 30_000),
);

live(
  'addresses of both families: one program, reached by either, fetching by either',
  within(async () => {
    await run('ip', ['link', 'del', 'tapstack']).catch(() => {});
    await start({ offload: true, address: [`${STACK}/24`, 'fd99::2/64'] });
    await run('ip', ['-6', 'addr', 'add', 'fd99::1/64', 'dev', 'tapstack', 'nodad']);
    await eventually('the IPv6 address is in use', async () => {
      const answer = await run('curl', ['-s', '-m', '1', `http://[fd99::2]:${PORT}/`]).catch(() => undefined);
      return answer?.stdout === 'hello\n';
    });
    assert.is((await run('curl', ['-s', '-m', '5', `http://${STACK}:${PORT}/`])).stdout, 'hello\n');
    const down = await request('/big', { host: 'fd99::2' });
    assert.is(sha(down.body), down.headers['x-sha256']);
    const kernelServer = http.createServer((_request, response) => response.end('from the kernel'));
    kernelServer.listen(0, 'fd99::1');
    await once(kernelServer, 'listening');
    const { port } = kernelServer.address() as net.AddressInfo;
    const fetched = await request(`/fetch/[fd99::1]:${port}`, { host: 'fd99::2' });
    assert.is(fetched.body.toString(), 'from the kernel');
    kernelServer.close();
    kernelServer.closeAllConnections();
    assert.match(output, `${STACK}/24, fd99::2/64`);
    await stop();
  }, 30_000),
);

live(
  'wrong arguments end with one sentence and exit code 1',
  within(async () => {
    const attempt = async (options: object) => {
      const failed = (await run(process.execPath, [
        '--disable-warning=ExperimentalWarning',
        here('./support/stack-process.ts'),
        JSON.stringify({
          tap: 'tapx',
          address: '10.1.0.2/24',
          app: here('./applications/web.mjs'),
          ...options,
        }),
      ]).catch((error: unknown) => error)) as { code?: number; stderr: string };
      assert.is(failed.code, 1);
      return failed.stderr;
    };
    assert.match(await attempt({ address: '10.1.0.2' }), 'write it as 10.77.0.11/24');
    assert.match(await attempt({ app: '/nowhere/app.mjs' }), 'there is no file /nowhere/app.mjs');
    assert.match(await attempt({ mac: 'ff:ff:ff:ff:ff:ff' }), 'no MAC address of a host');
    assert.match(await attempt({ address: ['10.1.0.2/24', 'fd00::x/64'] }), 'fd00::11/64');
    assert.match(await attempt({ gateway: 'x' }), 'is no address');
  }, 20_000),
);

live.run();
