/** What Wireshark's experts say of a changeover's capture, view by view; and what of it is not truly there. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { splitCapture } from '../../../src/netstack/index.ts';
import { run } from '../../support/index.ts';
import type { Site } from './site.ts';

const FIELDS = [
  ...['frame.number', 'ip.src', 'ip.dst', 'ip.id', 'ipv6.src', 'ipv6.dst', 'tcp.srcport', 'tcp.dstport'],
  ...['tcp.seq_raw', 'tcp.len', 'tcp.flags', 'tcp.options.timestamp.tsval', '_ws.expert.message'],
];
/** Never there: we do not write such packets, and clients do not send them. */
const WRONG = /checksum|malformed|dissector bug|bogus|illegal|exceeds|mismatch|cut short/i;
/** At the uplinks, together, everything passes. */
const MISSING = /not captured|wasn't captured|unseen segment|out-of-order/i;
const RETRANSMISSION = /retransmission/i;

/** Every capture of the site's runs; fails when something was flagged that is not there, or when there are fewer captures. */
export async function askExperts(site: Site, atLeast: number): Promise<void> {
  const folder = join(site.scene.stateDirectory, 'evidence');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    name.endsWith('.pcapng'),
  );
  const falsely: string[] = [];
  let packets = 0;
  let retransmissions = 0;
  for (const file of files) {
    const into = mkdtempSync(join(folder, 'views-'));
    try {
      const views = splitCapture(join(folder, file), into).filter(({ view }) => view !== 'probe');
      for (const { view, file: one } of views) {
        const rows = await rowsOf(one);
        packets += rows.length;
        const found = judge(rows, view === 'clients');
        retransmissions += found.retransmissions;
        falsely.push(...found.falsely.map((line) => `${file}, ${view}: ${line}`));
      }
    } finally {
      rmSync(into, { recursive: true, force: true });
    }
  }
  console.log(
    `Wireshark's experts: ${files.length} captures, ${packets} packets, ${retransmissions} retransmissions that were sent`,
  );
  assert.ok(
    files.length >= atLeast && packets >= 100 * atLeast,
    `${files.length} captures, ${packets} packets`,
  );
  assert.equal(falsely, []);
}

type Row = Readonly<Record<string, string>>;

async function rowsOf(file: string): Promise<Row[]> {
  const checksums = ['tcp', 'udp', 'ip'].flatMap((protocol) => ['-o', `${protocol}.check_checksum:TRUE`]);
  const { stdout, stderr } = await run('tshark', [
    '-r',
    file,
    ...checksums,
    '-T',
    'fields',
    ...FIELDS.flatMap((field) => ['-e', field]),
  ]);
  const complaint = stderr.replace(/^Running as user .*\n/m, '').trim();
  if (complaint !== '') throw new Error(`tshark: ${complaint}`);
  return stdout
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const values = line.split('\t');
      return Object.fromEntries(FIELDS.map((field, i) => [field, values[i] ?? '']));
    });
}

/**
 * A segment that was truly sent again is another packet: its IPv4 identification differs, over IPv6 its timestamp. The same
 * packet twice in a view would be the capture's doing.
 */
function judge(rows: readonly Row[], isClients: boolean): { retransmissions: number; falsely: string[] } {
  const falsely: string[] = [];
  const seen = new Map<string, string>();
  let retransmissions = 0;
  for (const row of rows) {
    const number = row['frame.number'] ?? '';
    const said = row['_ws.expert.message'] ?? '';
    if (WRONG.test(said) || (isClients && MISSING.test(said))) falsely.push(`frame ${number}: ${said}`);
    if (RETRANSMISSION.test(said)) retransmissions++;
    if ((row['tcp.seq_raw'] ?? '') === '' || row['tcp.len'] === '0') continue;
    const { 'frame.number': _number, '_ws.expert.message': _said, ...packet } = row;
    const key = JSON.stringify(packet);
    const before = seen.get(key);
    if (before !== undefined) falsely.push(`frame ${number} is frame ${before} once more: ${said}`);
    seen.set(key, number);
  }
  return { retransmissions, falsely };
}
