/** What the mux counts, for people and for a Prometheus server; limits of ports while they run. */
import type { Channel } from '../../channel/index.ts';
import type { MuxCommands, MuxEvents, PortLimits, PortStatus } from '../../hypervisor/index.ts';
import type { StackFigures } from '../../netstack/index.ts';

type Counters = MuxCommands['counters']['result'];

export interface NetworkView {
  readonly ports: readonly PortStatus[];
  readonly counters: Counters;
}

/** What the stack of a partition tells about itself. */
export type PartitionFigures = { readonly partition: string } & StackFigures;

export class Network {
  readonly #mux: Pick<Channel<MuxCommands, MuxEvents>, 'execute'>;
  readonly #partitions: () => Promise<readonly PartitionFigures[]>;

  /** `partitions`: figures of those that run. */
  constructor(
    mux: Pick<Channel<MuxCommands, MuxEvents>, 'execute'>,
    partitions: () => Promise<readonly PartitionFigures[]>,
  ) {
    this.#mux = mux;
    this.#partitions = partitions;
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
    const [view, partitions] = await Promise.all([this.view(), this.#partitions()]);
    return metricsText(view) + partitionMetrics(partitions);
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

/** Of partitions' stacks. Single connections come and go: they are at `/partitions/{id}/network`, not here. */
export function partitionMetrics(partitions: readonly PartitionFigures[]): string {
  const each = (
    label: string,
    of: (figures: PartitionFigures) => Readonly<Record<string, number>>,
  ): Sample[] =>
    partitions.flatMap((figures) =>
      Object.entries(of(figures)).map(
        ([name, count]): Sample => [{ partition: figures.partition, [label]: name }, count],
      ),
    );
  const one = (of: (figures: PartitionFigures) => number): Sample[] =>
    partitions.map((figures) => [{ partition: figures.partition }, of(figures)]);
  const stack = (name: string, type: 'counter' | 'gauge', help: string, samples: readonly Sample[]) =>
    family(name, type, help, samples, 'changeover_partition_');
  return [
    stack(
      'connections',
      'gauge',
      'TCP connections by state.',
      each('state', ({ states }) => states),
    ),
    stack(
      'tcp_total',
      'counter',
      'What the TCP of the stack counts.',
      each('counter', ({ tcp }) => tcp),
    ),
    stack(
      'received_packets_total',
      'counter',
      'IP packets that came.',
      one(({ ip }) => ip.received),
    ),
    stack(
      'accepted_packets_total',
      'counter',
      'IP packets that were for it.',
      one(({ ip }) => ip.accepted),
    ),
    stack(
      'drops_total',
      'counter',
      'Packets not accepted, by reason.',
      each('reason', ({ drops }) => drops),
    ),
  ].join('');
}

function up(port: PortStatus): number {
  return port.state === 'attached' ? 1 : 0;
}

function family(
  name: string,
  type: 'counter' | 'gauge',
  help: string,
  samples: readonly Sample[],
  prefix = 'changeover_mux_',
): string {
  const full = `${prefix}${name}`;
  const lines = samples.map(([labels, value]) => `${full}${labelText(labels)} ${value}\n`);
  return `# HELP ${full} ${help}\n# TYPE ${full} ${type}\n${lines.join('')}`;
}

function labelText(labels: Labels): string {
  const pairs = Object.entries(labels).map(
    ([key, value]) => `${key}="${value.replace(/[\\"\n]/g, (c) => (c === '\n' ? '\\n' : `\\${c}`))}"`,
  );
  return pairs.length === 0 ? '' : `{${pairs.join(',')}}`;
}
