/**
 * Byte-exactness under loss × reordering × duplication, both directions at once, on the virtual clock. The sample runs
 * always; `MATRIX=full` runs every combination (make soak).
 */
import { createHash } from 'node:crypto';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { CongestionName } from '../../../../src/netstack/transport/tcp/index.ts';
import { seeded, within } from '../../../support/index.ts';
import { established, Network } from './support/index.ts';

const matrix = suite('netstack/transport/tcp/matrix');
const full = process.env['MATRIX'] === 'full' || process.env['SOAK'] === '1';

interface Case {
  readonly loss: number;
  readonly reorder: number;
  readonly duplicate: number;
  readonly congestion: CongestionName;
  readonly sack: boolean;
  readonly timestamps: boolean;
  readonly gso: boolean;
  readonly receiveBuffer: number;
}

function* all(): Generator<Case> {
  for (const loss of [0, 0.01, 0.05, 0.15, 0.3])
    for (const reorder of [0, 0.1, 0.5])
      for (const duplicate of [0, 0.1])
        for (const congestion of ['cubic', 'newreno'] as const)
          for (const sack of [true, false])
            for (const timestamps of [true, false])
              for (const gso of [true, false])
                for (const receiveBuffer of [4096, 65_536, 1_048_576])
                  yield { loss, reorder, duplicate, congestion, sack, timestamps, gso, receiveBuffer };
}

const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

function run(one: Case, seed: number, bytes: number): void {
  const { congestion, sack, timestamps, receiveBuffer } = one;
  const network = new Network(seed);
  network.gso = one.gso;
  const config = { congestion, sack, timestamps, receiveBuffer, receiveBufferMax: receiveBuffer };
  const [c, s] = established(network.host('10.0.0.1', config), network.host('10.0.0.2', config));
  Object.assign(network.impairment, { loss: one.loss, reorder: one.reorder, duplicate: one.duplicate });
  const up = network.random.fill(new Uint8Array(bytes));
  const down = network.random.fill(new Uint8Array(bytes));
  c.send(up).end();
  s.send(down).end();
  const label = JSON.stringify(one);
  assert.ok(
    network.until(() => c.isClosed && s.isClosed, 24 * 3_600_000),
    `ends: ${label}`,
  );
  assert.is(c.error?.code, undefined, label);
  assert.is(s.error?.code, undefined, label);
  assert.is(s.hash, sha(up), label);
  assert.is(c.hash, sha(down), label);
}

matrix(
  full ? 'every combination is byte-exact' : 'a sample of combinations is byte-exact',
  within(
    () =>
      seeded((random, seed) => {
        const cases = [...all()];
        const chosen = full ? cases : Array.from({ length: 40 }, () => cases[random.below(cases.length)]!);
        for (const one of chosen) run(one, seed, full ? 200_000 : 60_000);
      }),
    full ? 3_600_000 : 30_000,
  ),
);

matrix.run();
