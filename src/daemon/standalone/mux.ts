/** `changeover mux --tap A --nic B …`: joins TAP interfaces and NICs like a bridge, with offloads, until it is told to end. */
import { sentenceOf } from '../../common/index.ts';
import type { PortStatus } from '../../hypervisor/index.ts';
import { MuxServer } from '../../hypervisor/index.ts';

export interface MuxRunOptions {
  /** Names of TAP interfaces; created when absent. */
  readonly taps: readonly string[];
  /** Names of interfaces that the host has already. At least two interfaces in all. */
  readonly nics?: readonly string[];
  /** Capture into this pcapng file, one interface per TAP. */
  readonly pcap?: string;
  readonly mtu?: number;
  /** Prints what the ports count, as `lines` shows it, so often. */
  readonly stats?: { readonly everyMs: number; readonly lines: (ports: PortStatus[]) => string[] };
  /** Default true. */
  readonly offload?: boolean;
  /** Ends it; without it SIGINT and SIGTERM do. */
  readonly signal?: AbortSignal;
  /** One line per event; default: standard output and standard error. */
  readonly print?: (line: string) => void;
  readonly complain?: (line: string) => void;
}

/**
 * Forwards between the interfaces until SIGINT, SIGTERM or `signal`. They may be moved into other network namespaces
 * meanwhile (`ip link set A netns N`): this process holds them by file descriptor, not by name. Returns the exit code: 0, or
 * 1 with one sentence that says why not, 2 for wrong options.
 */
export async function runMux(options: MuxRunOptions): Promise<number> {
  const print = options.print ?? ((line: string) => void process.stdout.write(`${line}\n`));
  const complain = options.complain ?? ((line: string) => void process.stderr.write(`${line}\n`));
  const names = [...options.taps, ...(options.nics ?? [])];
  const wrong = wrongOptions(names, options.mtu);
  if (wrong !== undefined) {
    complain(`changeover mux: ${wrong}`);
    return 2;
  }
  const server = new MuxServer({
    onEvent: (name, data) => {
      if (name === 'PORT') complain(`changeover mux: ${JSON.stringify(data)}`);
    },
  });
  let code = 0;
  let timer: NodeJS.Timeout | undefined;
  try {
    for (const [i, name] of names.entries()) {
      server.addUplink({
        name,
        kind: i < options.taps.length ? 'tap' : 'nic',
        ...(options.mtu === undefined ? {} : { mtu: options.mtu }),
        ...(options.offload === undefined ? {} : { offload: options.offload }),
        ...(i === 0 ? {} : { joins: names[0]! }),
      });
    }
    if (options.pcap !== undefined) server.startCapture({ file: options.pcap, comment: 'changeover mux' });
    print(`joined ${names.join(', ')}${options.pcap === undefined ? '' : `, capturing to ${options.pcap}`}`);
    const { stats } = options;
    const show = () => {
      for (const line of stats?.lines(server.mux.ports()) ?? []) print(line);
    };
    if (stats !== undefined) timer = setInterval(show, stats.everyMs);
    await ended(options.signal);
    for (const port of server.mux.ports()) {
      const drops = Object.entries(port.drops).map(([reason, count]) => `${count} ${reason}`);
      const dropped = drops.length === 0 ? '' : `, dropped ${drops.join(', ')}`;
      print(`${port.name}: ${port.received} packets in, ${port.transmitted} out${dropped}`);
    }
  } catch (error) {
    complain(`changeover mux: ${sentenceOf(error)}`);
    code = 1;
  }
  clearInterval(timer);
  await server.close();
  return code;
}

function wrongOptions(names: readonly string[], mtu: number | undefined): string | undefined {
  if (names.length < 2) return 'give at least two interfaces with --tap and --nic';
  if (new Set(names).size < names.length) return 'an interface is named twice';
  if (mtu !== undefined && (!Number.isInteger(mtu) || mtu < 68 || mtu > 65_521)) {
    return 'the MTU of a TAP is between 68 and 65521';
  }
  return undefined;
}

function ended(signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve) => {
    if (signal !== undefined) {
      if (signal.aborted) resolve();
      signal.addEventListener('abort', () => resolve(), { once: true });
      return;
    }
    const stop = () => {
      process.off('SIGINT', stop);
      process.off('SIGTERM', stop);
      resolve();
    };
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
  });
}
