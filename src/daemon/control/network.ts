/** What the mux counts, for people and for a Prometheus server; limits of ports while they run. */
import type { Channel } from '../../channel/index.ts';
import type { MuxCommands, MuxEvents, PortLimits, PortStatus } from '../../hypervisor/index.ts';

type Counters = MuxCommands['counters']['result'];

export interface NetworkView {
  readonly ports: readonly PortStatus[];
  readonly counters: Counters;
}

export class Network {
  readonly #mux: Pick<Channel<MuxCommands, MuxEvents>, 'execute'>;

  constructor(mux: Pick<Channel<MuxCommands, MuxEvents>, 'execute'>) {
    this.#mux = mux;
  }

  async view(): Promise<NetworkView> {
    const [ports, counters] = await Promise.all([
      this.#mux.execute('ports', {}),
      this.#mux.execute('counters', {}),
    ]);
    return { ports, counters };
  }

  /** Until the mux is told otherwise, also by a restart of the daemon with its configuration. Throws MuxError's codes. */
  limit(name: string, limits: PortLimits | null): Promise<PortStatus> {
    return this.#mux.execute('port-limits', { name, limits });
  }

  async metrics(): Promise<string> {
    return metricsText(await this.view());
  }
}

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number];

/** Prometheus text format, version 0.0.4. */
export function metricsText({ ports, counters }: NetworkView): string {
  const { total } = counters;
  const of = (value: (port: PortStatus) => number): Sample[] =>
    ports.map((port) => [{ port: port.name, role: port.role, kind: port.kind }, value(port)]);
  const one = (value: number): Sample[] => [[{}, value]];
  const drops = ports.flatMap((port) =>
    Object.entries(port.drops).map(([reason, count]): Sample => [{ port: port.name, reason }, count]),
  );
  return [
    family('port_up', 'gauge', 'The port is attached and its other end connected.', of(up)),
    family(
      'port_received_packets_total',
      'counter',
      'Packets that came from the port, as units of up to 64 KiB.',
      of((port) => port.received),
    ),
    family(
      'port_transmitted_packets_total',
      'counter',
      'Packets that went to the port.',
      of((p) => p.transmitted),
    ),
    family(
      'port_received_bytes_total',
      'counter',
      'Bytes of frames that came from the port.',
      of((p) => p.receivedBytes),
    ),
    family(
      'port_transmitted_bytes_total',
      'counter',
      'Bytes of frames that went to the port.',
      of((port) => port.transmittedBytes),
    ),
    family(
      'port_held_back_total',
      'counter',
      'Times that the sender was stopped by its limit.',
      of((port) => port.heldBack ?? 0),
    ),
    family('port_drops_total', 'counter', 'Packets that went no further, by reason (docs/mux.md).', drops),
    family('flows', 'gauge', 'Flows of service addresses that are known.', one(counters.flows)),
    family('rewritten_total', 'counter', 'Packets changed by a change notice.', one(total.rewritten)),
    family(
      'steered_total',
      'counter',
      'Packets that followed their flow instead of the path.',
      one(total.steered),
    ),
    family('held_total', 'counter', 'Packets that waited in a hold.', one(total.held)),
    family('held_dropped_total', 'counter', 'Packets that found no room in a hold.', one(total.heldDropped)),
    family(
      'rst_suppressed_total',
      'counter',
      'RSTs of others than the flow’s own port.',
      one(total.rstSuppressed),
    ),
  ].join('');
}

function up(port: PortStatus): number {
  return port.state === 'attached' ? 1 : 0;
}

function family(name: string, type: 'counter' | 'gauge', help: string, samples: readonly Sample[]): string {
  const full = `changeover_mux_${name}`;
  const lines = samples.map(([labels, value]) => `${full}${labelText(labels)} ${value}\n`);
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join('')}`;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([key, value]) => `${key}="${value.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`))}"`,
  );
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}
