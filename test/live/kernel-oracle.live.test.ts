/**
 * The host's kernel as oracle: the same frames into a listener of the kernel's and into our stack; the same answers must come, and
 * the programs must have seen the same. Where ours differs on purpose the case says so, and why.
 */
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../src/common/index.ts';
import { liveSuite, seeded, within } from '../support/index.ts';
import { CASES, type Case, ISN } from './support/oracle-cases.ts';
import { DATAGRAM_CASES } from './support/oracle-datagrams.ts';
import { DIFFERENCES } from './support/oracle-differences.ts';
import { describeOther, Flow, type FlowOptions, type Step } from './support/oracle-flow.ts';
import { KernelSide, OurSide, PORT, type Side } from './support/oracle-sides.ts';

const oracle = liveSuite('live/kernel-oracle');
let sides: readonly [KernelSide, OurSide] | readonly [] = [];
const MSS_1460 = Buffer.from([2, 4, 0x05, 0xb4]);
let nextPort = 20_000;
const long = process.env['SOAK'] === '1';
const SEQUENCES = long ? 50_000 : 500;
const LIMIT_MS = long ? 3_000_000 : 120_000;

oracle.before(async () => {
  sides = [await KernelSide.open(), new OurSide()];
});
oracle.after(() => {
  for (const side of sides) side.close();
});

/** One line per step, then where the host is, then what its program has seen. */
async function play(side: Side, one: Case, peerPort: number, version: 4 | 6): Promise<string[]> {
  const options: FlowOptions = { port: PORT.READ, isn: ISN, version, ...one.flow, peerPort };
  const flow = new Flow(side, options);
  const lines = one.raw === true ? ['(no handshake)'] : [await flow.open()];
  for (const step of one.steps) lines.push(await flow.step(step));
  lines.push(await flow.position());
  const seen = side.seen(peerPort);
  lines.push(seen === undefined ? 'no connection' : JSON.stringify(seen));
  // Nothing of this case may speak in the next one.
  await side.exchange(flow.frame({ flags: 'R' }));
  return lines;
}

/** Without what depends on the family or on chance. */
const general = (line: string) =>
  line.replace(/mss 14[46]0/, 'mss MSS').replace(/seq -?\d{4,}/, 'seq RANDOM');

async function compare(one: Case, version: 4 | 6): Promise<void> {
  const peerPort = nextPort++;
  const kernel = await play(sides[0]!, one, peerPort, version);
  const ours = await play(sides[1]!, one, peerPort, version);
  for (const { line, ours: here, kernel: there } of DIFFERENCES[one.name]?.lines ?? []) {
    assert.is(general(kernel[line]!), there, `the kernel, line ${line}`);
    assert.is(general(ours[line]!), here, `ours, line ${line}`);
    kernel[line] = ours[line]!;
  }
  assert.equal(ours, kernel);
}

for (const version of [4, 6] as const) {
  for (const one of CASES) {
    oracle(
      `IPv${version}: ${one.name}`,
      within(async () => {
        for (let tries = 1; ; tries++) {
          try {
            return await compare(one, version);
          } catch (error) {
            // The kernel's delayed ACK runs on real time and may fall into a later step of a slow host's.
            if (tries === 3) throw error;
          }
        }
      }),
    );
  }
}

/** Answers to frames, in words: `-` for none. */
async function answers(side: Side, frames: readonly Buffer[]): Promise<string> {
  // Connections of earlier cases may still repeat something.
  const words = (await side.exchange(...frames))
    .map(describeOther)
    .filter((word) => !/^ipv[46] 6$/.test(word));
  return words.length === 0 ? '-' : words.join(', ');
}

for (const one of DATAGRAM_CASES) {
  oracle(
    one.name,
    within(async () => {
      const frames = one.frames();
      const kernel = await answers(sides[0]!, frames);
      const ours = await answers(sides[1]!, frames);
      if (one.differs === undefined) assert.is(ours, kernel);
      else assert.equal({ ours, kernel }, { ours: one.differs.ours, kernel: one.differs.kernel });
    }),
  );
}

/** Type, code, the word behind the checksum, and the number of the quoted segment. */
const ICMP_CASES: readonly [
  name: string,
  version: 4 | 6,
  type: number,
  code: number,
  rest: number,
  seq: number,
][] = [
  ['port unreachable', 4, 3, 3, 0, 1],
  ['host unreachable', 4, 3, 1, 0, 1],
  ['protocol unreachable', 4, 3, 2, 0, 1],
  ['fragmentation needed, about 1000', 4, 3, 4, 1000, 1],
  ['fragmentation needed, about what was never sent', 4, 3, 4, 1000, 500_000],
  ['time exceeded', 4, 11, 0, 0, 1],
  ['parameter problem', 4, 12, 0, 0, 1],
  ['source quench', 4, 4, 0, 0, 1],
  ['port unreachable', 6, 1, 4, 0, 1],
  ['no route', 6, 1, 0, 0, 1],
  ['packet too big, about 1280', 6, 2, 0, 1280, 1],
  ['packet too big, about what was never sent', 6, 2, 0, 1280, 500_000],
  ['hop limit exceeded', 6, 3, 0, 0, 1],
];

for (const [name, version, type, code, rest, seq] of ICMP_CASES) {
  oracle(
    `IPv${version}: ${name}${seq > 1 ? '' : ' about data in flight'}: the connection goes on`,
    within(async () => {
      const peerPort = nextPort++;
      const results: string[] = [];
      for (const side of sides) {
        const flow = new Flow(side, { port: PORT.TALK, isn: ISN, version, peerPort, synOptions: MSS_1460 });
        await flow.open();
        const sent = flow.words(await side.exchange(flow.icmpError(type, code, rest, seq)), false);
        // How often what was too big is cut is each side's choice; that no piece is too big any more is not.
        const largest = Math.max(0, ...[...sent.matchAll(/len (\d+)/g)].map((match) => Number(match[1])));
        const again =
          largest > 0
            ? `again, ${largest <= rest - (version === 4 ? 40 : 60) ? 'fits' : largest}`
            : 'nothing';
        const after = await flow.step({ flags: 'PA', ack: 1, data: 'on', loose: true });
        results.push(
          `${again}; ${after.replace(/[^,]*len \d+(, )?/g, '') || '-'}; ${JSON.stringify(side.seen(peerPort))}`,
        );
        await side.exchange(flow.frame({ flags: 'R' }));
      }
      assert.is(results[1], results[0]);
    }),
  );
}

/** What may come on an established connection, by chance; numbers are at, near and far from those that matter. */
function randomStep(random: SeededRandom): Step {
  const flags = ['A', 'PA', 'PA', 'PA', 'PA', 'FA', 'R', 'S', 'P', 'RA', 'SA', ''][random.below(12)]!;
  const text = 'abcdefghijklmnopqrstuvwxyz'.slice(0, random.below(14));
  const near = [0, 1, 1, 1, 2, 3, 5, 8, 13, 40, -3, 0x100_0000][random.below(12)]!;
  const ack = random.below(10) === 0 ? { ack: [0, 2, 50_000, -100_000][random.below(4)]! } : {};
  return { flags, seq: near, data: /[SR]/.test(flags) ? '' : text, loose: true, ...ack };
}

async function playRandom(
  side: Side,
  isn: number,
  steps: readonly Step[],
  peerPort: number,
): Promise<string[]> {
  const flow = new Flow(side, { port: PORT.HALF, isn, version: 4, peerPort });
  await flow.open();
  const lines: string[] = [];
  for (const step of steps) lines.push(`${Object.entries(step).join(' ')} → ${await flow.step(step)}`);
  lines.push(await flow.position(), JSON.stringify(side.seen(peerPort)));
  await side.exchange(flow.frame({ flags: 'R' }));
  // A connection that came after a reset has numbers of its own.
  return lines.map((line) => line.replace(/seq (?!1\b)-?\d+/g, 'seq RANDOM'));
}

oracle(
  `${SEQUENCES} random sequences of six segments: the same answers, the same position, the same bytes`,
  within(
    () =>
      seeded(async (random) => {
        for (let n = 0; n < SEQUENCES; n++) {
          const drawn = Array.from({ length: 6 }, () => randomStep(random));
          // FIN or RST is the last: behind a FIN the kernel answers text with a reset where RFC 9293 3.10.7.4 says to ignore it.
          const last = drawn.findIndex(({ flags }) => /[FR]/.test(flags));
          const steps = last < 0 ? drawn : drawn.slice(0, last + 1);
          const isn = random.below(2) === 0 ? ISN : 0xffff_fffa;
          for (let tries = 1; ; tries++) {
            const peerPort = 30_000 + (nextPort++ % 30_000);
            const kernel = await playRandom(sides[0]!, isn, steps, peerPort);
            const ours = await playRandom(sides[1]!, isn, steps, peerPort);
            if (tries < 3 && ours.join() !== kernel.join()) continue;
            assert.equal(ours, kernel, `sequence ${n}`);
            break;
          }
        }
      }),
    LIMIT_MS,
  ),
);

oracle.run();
