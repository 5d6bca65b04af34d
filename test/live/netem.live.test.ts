/**
 * Loss, delay and disorder in real time: a client on the kernel, and across a bridge with netem either our stack or another kernel.
 * Byte-exact in both directions, both as client and as server; the goodput of both stands side by side in the output.
 */
import type { ChildProcess } from 'node:child_process';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import type http from 'node:http';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import {
  eventually,
  type HeldNamespace,
  holdNamespace,
  inScratch,
  liveSuite,
  NetemGuest,
  within,
} from '../support/index.ts';
import { pattern, request, sha, transferServer } from './support/transfer.ts';
import type { TransferProcess } from './support/transfer-process.ts';

const live = liveSuite('live/netem');
const long = process.env['SOAK'] === '1';
const CLIENT = '10.96.0.1';
const KERNEL = '10.96.0.2';
const STACK = '10.96.0.3';
const PORT = 8080;
const BYTES = long ? 16 << 20 : 1 << 19;
const CONTROL = '/proc/sys/net/ipv4/tcp_congestion_control';
const BOOT_LIMIT_MS = 60_000;

const PATHS: readonly [name: string, toLeft: string, toRight: string][] = [
  ['a plain bridge', '', ''],
  ['10 ms and 1 % loss each way', 'delay 10ms loss 1%', 'delay 10ms loss 1%'],
  [
    '20 ms, 3 % loss and 25 % out of order',
    'delay 20ms reorder 25% loss 3%',
    'delay 20ms reorder 25% loss 3%',
  ],
  [
    '15 ± 10 ms, 1 % twice, 0.5 % damaged',
    'delay 15ms 10ms duplicate 1% corrupt 0.5%',
    'delay 15ms 10ms duplicate 1% corrupt 0.5%',
  ],
  ...(long
    ? ([
        ['100 ms and 0.1 % loss', 'delay 50ms loss 0.1%', 'delay 50ms loss 0.1%'],
        ['bursts of loss', 'delay 10ms loss gemodel 1% 20%', 'delay 10ms loss gemodel 1% 20%'],
        ['10 % loss', 'delay 5ms loss 10%', 'delay 5ms loss 10%'],
      ] satisfies [string, string, string][])
    : []),
];

const children: ChildProcess[] = [];
let guest: NetemGuest | undefined;
let right: HeldNamespace | undefined;
let own: http.Server | undefined;

async function start(enter: readonly string[], what: TransferProcess): Promise<void> {
  const argv = [
    ...enter,
    process.execPath,
    '--disable-warning=ExperimentalWarning',
    new URL('./support/transfer-process.ts', import.meta.url).pathname,
    JSON.stringify(what),
  ];
  const child = spawn(argv[0]!, argv.slice(1), { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  await once(child.stdout!, 'data');
}

live.after(() => {
  for (const child of children) child.kill('SIGKILL');
  guest?.close();
  right?.close();
  own?.close();
  own?.closeAllConnections();
});

/** Seconds for one transfer of BYTES in each of four ways; every one is compared. */
async function measure(address: string, wanted: string, bytes: Buffer): Promise<number[]> {
  const there = `http://${address}:${PORT}`;
  const here = `http://${CLIENT}:${PORT}`;
  const ways: [string, () => Promise<string>][] = [
    ['it serves, we fetch', async () => sha(await request(`${there}/send?bytes=${BYTES}`))],
    ['it serves, we store', async () => (await request(`${there}/`, bytes)).toString()],
    [
      'it fetches',
      async () =>
        (await request(`${there}/pull?url=${encodeURIComponent(`${here}/send?bytes=${BYTES}`)}`)).toString(),
    ],
    [
      'it stores',
      async () =>
        (await request(`${there}/push?bytes=${BYTES}&url=${encodeURIComponent(`${here}/`)}`)).toString(),
    ],
  ];
  const seconds: number[] = [];
  for (const [name, way] of ways) {
    const startedMs = performance.now();
    assert.is(await way(), wanted, `${address}: ${name}`);
    seconds.push((performance.now() - startedMs) / 1000);
  }
  return seconds;
}

live(
  'every byte arrives, both ways, as client and as server, whatever the path does',
  within(
    () =>
      inScratch(async (directory) => {
        assert.is(NetemGuest.missing(), undefined);
        const socket = join(directory, 'port');
        guest = await NetemGuest.boot(['nm0', 'nm1'], socket, BOOT_LIMIT_MS);
        console.log(`the guest was up after ${(guest.bootMs / 1000).toFixed(1)} s`);
        right = await holdNamespace();
        const pid = right.path.split('/')[2]!;
        const ip = (...argv: string[]) => execFileSync('ip', argv);
        for (const device of ['nm0', 'nm1']) execFileSync('ethtool', ['-K', device, 'gro', 'off']);
        ip('addr', 'add', `${CLIENT}/24`, 'dev', 'nm0');
        ip('link', 'set', 'nm0', 'up');
        ip('link', 'set', 'nm1', 'netns', pid);
        // One that takes loss for congestion, as ours does: BBR, the default of some hosts, would be no comparison.
        const control = right.run('sh', '-c', `echo reno > ${CONTROL} 2>/dev/null; cat ${CONTROL}`).trim();
        console.log(`ours: cubic; the kernel's: ${control}`);
        right.run('ip', 'addr', 'add', `${KERNEL}/24`, 'dev', 'nm1');
        right.run('ip', 'link', 'set', 'nm1', 'up');
        own = transferServer().listen(PORT, CLIENT);
        await start(right.enter, { address: KERNEL, port: PORT });
        await start([], { socket, address: `${STACK}/24`, port: PORT });
        for (const address of [KERNEL, STACK]) {
          await eventually(
            `${address} answers`,
            () =>
              request(`http://${address}:${PORT}/`).then(
                () => true,
                () => false,
              ),
            20_000,
          );
        }
        const bytes = pattern(BYTES);
        const wanted = sha(bytes);
        const mbit = (seconds: number) => ((BYTES * 8) / seconds / 1e6).toFixed(1);
        for (const [name, toLeft, toRight] of PATHS) {
          await guest.impair(toLeft, toRight);
          const kernel = await measure(KERNEL, wanted, bytes);
          const ours = await measure(STACK, wanted, bytes);
          console.log(
            `${name}: Mbit/s fetched, stored, as client fetched, stored: ours ${ours.map(mbit).join(', ')}; kernel ${kernel.map(mbit).join(', ')}`,
          );
          if (toLeft.includes('loss')) {
            const lost = /dropped [1-9]/.test(await guest.counts());
            assert.ok(lost, 'netem dropped packets');
          }
        }
        const counters = JSON.parse((await request(`http://${STACK}:${PORT}/counters`)).toString()) as Record<
          string,
          number
        >;
        assert.ok(counters['retransmits']! > 0, 'our stack had to send again');
        console.log(`our counters: ${JSON.stringify(counters)}`);
      }),
    long ? 3_000_000 : 240_000,
  ),
);

live.run();
