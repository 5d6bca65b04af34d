/** Flows as commands name them, and as the flow table has them. */
import type { FlowName } from '../../channel/index.ts';
import type { IpAddress, Ipv4Address } from '../../netstack/index.ts';
import { formatIpv4, ipAddress, PROTOCOL } from '../../netstack/index.ts';
import type { FlowTable } from './flow-table.ts';
import { MuxError } from './mux-error.ts';
import type { ServiceAddress } from './state.ts';

export interface FlowKey {
  readonly remote: number;
  readonly ports: number;
  readonly protocol: number;
}

/** Throws AddressError, MuxError `not-supported`. */
export function ipv4Of(text: string): Ipv4Address {
  const address: IpAddress = ipAddress(text);
  if (typeof address === 'number') return address;
  throw new MuxError('not-supported', `${text}: service addresses are IPv4 so far`, {
    remedy: 'use an IPv4 address',
    values: { address: text },
  });
}

export class FlowNames {
  readonly #flows: FlowTable;

  constructor(flows: FlowTable) {
    this.#flows = flows;
  }

  /** Throws `bad-argument` for a flow of another address. */
  key(service: ServiceAddress, name: FlowName): FlowKey {
    if (ipAddress(name.localAddress) !== service.ip && !this.#isSecond(service, name.localAddress)) {
      throw new MuxError('bad-argument', `a flow of ${name.localAddress} is none of ${service.text}`, {
        values: { flow: name },
      });
    }
    return {
      remote: ipv4Of(name.remoteAddress) | 0,
      ports: (name.localPort << 16) | (name.remotePort & 0xffff),
      protocol: name.protocol === 'tcp' ? PROTOCOL.TCP : PROTOCOL.UDP,
    };
  }

  /** The old partition may name its flows by the address that it has altered to. */
  #isSecond(service: ServiceAddress, text: string): boolean {
    const address = ipAddress(text);
    return service.notices.some((notice) => notice.change.second === address);
  }

  /** As `keyOf` has them. */
  keys(service: ServiceAddress, names: readonly FlowName[]): Set<string> {
    return new Set(
      names.map((name) => {
        const { remote, ports, protocol } = this.key(service, name);
        return `${remote} ${ports} ${protocol}`;
      }),
    );
  }

  /** The flow, recorded now if it was not: a partition that names it has it open. */
  know(service: ServiceAddress, key: FlowKey, nowMs: number): number {
    const flows = this.#flows;
    const found = flows.find(service.address, key.remote, key.ports, key.protocol);
    if (found >= 0) return found;
    const flow = flows.insert(service.address, key.remote, key.ports, key.protocol, false, nowMs);
    if (flow >= 0) flows.markEstablished(flow);
    return flow;
  }

  /** Undefined for ICMP echo, which has no name of this form. */
  name(flow: number): FlowName | undefined {
    const flows = this.#flows;
    const protocol = flows.protocol[flow]!;
    if (protocol !== PROTOCOL.TCP && protocol !== PROTOCOL.UDP) return undefined;
    const ports = flows.ports[flow]!;
    return {
      protocol: protocol === PROTOCOL.TCP ? 'tcp' : 'udp',
      localAddress: formatIpv4((flows.local[flow]! >>> 0) as Ipv4Address),
      localPort: ports >>> 16,
      remoteAddress: formatIpv4((flows.remote[flow]! >>> 0) as Ipv4Address),
      remotePort: ports & 0xffff,
    };
  }

  /** A flow's key as text. */
  keyOf(flow: number): string {
    const flows = this.#flows;
    return `${flows.remote[flow]} ${flows.ports[flow]} ${flows.protocol[flow]}`;
  }
}
