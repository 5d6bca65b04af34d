/**
 * Which ports reach each other. A segment is one uplink, the uplinks that join it, and the ports behind them; frames never go
 * from one segment to another. The first uplink is segment 1, and so are ports that name no uplink. An uplink that is removed
 * and comes back finds the ports that were behind it.
 *
 * Two uplinks may lead to the same network outside (H7): then what one segment sends comes in again by the other uplink, as
 * from any neighbour. A probe is the product's own client: it is reached from every segment and reaches every service address,
 * and passes nothing on.
 */
import type { MacTable } from './mac-table.ts';
import { MuxError } from './mux-error.ts';
import type { PacketView } from './packet-view.ts';
import type { MuxPort, PortOptions, ServiceAddress } from './state.ts';

const DEFAULT_SEGMENT = 1;
/** A segment stands in 15 bits above half a MAC (mac-table.ts). */
const MAX_SEGMENTS = 255;

export class Segments {
  readonly #ports: ReadonlyMap<string, MuxPort>;
  /** Uplinks that join no other, those that were removed included. */
  readonly #own = new Map<string, number>();

  constructor(ports: ReadonlyMap<string, MuxPort>) {
    this.#ports = ports;
  }

  /** Segment of a port that is added. Throws `unknown-uplink`, `bad-argument`. */
  choose(options: PortOptions): number {
    const { name, role, uplink, joins } = options;
    if ((role === 'uplink' ? uplink : joins) !== undefined) {
      throw new MuxError(
        'bad-argument',
        `port ${name}: an uplink joins another one, other ports are behind one`,
        {
          remedy: 'give joins to uplinks only, and uplink to others only',
          values: { port: name },
        },
      );
    }
    if (joins !== undefined) return this.#of(joins);
    if (role !== 'uplink') return uplink === undefined ? DEFAULT_SEGMENT : this.#of(uplink);
    const segment = this.#own.get(name) ?? this.#free();
    this.#own.set(name, segment);
    return segment;
  }

  /** Throws `other-uplink` unless the port is behind `uplink` or one that joins it, `unknown-uplink`. */
  check(port: MuxPort, uplink: string | undefined): void {
    if (uplink === undefined || this.#of(uplink) === port.segment) return;
    const own = [...this.#ports.values()].filter((p) => p.isUplink && p.segment === port.segment);
    throw new MuxError('other-uplink', `port ${port.name} is not behind uplink ${uplink}`, {
      remedy: `it is behind ${own.map((p) => p.name).join(', ') || 'no uplink'}`,
      values: { port: port.name, uplink },
    });
  }

  #of(uplink: string): number {
    const port = this.#ports.get(uplink);
    const segment = port?.isUplink === true ? port.segment : this.#own.get(uplink);
    if (segment !== undefined) return segment;
    const known = [...this.#ports.values()].filter((p) => p.isUplink).map((p) => p.name);
    throw new MuxError('unknown-uplink', `there is no uplink ${uplink}`, {
      remedy: `uplinks are: ${known.join(', ') || 'none'}`,
      values: { uplink },
    });
  }

  #free(): number {
    const used = new Set(this.#own.values());
    for (let segment = DEFAULT_SEGMENT; segment <= MAX_SEGMENTS; segment++) {
      if (!used.has(segment)) return segment;
    }
    throw new MuxError('bad-argument', `there have been ${MAX_SEGMENTS} uplinks already that join no other`, {
      remedy: 'restart the mux process, or let this uplink join another one',
    });
  }
}

/**
 * Whether the packet in `view`, from `port`, comes in where the mux directs the service address: in its path's segment. When
 * it was switched from another segment, a network outside may lead to both, and sends there what is for all or for a MAC that
 * it has forgotten: then packets are taken in the segment whose port has their MAC, and those for all in the path's.
 */
export function directs(service: ServiceAddress, port: MuxPort, view: PacketView, macs: MacTable): boolean {
  const path = service.path;
  if (path === undefined || port.role === 'probe') return true;
  if (service.otherSegment === 0 || view.isGroup) return path.segment === port.segment;
  if (path.segment !== port.segment && service.otherSegment !== port.segment) return false;
  return macs.fixed(view.toHigh | port.segmentBits, view.toLow) >= 0;
}

/** Index of the port that the destination MAC of the packet in `view`, from `port`, is behind; or -1. */
export function portBehind(
  port: MuxPort,
  ports: readonly (MuxPort | undefined)[],
  view: PacketView,
  macs: MacTable,
  nowMs: number,
): number {
  if (port.role !== 'probe') return macs.find(view.toHigh | port.segmentBits, view.toLow, nowMs);
  for (let i = 0; i < ports.length; i++) {
    const other = ports[i];
    if (other === undefined || other.isUplink) continue;
    if (other.macLow === view.toLow && other.macHigh === view.toHigh) return i;
  }
  return macs.find(view.toHigh | (port.segment << 16), view.toLow, nowMs);
}
