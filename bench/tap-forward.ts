/**
 * Throughput of a bare forwarder between two TAPs: `unshare --net $(tools/find-node) bench/tap-forward.ts [--plain] [--seconds N] [--capture FILE]`.
 * iperf3 runs in two network namespaces; this process only copies packets from one TapLink to the other. Needs root, iperf3.
 */
import { spawn, spawnSync } from 'node:child_process';
import { parseArgs } from 'node:util';
import type { LinkDevice } from '../src/netstack/index.ts';
import { CaptureLink, PcapngWriter, TapLink } from '../src/netstack/index.ts';
import { holdNamespace } from '../test/support/index.ts';

const { values } = parseArgs({
  options: {
    plain: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '3' },
    capture: { type: 'string' },
  },
});

const offload = !values.plain;
const [left, right] = [await holdNamespace(), await holdNamespace()];
const a = new TapLink({ name: 'forward0', netns: left.path, ipv4: '10.77.0.1/24', offload });
const b = new TapLink({ name: 'forward1', netns: right.path, ipv4: '10.77.0.2/24', offload });
const writer = values.capture === undefined ? undefined : PcapngWriter.create(values.capture);
let refused = 0;

function forward(from: LinkDevice, to: LinkDevice): void {
  from.attach({
    receive: (buffer, offset, length) => {
      if (!to.transmit(buffer, offset, length)) refused++;
    },
    endOfBatch: () => to.flush(),
    writable: () => {},
  });
}

const ends: [LinkDevice, LinkDevice] = writer === undefined ? [a, b] : [new CaptureLink(a, writer), b];
forward(ends[0], ends[1]);
forward(ends[1], ends[0]);

const started = spawnSync(right.enter[0]!, [
  ...right.enter.slice(1),
  'iperf3',
  '--server',
  '--one-off',
  '--daemon',
]);
if (started.status !== 0) throw new Error(`iperf3 --server: ${started.stderr}`);
const client = spawn(
  left.enter[0]!,
  [...left.enter.slice(1), 'iperf3', '--json', '--client', '10.77.0.2', '--time', values.seconds],
  { stdio: ['ignore', 'pipe', 'inherit'] },
);
let output = '';
client.stdout.on('data', (chunk) => {
  output += chunk;
});
client.on('close', async () => {
  const { end } = JSON.parse(output);
  const gbps = (end?.sum_received?.bits_per_second ?? 0) / 1e9;
  const { received, droppedKernel, droppedRejected, droppedSize } = a.counters;
  console.log(
    JSON.stringify({
      offload,
      gigabitsPerSecond: Number(gbps.toFixed(2)),
      retransmits: end?.sum_sent?.retransmits,
      packets: received,
      meanPacketBytes: Math.round(a.device.counters().rxBytes / Math.max(1, received)),
      refused,
      dropped: droppedKernel + droppedRejected + droppedSize,
      ...(writer === undefined ? {} : { capture: await writer.close() }),
    }),
  );
  for (const thing of [a, b, left, right]) thing.close();
});
