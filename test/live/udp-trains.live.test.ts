/**
 * UDP datagrams between two kernels through joined TAPs: what shortcuts send on in trains (tap-tun/src/native/join.c) arrives as the
 * datagrams that were sent. The mux runs in this process, which stands still while a sender fills the TAP's queue.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../src/common/index.ts';
import { runMux } from '../../src/daemon/standalone/mux.ts';
import type { HeldNamespace } from '../support/index.ts';
import { eventually, holdNamespace, liveSuite, SOAK, seeded, within } from '../support/index.ts';

const live = liveSuite('live/udp-trains');
const PROGRAM = join(import.meta.dirname, 'support/datagrams.mjs');
const ROUNDS = SOAK ? 1_000 : 24;
/** As many as a receiver's buffer holds, however slow it is. */
const BURST = 60;
const MTU_PAYLOAD = 1_472;

/** Family, address, port, whether the sender's socket is connected: then identifications count up. */
const FLOWS: readonly (readonly [4 | 6, string, number, boolean])[] = [
  [4, '10.9.1.2', 7001, true],
  [4, '10.9.1.2', 7002, true],
  [4, '10.9.1.2', 7003, false],
  [6, 'fd00:9::2', 7004, true],
];

type Sent = readonly [flow: number, base64: string];

const ending: (() => unknown)[] = [];
live.after(async () => {
  for (const end of ending.reverse()) await end();
});

async function place(name: string, host: number): Promise<HeldNamespace> {
  const space = await holdNamespace();
  ending.push(() => space.close());
  const pid = /\d+/.exec(space.path)![0];
  const own = spawnSync('ip', ['link', 'set', name, 'netns', pid], { encoding: 'utf8' });
  assert.is(own.status, 0, own.stderr);
  space.run('ip', 'addr', 'add', `10.9.1.${host}/24`, 'dev', name);
  space.run('ip', 'addr', 'add', `fd00:9::${host}/64`, 'dev', name, 'nodad');
  space.run('ip', 'link', 'set', name, 'up');
  return space;
}

/** Runs of one flow and one length, some datagrams shorter, some in fragments. */
function burst(random: SeededRandom): Sent[] {
  const sent: Sent[] = [];
  let flow = 0;
  let size = 18;
  while (sent.length < BURST) {
    if (random.below(12) === 0) flow = random.below(FLOWS.length);
    if (random.below(12) === 0) size = 1 + random.below(random.below(3) === 0 ? MTU_PAYLOAD - 20 : 100);
    const odd = random.below(40);
    const length = odd === 0 ? 2_000 + random.below(3_000) : odd === 1 ? 1 + random.below(size) : size;
    sent.push([flow, Buffer.from(random.fill(new Uint8Array(length))).toString('base64')]);
  }
  return sent;
}

live(
  'datagrams of every length, of several flows of both families, arrive once, in order, byte for byte',
  within(
    () =>
      seeded(async (random) => {
        const stop = new AbortController();
        const lines: string[] = [];
        const done = runMux({
          taps: ['train0', 'train1'],
          signal: stop.signal,
          print: (line) => lines.push(line),
          complain: (line) => lines.push(line),
        });
        ending.push(() => {
          stop.abort();
          return done;
        });
        const [left, right] = [await place('train0', 1), await place('train1', 2)];
        const argv = (space: HeldNamespace, what: string) => [
          ...space.enter.slice(1),
          process.execPath,
          PROGRAM,
          what,
          JSON.stringify(FLOWS),
        ];
        const receiver = spawn(right.enter[0]!, argv(right, 'receive'), {
          stdio: ['ignore', 'pipe', 'inherit'],
        });
        ending.push(() => void receiver.kill('SIGKILL'));
        const got: string[] = [];
        const output = createInterface({ input: receiver.stdout });
        await once(output, 'line');
        output.on('line', (line) => got.push(line));

        /** Sends while this process stands still, if `still`. */
        const send = async (list: readonly Sent[], still: boolean) => {
          const input = JSON.stringify(list);
          if (still) {
            const sender = spawnSync(left.enter[0]!, argv(left, 'send'), { input, encoding: 'utf8' });
            assert.is(sender.status, 0, sender.stderr);
          } else {
            const sender = spawn(left.enter[0]!, argv(left, 'send'), {
              stdio: ['pipe', 'ignore', 'inherit'],
            });
            sender.stdin.end(input);
            await once(sender, 'exit');
          }
          await eventually('every datagram', () => got.length >= list.length, 20_000);
          const seen = got.splice(0);
          for (const flow of FLOWS.keys()) {
            const of = (all: readonly string[]) => all.filter((line) => line.startsWith(`${flow} `));
            const expected = of(list.map(([which, base64]) => `${which} ${base64}`));
            // Not assert.equal: what it prints of a difference would be megabytes.
            assert.ok(
              of(seen).join() === expected.join(),
              `flow ${flow}: ${of(seen).length} of ${expected.length}`,
            );
          }
          return list.length;
        };
        const packets = () => {
          const shown = JSON.parse(right.run('ip', '-s', '-j', 'link', 'show', 'train1')) as [
            { stats64: { rx: { packets: number } } },
          ];
          return shown[0].stats64.rx.packets;
        };

        const each = FLOWS.map((_, flow): Sent => [flow, 'AA==']);
        await send(each, false);
        // Each length, without and with a queue.
        const before = packets();
        let count = 0;
        for (let from = 1; from <= MTU_PAYLOAD; from += BURST * 4) {
          const all = Array.from({ length: BURST }, (_, i): Sent => {
            const length = Math.min(MTU_PAYLOAD, from + 4 * i + random.below(4));
            return [0, Buffer.alloc(length, length).toString('base64')];
          });
          count += await send(all, true);
        }
        for (let round = 0; round < ROUNDS; round++) count += await send(burst(random as SeededRandom), true);
        const arrived = packets() - before;
        console.log(`${count} datagrams in ${arrived} packets of the receiver's kernel`);
        assert.ok(arrived < 0.8 * count, `hardly any trains: ${arrived} packets`);
      }),
    SOAK ? 600_000 : 60_000,
  ),
);

live.run();
