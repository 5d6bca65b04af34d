/** Flows as commands name them, and as the flow table has them. */
import type { FlowName } from '../../channel/index.ts';
import type { IpAddress } from '../../netstack/index.ts';
import { formatIpAddress, ipAddress, PROTOCOL } from '../../netstack/index.ts';
import { type AddressKeys, isIpv6Key, NOBODY } from './address-keys.ts';
import type { FlowTable } from './flow-table.ts';
import { MuxError } from './mux-error.ts';
import type { ServiceAddress } from './state.ts';

export interface FlowKey {
  readonly remote: IpAddress;
  readonly ports: number;
  readonly protocol: number;
}

export class FlowNames {
  readonly #flows: FlowTable;
  readonly #addresses: AddressKeys;

  constructor(flows: FlowTable, addresses: AddressKeys) {
    this.#flows = flows;
    this.#addresses = addresses;
  }

  /** Throws `bad-argument` for a flow of another address. */
  key(service: ServiceAddress, name: FlowName): FlowKey {
    if (ipAddress(name.localAddress) !== service.ip && !this.#isSecond(service, name.localAddress)) {
      throw new MuxError('bad-argument', `a flow of ${name.localAddress} is none of ${service.text}`, {
        values: { flow: name },
      });
    }
    const remote = ipAddress(name.remoteAddress);
    if (typeof remote !== typeof service.ip) {
      throw new MuxError('bad-argument', `${name.remoteAddress} cannot be a peer of ${service.text}`, {
        values: { flow: name },
      });
    }
    return {
      remote,
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
        return `${this.#addresses.lookUp(remote)} ${ports} ${protocol}`;
      }),
    );
  }

  /** The flow, recorded now if it was not: a partition that names it has it open. */
  know(service: ServiceAddress, key: FlowKey, nowMs: number): number {
    const flows = this.#flows;
    const { ports, protocol } = key;
    const found = flows.find(service.address, this.#addresses.lookUp(key.remote), ports, protocol);
    if (found >= 0) return found;
    const remote = this.#addresses.addAddress(key.remote);
    if (remote === NOBODY && isIpv6Key(service.address)) return -1;
    const flow = flows.insert(service.address, remote, ports, protocol, false, nowMs);
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
      localAddress: formatIpAddress(this.#addresses.addressOf(flows.local[flow]!)),
      localPort: ports >>> 16,
      remoteAddress: formatIpAddress(this.#addresses.addressOf(flows.remote[flow]!)),
      remotePort: ports & 0xffff,
    };
  }

  /** A flow's key as text. */
  keyOf(flow: number): string {
    const flows = this.#flows;
    return `${flows.remote[flow]} ${flows.ports[flow]} ${flows.protocol[flow]}`;
  }
}
