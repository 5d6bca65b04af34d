/**
 * IPv6 on a real TAP, the host's kernel as its peer: neighbour discovery and duplicate detection against the kernel's, echo
 * and UDP both ways up to the largest datagram, ICMPv6 errors, path MTU, TCP both ways.
 */
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import {
  type AddressInfo,
  createServer,
  connect as kernelConnect,
  type Socket as StreamSocket,
} from 'node:net';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../src/common/index.ts';
import {
  cidr,
  formatIpAddress,
  type IpAddress,
  ipAddress,
  macAddress,
  NetFace,
  Stack,
  StackServer,
  StackSocket,
  TapLink,
  type UdpDatagram,
  type UdpIcmpError,
} from '../../src/netstack/index.ts';
import { eventually, holdNamespace, liveSuite, seeded, within } from '../support/index.ts';

const HOST = 'fd91::1';
const OURS = 'fd91::2';
const FAR = 'fd92::2';
/** Echoes TCP at port 8, UDP at port 7, and says when it is ready. */
const ECHO = `
  const udp = require('dgram').createSocket('udp6');
  udp.on('message', (bytes, from) => udp.send(bytes, from.port, from.address));
  udp.bind(7, '${FAR}', () =>
    require('net').createServer((socket) => socket.pipe(socket)).listen(8, '${FAR}', () => console.log('ready')));`;
const SIZE = 8 * 1024 * 1024;
const sha = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex');

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

async function kernelSocket(): Promise<Socket> {
  const socket = createSocket('udp6');
  socket.bind(0, HOST);
  await once(socket, 'listening');
  return socket;
}

for (const offload of [true, false]) {
  const live = liveSuite(`live/netstack-ipv6, offload ${offload ? 'on' : 'off'}`);
  const duplicates: IpAddress[] = [];
  let link: TapLink;
  let stack: Stack;
  let face: NetFace;

  live.before(async () => {
    link = new TapLink({ name: 'ip6t0', offload });
    // The kernel must not wait for its own duplicate detection.
    await run('ip', '-6', 'address', 'add', `${HOST}/64`, 'dev', 'ip6t0', 'nodad');
    stack = new Stack({
      clock: systemClock,
      random: systemRandom,
      link,
      mac: macAddress('02:00:00:00:91:02'),
      addresses: [cidr(`${OURS}/64`)],
      gateway: ipAddress(HOST),
      onDuplicate: (address) => duplicates.push(address),
    });
    face = new NetFace(stack);
  });
  live.after(() => {
    face.close();
    link.close();
  });

  live(
    'our address is ours after a second; one of the kernel’s is found to be taken',
    within(async () => {
      stack.ip.addAddress(cidr(`${HOST}/64`));
      await eventually('the detection', () => stack.ip.addresses.stateOf(ipAddress(OURS)) === 'own');
      await eventually('the duplicate', () => duplicates.length > 0);
      assert.equal(duplicates.map(formatIpAddress), [HOST]);
      stack.ip.removeAddress(ipAddress(HOST));
      assert.is.not(await stack.ip.probe(ipAddress(HOST), 1, 500), undefined);
      assert.is(await stack.ip.probe(ipAddress('fd91::77'), 1, 300), undefined);
    }),
  );

  live(
    'the host pings: small, 20 000 bytes in fragments, the link-local address, all nodes',
    within(async () => {
      for (const more of [[OURS], ['-s', '20000', OURS]]) {
        const { output } = await run('ping', '-6', '-c', '3', '-i', '0.1', '-W', '2', ...more);
        assert.match(output, /3 received/, output + JSON.stringify(stack.ip.drops.snapshot()));
      }
      const linkLocal = formatIpAddress(stack.ip.addresses.linkLocal!);
      for (const address of [linkLocal, 'ff02::1']) {
        const argv = ['-6', '-c', '2', '-i', '0.1', '-W', '2', '-I', 'ip6t0', address];
        const answers = await eventually('an answer', async () => {
          const { output } = await run('ping', ...argv);
          return output.includes(`from ${linkLocal}`) ? output : undefined;
        });
        assert.match(answers, / received/);
      }
    }, 20_000),
  );

  live(
    'we ping the host: small, and 20 000 bytes in fragments',
    within(async () => {
      for (const size of [56, 20_000]) assert.ok((await stack.ip.ping(ipAddress(HOST), size)).rttMs < 1_000);
    }),
  );

  live(
    'UDP both ways, up to the largest datagram',
    within(() =>
      seeded(async (random) => {
        const ours = stack.udp.open({ port: 7 });
        ours.onDatagram = ({ payload, source, sourcePort }) => void ours.send(payload, source, sourcePort);
        const theirs = await kernelSocket();
        const sizes = [0, 1, 1452, 1453, 9_001, 65_507];
        for (const size of sizes) {
          const payload = random.fill(new Uint8Array(size));
          const answer = once(theirs, 'message');
          theirs.send(payload, 7, OURS);
          const [bytes] = (await answer) as [Buffer];
          assert.ok(Buffer.compare(bytes, payload) === 0, `${size} bytes from the kernel`);
        }
        theirs.on('message', (bytes, { port, address }) => theirs.send(bytes, port, address));
        const client = stack.udp.open();
        client.connect(ipAddress(HOST), theirs.address().port);
        for (const size of sizes) {
          const payload = random.fill(new Uint8Array(size));
          assert.is(client.send(payload), 'sent');
          const answer = await eventually<UdpDatagram>(`the echo of ${size} bytes`, () => client.receive());
          assert.ok(Buffer.compare(answer.payload, payload) === 0, `${size} bytes from us`);
        }
        theirs.close();
        client.close();
        ours.close();
      }),
    ),
  );

  live(
    'closed ports: the kernel’s error reaches our socket, ours the kernel’s',
    within(async () => {
      const client = stack.udp.open();
      const errors: UdpIcmpError[] = [];
      client.onError = (error) => errors.push(error);
      client.send(new Uint8Array(10), ipAddress(HOST), 9);
      await eventually('the error', () => errors.length > 0);
      assert.equal(errors[0], { kind: 'port-unreachable', destination: ipAddress(HOST), destinationPort: 9 });
      const theirs = createSocket('udp6');
      theirs.connect(9, OURS);
      await once(theirs, 'connect');
      const refused = once(theirs, 'error');
      theirs.send('x');
      const [error] = (await refused.catch((thrown: unknown) => [thrown])) as [NodeJS.ErrnoException];
      assert.is(error.code, 'ECONNREFUSED');
      theirs.close();
    }),
  );

  live(
    'an announcement moves the entry of the kernel’s neighbour table',
    within(async () => {
      await run(
        'ip',
        '-6',
        'neigh',
        'replace',
        OURS,
        'lladdr',
        '02:00:00:00:91:ff',
        'dev',
        'ip6t0',
        'nud',
        'stale',
      );
      stack.ip.announce(ipAddress(OURS));
      await eventually('the new entry', async () => {
        const { output } = await run('ip', '-6', 'neigh', 'show', OURS);
        return output.includes('02:00:00:00:91:02');
      });
    }),
  );

  live(
    'curl fetches http://[…]/ from a server on any address',
    within(async () => {
      const server = new StackServer(face, {}, (socket) => {
        socket.once('data', () => {
          const body = `hello ${socket.remoteAddress}`;
          socket.end(`HTTP/1.1 200 OK\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`);
        });
      });
      server.listenOn({ port: 80 });
      await once(server, 'listening');
      const { output } = await run('curl', '-sS', '-m', '5', `http://[${OURS}]/`);
      assert.is(output, `hello ${HOST}`);
      server.close();
    }),
  );

  live(
    '8 MiB from the kernel to us and back, as we listen and as we connect',
    within(
      () =>
        seeded(async (random) => {
          const data = Buffer.from(random.fill(new Uint8Array(SIZE)));
          const server = new StackServer(face, {}, (socket) => socket.pipe(socket));
          server.listenOn({ port: 8, host: '::' });
          await once(server, 'listening');
          assert.is(await echoed(kernelConnect({ host: OURS, port: 8 }), data), sha(data));
          server.close();

          const theirs = createServer((socket) => socket.pipe(socket));
          theirs.listen(0, HOST);
          await once(theirs, 'listening');
          const { port } = theirs.address() as AddressInfo;
          const client = face.connect(new StackSocket(), { host: HOST, port });
          assert.is(await echoed(client, data), sha(data));
          theirs.close();
          const { retransmits } = stack.tcp.counters;
          assert.ok(retransmits < 100, `${retransmits} retransmissions`);
        }),
      30_000,
    ),
  );

  live(
    'RFC 8201: a router with a narrow link behind it; TCP and UDP arrive after its packet too big',
    within(async () => {
      const far = await holdNamespace();
      const narrow = 1300;
      try {
        writeFileSync('/proc/sys/net/ipv6/conf/all/forwarding', '1');
        const [pid] = /\d+/.exec(far.path) ?? [];
        await run('ip', 'link', 'add', 'near', 'type', 'veth', 'peer', 'name', 'far', 'netns', `${pid}`);
        await run('ip', 'link', 'set', 'near', 'up', 'mtu', `${narrow}`);
        await run('ip', '-6', 'address', 'add', 'fd92::1/64', 'dev', 'near', 'nodad');
        far.run('ip', 'link', 'set', 'far', 'up');
        far.run('ip', '-6', 'address', 'add', `${FAR}/64`, 'dev', 'far', 'nodad');
        // It sends what fits, and announces what does not: only the router tells us.
        const route = [
          '-6',
          'route',
          'add',
          'default',
          'via',
          'fd92::1',
          'mtu',
          `${narrow}`,
          'advmss',
          '1440',
        ];
        far.run('ip', ...route);
        const [command = '', ...argv] = [...far.enter, process.execPath, '-e', ECHO];
        const server = spawn(command, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
        try {
          await once(server.stdout, 'data');
          const data = Buffer.alloc(200_000, 7);
          const client = face.connect(new StackSocket(), { host: FAR, port: 8 });
          assert.is(await echoed(client, data), sha(data));
          assert.is(stack.ip.pathMtu(ipAddress(FAR)), narrow);
          assert.is(stack.ip.pathMtu(ipAddress(HOST)), 1500);
          const datagram = stack.udp.open();
          assert.is(datagram.send(new Uint8Array(3_000), ipAddress(FAR), 7), 'sent');
          const answer = await eventually('the echo', () => datagram.receive());
          assert.is(answer.payload.length, 3_000);
          datagram.close();
        } finally {
          server.kill('SIGKILL');
        }
      } finally {
        far.close();
        await run('ip', 'link', 'delete', 'near');
      }
    }, 20_000),
  );

  live('every frame was accepted or is named', () => {
    const { received, accepted, drops } = stack.ip;
    assert.is(accepted + drops.total, received);
    const never = [
      'ipv6-bad-length',
      'ipv6-bad-extension',
      'ipv6-fragment-overlap',
      'udp-bad-checksum',
      'tcp-bad-checksum',
      'icmp-bad-checksum',
      'link-bad-offload-header',
      'ndp-malformed',
    ] as const;
    for (const reason of never) assert.is(drops.of(reason), 0, reason);
  });

  live.run();
}

/** Sends everything, ends, and returns the hash of what came back. */
async function echoed(socket: StreamSocket, data: Buffer): Promise<string> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  const ended = once(socket, 'end');
  await once(socket, 'connect');
  socket.end(data);
  await ended;
  return sha(Buffer.concat(chunks));
}
