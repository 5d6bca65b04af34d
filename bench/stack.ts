/** M4, M5, M6: ordinary Node programs on our TCP/IP stack behind a TAP, against the same programs on the kernel's behind a veth, and lwIP. */
import { join } from 'node:path';
import { messageOf } from '../src/common/index.ts';
import type { Bench, Contender, NetworkNamespace, Stage, Subject } from './framework/index.ts';
import { CHANGEOVER, compiled, ip, missing, NODE, onStage, PROGRAMS } from './framework/index.ts';

const OURS = 'changeover stack';
const KERNEL = 'kernel TCP';
const SLIRP = 'slirp4netns';
const LWIP = 'lwIP in C';
const TCPIP_JS = 'tcpip.js';
const TCPIP_JS_ABSENT = 'the package registry used here does not have it';
const OUR_ADDRESS = '10.79.1.2';
const MUX_ADDRESS = '10.79.3.2';
const MUX_MAC = '02:00:0a:4f:03:02';
const KERNEL_ADDRESS = '10.79.2.2';
const LWIP_ADDRESS = '10.79.4.2';
/** The host, as slirp4netns shows it to a namespace. */
const SLIRP_ADDRESS = '10.0.2.2';
const WRK_CONNECTIONS = 32;
const KIB = 1024;

export const stackSubject: Subject = {
  ids: ['M4', 'M5', 'M6'],
  async run(bench) {
    if (bench.wants('M4')) await onStage((stage) => bulk(bench, stage));
    if (bench.wants('M5') || bench.wants('M6')) await onStage((stage) => http(bench, stage));
    if (bench.wants('M6')) await onStage((stage) => idle(bench, stage));
  },
};

async function bulk(bench: Bench, stage: Stage): Promise<void> {
  await bothServe(stage, 'bulk-server.mjs');
  const client = (host: string, direction: string) => [
    ...NODE,
    join(PROGRAMS, 'bulk-client.mjs'),
    host,
    direction,
    String(bench.seconds),
  ];
  await servesBehindMux(bench, stage);
  const slirp = await slirpNamespace(stage).catch(messageOf);
  const lwip = await lwipServes(bench, stage).catch(messageOf);
  for (const direction of ['out', 'in'] as const) {
    const bitsPerSecond = async (host: string, space?: NetworkNamespace) =>
      8 * Number(await stage.run(client(host, direction), { in: space }));
    // One sample of a peer stands beside both of ours.
    const peer = (name: string, host: string, absent: string | undefined, space?: NetworkNamespace) =>
      absent !== undefined
        ? { name, absent }
        : {
            name,
            async sample() {
              const theirs = await bitsPerSecond(host, space);
              return [theirs, theirs];
            },
          };
    const goals = { [SLIRP]: 1.5, [LWIP]: 1.5 };
    await bench.race({
      id: 'M4',
      figures: [
        { what: `bulk TCP ${direction}, one connection`, unit: 'bitsPerSecond', better: 'more', goals },
        { what: `bulk TCP ${direction} through mux and port`, unit: 'bitsPerSecond', better: 'more', goals },
      ],
      ours: {
        name: OURS,
        sample: async () => [await bitsPerSecond(OUR_ADDRESS), await bitsPerSecond(MUX_ADDRESS)],
      },
      peers: [
        typeof slirp === 'string'
          ? peer(SLIRP, SLIRP_ADDRESS, slirp)
          : peer(SLIRP, SLIRP_ADDRESS, undefined, slirp),
        peer(LWIP, LWIP_ADDRESS, lwip),
        { name: TCPIP_JS, absent: TCPIP_JS_ABSENT },
        peer(KERNEL, KERNEL_ADDRESS, undefined),
      ],
    });
  }
}

async function http(bench: Bench, stage: Stage): Promise<void> {
  const lacking = missing('wrk');
  if (lacking !== undefined) {
    for (const id of ['M5', 'M6']) if (bench.wants(id)) bench.skip(id, lacking);
    return;
  }
  await bothServe(stage, 'http-app.mjs');
  const lwip = await lwipServes(bench, stage).catch(messageOf);
  const wrk = (name: string, host: string, ...options: string[]): Contender => ({
    name,
    async sample() {
      const output = await stage.run([
        ...['wrk', '--threads', '1', '--connections', String(WRK_CONNECTIONS)],
        ...['--duration', `${bench.seconds}s`, ...options, `http://${host}/`],
      ]);
      const faults = /(Socket errors|Non-2xx).*/.exec(output);
      if (faults !== null) throw new Error(`wrk: ${faults[0]}`);
      return [Number(/Requests\/sec:\s+([\d.]+)/.exec(output)?.[1])];
    },
  });
  await bench.race({
    id: 'M5',
    figures: [
      {
        what: `node:http, ${WRK_CONNECTIONS} connections, requests`,
        unit: 'perSecond',
        better: 'more',
        goals: { [KERNEL]: 0.7 },
      },
    ],
    ours: wrk(OURS, OUR_ADDRESS),
    peers: [
      wrk(KERNEL, KERNEL_ADDRESS),
      lwip === undefined
        ? wrk(`${LWIP}, a fixed answer`, LWIP_ADDRESS)
        : { name: `${LWIP}, a fixed answer`, absent: lwip },
      { name: TCPIP_JS, absent: TCPIP_JS_ABSENT },
    ],
  });
  const closing = ['--header', 'Connection: close'];
  await bench.race({
    id: 'M6',
    figures: [
      {
        what: 'node:http, a connection for each request',
        unit: 'perSecond',
        better: 'more',
        goals: { [KERNEL]: 0.5 },
      },
    ],
    ours: wrk(OURS, OUR_ADDRESS, ...closing),
    peers: [wrk(KERNEL, KERNEL_ADDRESS, ...closing)],
  });
}

/** The kernel's part of a connection is not in the process's memory: what ours costs more there is the stack's. */
async function idle(bench: Bench, stage: Stage): Promise<void> {
  await bothServe(stage, 'bulk-server.mjs');
  const count = bench.quick ? 2_000 : 10_000;
  const each = async (host: string) =>
    Number(await stage.run([...NODE, join(PROGRAMS, 'idle-client.mjs'), host, String(count)]));
  await bench.race({
    id: 'M6',
    rounds: 1,
    figures: [
      { what: `memory of each of ${count} idle connections`, unit: 'bytes', better: 'less' },
      { what: '… beyond that of a kernel socket in Node', unit: 'bytes', better: 'less', limit: 8 * KIB },
    ],
    ours: {
      name: OURS,
      async sample() {
        const ours = await each(OUR_ADDRESS);
        return [ours, ours - (await each(KERNEL_ADDRESS))];
      },
    },
  });
}

/** The same program twice: on our stack, and on the kernel's in a namespace of its own. */
async function bothServe(stage: Stage, program: string): Promise<void> {
  const path = join(PROGRAMS, program);
  const argv = [...CHANGEOVER, 'stack', '--tap', 'stack0', '--address', `${OUR_ADDRESS}/24`, path];
  await stage.start(argv, { ready: /listening on/ });
  ip(undefined, 'addr add 10.79.1.1/24 dev stack0');
  ip(undefined, 'link set stack0 up');
  const space = await stage.namespace();
  ip(undefined, `link add kernel0 type veth peer name kernel1 netns ${space.pid}`);
  ip(undefined, 'addr add 10.79.2.1/24 dev kernel0');
  ip(undefined, 'link set kernel0 up');
  ip(space, `addr add ${KERNEL_ADDRESS}/24 dev kernel1`);
  ip(space, 'link set kernel1 up');
  await stage.start([...NODE, path], { in: space, ready: /ready/ });
  // slirp4netns leads to the host's loopback: the program there is the kernel's too.
  if (program === 'bulk-server.mjs') await stage.start([...NODE, path], { ready: /ready/ });
}

/** The bulk server as a partition has it: TAP, mux, port, stack. */
async function servesBehindMux(bench: Bench, stage: Stage): Promise<void> {
  const socket = join(bench.scratch, 'port.sock');
  const mux = [...NODE, join(PROGRAMS, 'port-mux.ts'), 'uplink0', socket, MUX_MAC, MUX_ADDRESS];
  await stage.start(mux, { ready: /ready/ });
  ip(undefined, 'addr add 10.79.3.1/24 dev uplink0');
  ip(undefined, 'link set uplink0 up');
  const server = join(PROGRAMS, 'bulk-server.mjs');
  const stack = [...NODE, join(PROGRAMS, 'port-stack.ts'), socket, MUX_MAC, MUX_ADDRESS, server];
  await stage.start(stack, { ready: /ready|listening/ });
}

/** lwIP behind a TAP, with the bulk server's and the HTTP application's ports. */
async function lwipServes(bench: Bench, stage: Stage): Promise<undefined> {
  const program = compiled('lwip-server.c', bench.scratch, ['-I/usr/include/lwip', '-llwip']);
  await stage.start([program, 'lwip0', LWIP_ADDRESS, '255.255.255.0'], { ready: /ready/ });
  ip(undefined, 'addr add 10.79.4.1/24 dev lwip0');
  ip(undefined, 'link set lwip0 up');
}

async function slirpNamespace(stage: Stage): Promise<NetworkNamespace> {
  const lacking = missing('slirp4netns');
  if (lacking !== undefined) throw new Error(lacking);
  const space = await stage.namespace();
  const argv = ['slirp4netns', '--configure', '--mtu=65520', String(space.pid), 'tap0'];
  await stage.start(argv, { ready: /sent tapfd|received tapfd/ });
  return space;
}
