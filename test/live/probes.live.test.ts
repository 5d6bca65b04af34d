/** Scanners and hostile traffic against an application on our stack: nmap, hping3, and damaged replays of its own traffic. */
import type { ChildProcess } from 'node:child_process';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../src/common/index.ts';
import { eventually, inScratch, liveSuite, run, seeded, within } from '../support/index.ts';

const live = liveSuite('live/probes');
const here = (path: string) => fileURLToPath(new URL(path, import.meta.url));

const STACK = '10.98.0.2';
const STACK6 = 'fd98::2';
/** Not tap…: tcpreplay would make one of its own. */
const TAP = 'probe1';
const PORT = 8080;
const OPEN = [PORT, PORT + 1, PORT + 2];
const long = process.env['SOAK'] === '1';
const FRAMES = long ? 2_000_000 : 20_000;
let child: ChildProcess | undefined;
let output = '';

live.before(async () => {
  const given = {
    tap: TAP,
    address: [`${STACK}/24`, `${STACK6}/64`],
    app: here('./applications/web.mjs'),
    args: [String(PORT)],
    json: true,
  };
  child = spawn(
    process.execPath,
    ['--disable-warning=ExperimentalWarning', here('./support/stack-process.ts'), JSON.stringify(given)],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk: Buffer) => {
      output += chunk.toString();
    });
  }
  await eventually('the program is ready', () => output.includes('ready'), 30_000);
  await run('ip', ['addr', 'add', '10.98.0.1/24', 'dev', TAP]);
  await run('ip', ['-6', 'addr', 'add', 'fd98::1/64', 'dev', TAP, 'nodad']);
  await eventually('the IPv6 address is in use', () => answers(`[${STACK6}]`), 20_000);
});
live.after(() => {
  if (child?.exitCode !== null) console.error(output.slice(-3000));
  child?.kill('SIGKILL');
});

const answers = (host: string): Promise<boolean> =>
  run('curl', ['-s', '-g', '-m', '5', `http://${host}:${PORT}/`]).then(
    ({ stdout }) => stdout === 'hello\n',
    () => false,
  );

/** The stack's own figures, asked for by its signal. */
async function figures(): Promise<{
  drops: Record<string, number>;
  tcp: Record<string, number>;
  ip: { received: number; accepted: number };
}> {
  const from = output.length;
  child!.kill('SIGUSR1');
  const line = await eventually('the figures', () => /^\{.*\}$/m.exec(output.slice(from))?.[0], 20_000);
  return JSON.parse(line);
}

async function alive(): Promise<void> {
  assert.is(child!.exitCode, null, output);
  await eventually('IPv4 is answered', () => answers(STACK), 20_000);
  await eventually('IPv6 is answered', () => answers(`[${STACK6}]`), 20_000);
}

/** Ports by state, of nmap's grepable output. */
function ports(text: string, state: string): number[] {
  return [...text.matchAll(new RegExp(`(\\d+)/${state}/`, 'g'))]
    .map((match) => Number(match[1]))
    .sort((a, b) => a - b);
}

const nmap = async (...argv: string[]) =>
  (await run('nmap', ['-n', '-Pn', '--max-retries', '10', '-T4', '-oG', '-', ...argv])).stdout;

for (const [name, how] of [
  ['-sS', ['-sS', STACK]],
  ['-sT', ['-sT', STACK]],
  ['-sS -6', ['-sS', '-6', STACK6]],
  ['-sT -6', ['-sT', '-6', STACK6]],
] as const) {
  live(
    `nmap ${name} finds exactly the open ports, all others closed`,
    within(async () => {
      const found = await nmap('-p', '8000-8199', ...how);
      // Fastify was told to listen on IPv4 only.
      const open = name.includes('-6') ? [PORT, PORT + 2] : OPEN;
      assert.equal(ports(found, 'open'), open, found);
      assert.match(found, new RegExp(`Ignored State: closed \\(${200 - open.length}\\)`), found);
      await alive();
    }, 60_000),
  );
}

for (const [name, flag, wanted] of [
  // RFC 9293: a listener ignores what has neither SYN, RST nor ACK; a closed port answers by RST.
  ['FIN', '-sF', 'open|filtered'],
  ['no flags', '-sN', 'open|filtered'],
  ['FIN, PSH, URG', '-sX', 'open|filtered'],
  ['ACK', '-sA', 'unfiltered'],
] as const) {
  live(
    `nmap ${flag} (${name}): open ports ${wanted}, closed ones reset`,
    within(async () => {
      const list = `${OPEN.join(',')},9,10,11`;
      const found = await nmap(flag, '-p', list, '--max-retries', '3', STACK);
      const wanted_ = wanted === 'unfiltered' ? [...OPEN, 9, 10, 11].sort((a, b) => a - b) : OPEN;
      assert.equal(ports(found, wanted.replace('|', '\\|')), wanted_, found);
      if (wanted !== 'unfiltered') assert.equal(ports(found, 'closed'), [9, 10, 11], found);
    }, 60_000),
  );
}

live(
  'nmap -sU: closed ports are told by ICMP; -sO: exactly ICMP, TCP, UDP; -O and probing scripts leave it standing',
  within(async () => {
    const udp = await nmap('-sU', '-p', '7,9,53,123,161', STACK);
    assert.equal(ports(udp, 'closed'), [7, 9, 53, 123, 161], udp);
    const protocols = await nmap('-sO', '-p', '1,2,6,17,132', STACK);
    assert.equal(ports(protocols, 'closed'), [2, 132], protocols);
    for (const number of [1, 6, 17]) assert.match(protocols, new RegExp(`${number}/open`), protocols);
    await nmap('-O', '--max-os-tries', '1', '-p', `${PORT},9`, STACK);
    await nmap(
      ...(long ? ['-sV', '--version-light'] : []),
      '--script',
      'http-title,http-headers,http-methods',
      '-p',
      String(PORT),
      STACK,
    );
    await alive();
  }, 150_000),
);

live(
  'hping3: bad checksums, fragments, floods of every kind of flag from forged addresses; afterwards all is served',
  within(async () => {
    const hping = (...argv: string[]) =>
      run('timeout', ['1', 'hping3', '-q', '-I', TAP, ...argv, STACK]).catch(() => undefined);
    const many = ['-i', 'u200', '-c', '2000'];
    await hping('-S', '-p', String(PORT), '--rand-source', ...many);
    await hping('-F', '-P', '-U', '-p', String(PORT), '--rand-source', ...many);
    await hping('-R', '-p', String(PORT), ...many);
    await hping('-S', '-b', '-p', String(PORT), ...many);
    await hping('-2', '-p', '9', '-d', '2000', '-f', ...many);
    await hping('-1', '-d', '4000', '-f', ...many);
    await hping('-S', '-p', String(PORT), '-O', '1', ...many);
    const { drops, tcp } = await figures();
    assert.ok(drops['tcp-bad-checksum']! > 0, JSON.stringify(drops));
    assert.ok(tcp['segmentsIn']! > 1000);
    await alive();
  }, 120_000),
);

/** A pcap file of frames: what tcpreplay reads. */
function pcap(frames: readonly Buffer[]): Buffer {
  const head = Buffer.alloc(24);
  head.writeUInt32LE(0xa1b2c3d4, 0);
  head.writeUInt16LE(2, 4);
  head.writeUInt16LE(4, 6);
  head.writeUInt32LE(65_535, 16);
  head.writeUInt32LE(1, 20);
  const records = frames.map((frame) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return Buffer.concat([record, frame]);
  });
  return Buffer.concat([head, ...records]);
}

function recordsOf(file: Buffer): Buffer[] {
  const frames: Buffer[] = [];
  for (let at = 24; at + 16 <= file.length; ) {
    const length = file.readUInt32LE(at + 8);
    frames.push(file.subarray(at + 16, at + 16 + length));
    at += 16 + length;
  }
  return frames;
}

function damaged(random: SeededRandom, frame: Buffer): Buffer {
  const copy = Buffer.from(frame);
  for (let n = random.below(4); n > 0; n--)
    copy[12 + random.below(Math.min(copy.length - 12, 80))] = random.below(256);
  return random.below(8) === 0 ? copy.subarray(0, Math.max(15, random.below(copy.length + 1))) : copy;
}

live(
  `tcpreplay: ${FRAMES} frames, its own traffic replayed and damaged, at full speed; every frame is counted, all is served`,
  within(
    () =>
      seeded((random) =>
        inScratch(async (directory) => {
          const taken = join(directory, 'taken.pcap');
          const dump = spawn('dumpcap', ['-q', '-P', '-i', TAP, '-w', taken], { stdio: 'ignore' });
          const dumped = once(dump, 'close');
          // It says that it captures before it does: there is traffic until enough has been written.
          const soFar = () => (existsSync(taken) ? recordsOf(readFileSync(taken)) : []);
          await eventually(
            'a capture of its own traffic',
            async () => {
              for (const host of [STACK, `[${STACK6}]`]) await answers(host);
              await run('ping', ['-c', '2', '-i', '0.2', '-s', '3000', STACK]);
              await run('ping', ['-6', '-c', '2', '-i', '0.2', STACK6]);
              return soFar().length > 40;
            },
            30_000,
          ).finally(() => dump.kill('SIGINT'));
          await dumped;
          const frames = soFar();
          const hostile: Buffer[] = [];
          for (let n = 0; n < Math.min(FRAMES, 20_000); n++)
            hostile.push(damaged(random, frames[random.below(frames.length)]!));
          const file = join(directory, 'hostile.pcap');
          writeFileSync(file, pcap(hostile));
          const before = await figures();
          await run('tcpreplay', [
            '-q',
            '-t',
            '-i',
            TAP,
            '-l',
            String(Math.ceil(FRAMES / hostile.length)),
            file,
          ]);
          await alive();
          const after = await figures();
          const dropped = (of: typeof after) =>
            Object.values(of.drops).reduce((sum, count) => sum + count, 0);
          assert.is(after.ip.received, after.ip.accepted + dropped(after), JSON.stringify(after.drops));
          assert.ok(after.ip.received - before.ip.received > FRAMES / 4, 'most of them came through the TAP');
          console.log(
            `${after.ip.received - before.ip.received} frames, dropped by ${Object.keys(after.drops).length} reasons`,
          );
        }),
      ),
    long ? 600_000 : 120_000,
  ),
);

live.run();
