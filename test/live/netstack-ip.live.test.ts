/** The stack on a real TAP, the host's kernel as its peer: echo both ways, UDP both ways, fragments both ways, ICMP errors. */
import { spawn } from 'node:child_process';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../src/common/index.ts';
import {
  cidr,
  ipv4Address,
  macAddress,
  Stack,
  TapLink,
  type UdpDatagram,
  type UdpIcmpError,
} from '../../src/netstack/index.ts';
import { eventually, liveSuite, seeded, within } from '../support/index.ts';

const HOST = '10.91.0.1';
const OURS = '10.91.0.2';

async function run(command: string, ...argv: string[]): Promise<{ code: number; output: string }> {
  const child = spawn(command, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  const add = (chunk: Buffer) => {
    output += chunk.toString();
  };
  child.stdout.on('data', add);
  child.stderr.on('data', add);
  const [code] = (await once(child, 'close')) as [number];
  return { code, output };
}

async function kernelSocket(port: number): Promise<Socket> {
  const socket = createSocket('udp4');
  socket.bind(port, HOST);
  await once(socket, 'listening');
  return socket;
}

for (const offload of [true, false]) {
  const live = liveSuite(`live/netstack-ip, offload ${offload ? 'on' : 'off'}`);
  let link: TapLink;
  let stack: Stack;

  live.before(() => {
    link = new TapLink({ name: 'ipt0', ipv4: `${HOST}/24`, offload });
    stack = new Stack({
      clock: systemClock,
      random: systemRandom,
      link,
      mac: macAddress('02:00:00:00:91:02'),
      addresses: [cidr(`${OURS}/24`)],
      gateway: ipv4Address(HOST),
    });
  });
  live.after(() => link.close());

  live(
    'the host pings: small, and 20 000 bytes in fragments',
    within(async () => {
      const small = await run('ping', '-c', '3', '-i', '0.1', '-W', '2', OURS);
      assert.match(small.output, /3 received/);
      const big = await run('ping', '-c', '3', '-i', '0.1', '-W', '2', '-s', '20000', OURS);
      assert.match(big.output, /3 received/, JSON.stringify(stack.ip.drops.snapshot()));
    }),
  );

  live(
    'we ping the host: small, and 20 000 bytes in fragments',
    within(async () => {
      for (const size of [56, 20_000]) {
        const { rttMs } = await stack.ip.icmp.ping(ipv4Address(HOST), size);
        assert.ok(rttMs < 1_000);
      }
    }),
  );

  live(
    'UDP from the kernel is echoed by us, up to the largest datagram',
    within(() =>
      seeded(async (random) => {
        const server = stack.udp.open({ port: 7 });
        server.onDatagram = ({ payload, source, sourcePort }) =>
          void server.send(payload, source, sourcePort);
        const client = await kernelSocket(0);
        for (const size of [0, 1, 1472, 1473, 9_001, 65_507]) {
          const payload = random.fill(new Uint8Array(size));
          const answer = once(client, 'message');
          client.send(payload, 7, OURS);
          const [bytes] = (await answer) as [Buffer];
          assert.ok(Buffer.compare(bytes, payload) === 0, `${size} bytes`);
        }
        client.close();
        server.close();
      }),
    ),
  );

  live(
    'UDP from us is echoed by the kernel, up to the largest datagram',
    within(() =>
      seeded(async (random) => {
        const server = await kernelSocket(0);
        server.on('message', (bytes, { port, address }) => server.send(bytes, port, address));
        const client = stack.udp.open();
        client.connect(ipv4Address(HOST), server.address().port);
        for (const size of [0, 1, 1472, 1473, 9_001, 65_507]) {
          const payload = random.fill(new Uint8Array(size));
          assert.is(client.send(payload), 'sent');
          const answer = await eventually<UdpDatagram>(`the echo of ${size} bytes`, () => client.receive());
          assert.ok(Buffer.compare(answer.payload, payload) === 0, `${size} bytes`);
        }
        server.close();
        client.close();
      }),
    ),
  );

  live(
    'a closed port of the kernel: port unreachable reaches our socket',
    within(async () => {
      const client = stack.udp.open();
      const errors: UdpIcmpError[] = [];
      client.onError = (error) => errors.push(error);
      client.send(new Uint8Array(10), ipv4Address(HOST), 9);
      await eventually('the error', () => errors.length > 0);
      assert.equal(errors[0], {
        kind: 'port-unreachable',
        destination: ipv4Address(HOST),
        destinationPort: 9,
      });
    }),
  );

  live(
    'a closed port of ours: the kernel reports ECONNREFUSED to its socket',
    within(async () => {
      const client = createSocket('udp4');
      client.connect(9, OURS);
      await once(client, 'connect');
      const refused = once(client, 'error');
      client.send('x');
      const [error] = (await refused.catch((thrown: unknown) => [thrown])) as [NodeJS.ErrnoException];
      assert.is(error.code, 'ECONNREFUSED');
      client.close();
    }),
  );

  live(
    'an announcement moves the entry of the kernel’s neighbour table',
    within(async () => {
      await run('ip', 'neigh', 'replace', OURS, 'lladdr', '02:00:00:00:91:ff', 'dev', 'ipt0', 'nud', 'stale');
      stack.ip.announce(ipv4Address(OURS));
      await eventually('the new entry', async () => {
        const { output } = await run('ip', 'neigh', 'show', OURS);
        return output.includes('02:00:00:00:91:02');
      });
    }),
  );

  live('every frame was accepted or is named', () => {
    const { received, accepted, drops } = stack.ip;
    assert.is(accepted + drops.total, received);
    for (const reason of [
      'ipv4-bad-checksum',
      'udp-bad-checksum',
      'icmp-bad-checksum',
      'link-bad-offload-header',
    ] as const) {
      assert.is(drops.of(reason), 0, reason);
    }
  });

  live.run();
}
