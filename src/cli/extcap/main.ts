/**
 * Wireshark extcap: uplinks and partitions' ports as live interfaces. A capture is a stream of pcapng from the mux process to a unix
 * socket of ours, and from there into Wireshark's fifo; whoever ends first ends it. When the mux process is started again meanwhile, the
 * capture goes on in a section of its own.
 */
import { createWriteStream, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sentenceOf } from '../../common/index.ts';
import { ApiClient } from '../api-client.ts';
import { runDirectoryOf } from '../run-directory.ts';
import type { ExtcapPort, ExtcapRequest } from './words.ts';
import { configText, dltsText, interfacesText, parseExtcap } from './words.ts';

const AGAIN_MS = 250;
/** A mux process that was killed is back in less. */
const GIVE_UP_MS = 20_000;

type Capture = Extract<ExtcapRequest, { kind: 'capture' }>;

async function ports(): Promise<readonly ExtcapPort[]> {
  try {
    const api = new ApiClient(await runDirectoryOf({}));
    return (await api.get<{ ports: readonly ExtcapPort[] }>('/network')).ports;
  } catch {
    // Wireshark asks at each of its starts: no daemon, nothing to offer.
    return [];
  }
}

async function capture({ port, fifo, runDirectory, snapLength }: Capture): Promise<void> {
  const api = new ApiClient(await runDirectoryOf(runDirectory === undefined ? {} : { runDirectory }));
  const directory = mkdtempSync(join(tmpdir(), 'changeover-extcap-'));
  const socket = join(directory, 'capture.sock');
  const out = createWriteStream(fifo);
  let ended = false;
  const server = createServer();
  const end = () => {
    if (ended) return;
    ended = true;
    server.close();
    out.destroy();
    rmSync(directory, { recursive: true, force: true });
    process.exit();
  };
  // Wireshark has closed its end, or stops us.
  out.on('error', end).on('close', end);
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end);
  await new Promise<void>((done) => server.listen(socket, done));
  const begin = () =>
    api.post('/captures', {
      socket,
      ...(port === undefined ? {} : { ports: [port] }),
      ...(snapLength === undefined ? {} : { snapLength }),
    });
  const beginAgain = async () => {
    const untilMs = performance.now() + GIVE_UP_MS;
    for (;;) {
      await new Promise((done) => setTimeout(done, AGAIN_MS));
      if (ended) return;
      try {
        await begin();
        return;
      } catch (error) {
        if (performance.now() < untilMs) continue;
        process.stderr.write(`the capture ended: ${sentenceOf(error)}\n`);
        end();
      }
    }
  };
  server.on('connection', (connection) => {
    connection.on('error', () => {});
    connection.pipe(out, { end: false });
    connection.once('close', () => void beginAgain());
  });
  try {
    await begin();
  } catch (error) {
    process.stderr.write(`${sentenceOf(error)}\n`);
    process.exitCode = 1;
    end();
  }
}

const request = parseExtcap(process.argv.slice(2));
switch (request.kind) {
  case 'interfaces': {
    const file = new URL('../../../package.json', import.meta.url);
    const { version } = JSON.parse(readFileSync(file, 'utf8')) as { version: string };
    process.stdout.write(interfacesText(version, await ports()));
    break;
  }
  case 'dlts':
    process.stdout.write(dltsText());
    break;
  case 'config':
    process.stdout.write(configText(await runDirectoryOf({})));
    break;
  case 'capture':
    await capture(request);
    break;
  case 'refused':
    process.stderr.write(`${request.reason}\n`);
    process.exitCode = 1;
    break;
}
