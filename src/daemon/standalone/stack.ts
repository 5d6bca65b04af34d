/**
 * `changeover stack --tap NAME --address CIDR APP.mjs [args…]`: an unmodified program of Node's on our own TCP/IP stack. The
 * TAP's other side is the kernel's: give it an address of the same network and the program answers there.
 */
import { existsSync, statSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { CodedError, messageOf, sentenceOf, systemClock, systemRandom } from '../../common/index.ts';
import type { Cidr, IpAddress, LinkDevice, MacAddress } from '../../netstack/index.ts';
import {
  CaptureLink,
  formatCidr,
  formatIpAddress,
  formatMac,
  installNetOverride,
  isGroupMac,
  PcapngWriter,
  parseCidr,
  parseIpAddress,
  parseMac,
  Stack,
  TapLink,
} from '../../netstack/index.ts';
import { showStats } from './stack-stats.ts';
import { StackTrace } from './stack-trace.ts';

export interface RunStackOptions {
  readonly tap: string;
  /** The stack's address with prefix length, `10.77.0.11/24` or `fd00::11/64`; or several, of either family. */
  readonly address: string | readonly string[];
  /** The next hop out of the network; one of each family at most. */
  readonly gateway?: string | readonly string[];
  /** Default: a local one, made from the first address, so that it is the same after a restart. */
  readonly mac?: string;
  readonly mtu?: number;
  /** Capture file (pcapng), written as packets pass. */
  readonly pcap?: string;
  /** How connections change (JSON lines), written as it happens. */
  readonly trace?: string;
  /** Default true. */
  readonly offload?: boolean;
  /** The program: a module that Node can import. */
  readonly app: string;
  /** What the program finds in process.argv from index 2 on. */
  readonly args?: readonly string[];
  /** Default `node`: 127.0.0.1 stays the kernel's. */
  readonly loopback?: 'node' | 'stack';
  /** Connections and counters every second; SIGUSR1 prints them at any time. */
  readonly stats?: boolean;
  /** The figures as one JSON object per line. */
  readonly json?: boolean;
  readonly print?: (line: string) => void;
  readonly complain?: (line: string) => void;
  /** Ends it; without it SIGINT and SIGTERM do. */
  readonly signal?: AbortSignal;
}

const STATS_EVERY_MS = 1000;

class StackCommandError extends CodedError {}

interface Checked {
  readonly addresses: readonly Cidr[];
  readonly gateways: readonly IpAddress[];
  readonly mac: MacAddress;
  readonly app: string;
}

/** 02:… and the address's last four bytes. */
function macOf(address: IpAddress): MacAddress {
  const low = typeof address === 'number' ? address : Number.parseInt(address.slice(-8), 16);
  return (0x02_00_0000_0000 + low) as MacAddress;
}

function list(given: string | readonly string[] | undefined): readonly string[] {
  return given === undefined ? [] : typeof given === 'string' ? [given] : given;
}

function checkedAddress(text: string): Cidr {
  // Without its length there would be no network to send to.
  const address = text.includes('/') ? parseCidr(text) : undefined;
  if (address !== undefined) return address;
  throw new StackCommandError('BAD_ADDRESS', `${JSON.stringify(text)} is no address with prefix length`, {
    remedy: 'write it as 10.77.0.11/24 or fd00::11/64',
  });
}

function checkedGateway(text: string): IpAddress {
  const gateway = parseIpAddress(text);
  if (gateway !== undefined) return gateway;
  throw new StackCommandError('BAD_GATEWAY', `${JSON.stringify(text)} is no address`, {
    remedy: 'write it as 10.77.0.1 or fd00::1',
  });
}

function check(options: RunStackOptions): Checked {
  const addresses = list(options.address).map(checkedAddress);
  const [first] = addresses;
  if (first === undefined) {
    throw new StackCommandError('BAD_ADDRESS', 'the stack needs an address', {
      remedy: 'give one as 10.77.0.11/24',
    });
  }
  const gateways = list(options.gateway).map(checkedGateway);
  const mac = options.mac === undefined ? macOf(first.address) : parseMac(options.mac);
  if (mac === undefined || isGroupMac(mac)) {
    throw new StackCommandError('BAD_MAC', `${JSON.stringify(options.mac)} is no MAC address of a host`, {
      remedy: 'write it as 02:00:00:00:00:11',
    });
  }
  const app = resolve(options.app);
  if (!existsSync(app) || !statSync(app).isFile()) {
    throw new StackCommandError('APP_NOT_FOUND', `there is no file ${app}`, {
      remedy: 'give the path of a JavaScript module',
    });
  }
  if (process.getuid?.() !== 0) {
    throw new StackCommandError('NOT_ROOT', 'opening a TAP interface needs root', {
      remedy: 'run the command with sudo',
    });
  }
  if (!existsSync('/dev/net/tun')) {
    throw new StackCommandError('NO_TUN', 'there is no /dev/net/tun', {
      remedy: 'load the tun module: modprobe tun',
    });
  }
  return { addresses, gateways, mac, app };
}

/** An error while the program starts is the program's: its trace is what helps. */
async function load(app: string): Promise<void> {
  try {
    await import(pathToFileURL(app).href);
  } catch (cause) {
    const trace = cause instanceof Error && cause.stack !== undefined ? cause.stack : messageOf(cause);
    throw new StackCommandError('APP_FAILED', `the program ${app} failed: ${trace}`, { cause });
  }
}

function openTrace(stack: Stack, file: string): StackTrace {
  try {
    return new StackTrace(stack, file);
  } catch (cause) {
    throw new StackCommandError('TRACE_FILE', `the trace cannot be written: ${messageOf(cause)}`, {
      remedy: 'give the name of a file in a folder that exists',
      cause,
    });
  }
}

function ended(signal: AbortSignal | undefined, gone: Promise<Error>): Promise<Error | undefined> {
  return new Promise((done) => {
    void gone.then(done);
    if (signal !== undefined) {
      if (signal.aborted) done(undefined);
      signal.addEventListener('abort', () => done(undefined), { once: true });
      return;
    }
    process.once('SIGINT', () => done(undefined));
    process.once('SIGTERM', () => done(undefined));
  });
}

/**
 * Runs the program until SIGINT, SIGTERM or `signal`; peers with open connections then get a reset, as from a process that
 * was killed. Exit code 0, or 1 with one sentence that says why not.
 */
export async function runStack(options: RunStackOptions): Promise<number> {
  const print = options.print ?? ((line: string) => void process.stderr.write(`${line}\n`));
  const complain = options.complain ?? ((line: string) => void process.stderr.write(`${line}\n`));
  let link: LinkDevice | undefined;
  let writer: PcapngWriter | undefined;
  let trace: StackTrace | undefined;
  try {
    const { addresses, gateways, mac, app } = check(options);
    const shown = addresses.map(formatCidr).join(', ');
    let lost: (error: Error) => void = () => {};
    const gone = new Promise<Error>((done) => {
      lost = done;
    });
    const tap = new TapLink({
      name: options.tap,
      offload: options.offload ?? true,
      onGone: (error) => lost(error),
      ...(options.mtu === undefined ? {} : { mtu: options.mtu }),
    });
    link = tap;
    if (options.pcap !== undefined) {
      writer = PcapngWriter.create(options.pcap, {
        onStop: ({ reason }) => complain(`changeover stack: the capture has stopped: ${reason}`),
      });
      link = new CaptureLink(tap, writer);
    }
    const stack = new Stack({
      clock: systemClock,
      random: systemRandom,
      link,
      mac,
      addresses,
      gateway: gateways,
      onDuplicate: (address, holder) =>
        complain(
          `changeover stack: ${formatIpAddress(address)} is not used: ${formatMac(holder)} has it already`,
        ),
    });
    if (options.trace !== undefined) trace = openTrace(stack, options.trace);
    stack.ip.announce();
    const override = installNetOverride(stack, {
      loopback: options.loopback ?? 'node',
      onListening: (_server, port) => print(`changeover stack: listening on ${shown}, port ${port}`),
    });
    print(`changeover stack: ${shown} (${formatMac(mac)}) on ${tap.name}, mtu ${tap.mtu}`);
    const endStats = showStats(stack, {
      print,
      json: options.json ?? false,
      everyMs: options.stats === true ? STATS_EVERY_MS : undefined,
    });
    process.argv.splice(1, process.argv.length - 1, app, ...(options.args ?? []));
    try {
      await load(app);
      const reason = await ended(options.signal, gone);
      if (reason !== undefined) throw reason;
    } finally {
      endStats();
      override.uninstall();
      stack.tcp.close(true);
      stack.ip.flush();
    }
    return 0;
  } catch (error) {
    const failed = error instanceof StackCommandError && error.code === 'APP_FAILED';
    complain(`changeover stack: ${failed ? error.message : sentenceOf(error)}`);
    return 1;
  } finally {
    link?.close();
    await writer?.close();
    await trace?.close();
  }
}
