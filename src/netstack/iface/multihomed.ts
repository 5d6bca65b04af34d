/**
 * Several interfaces of one host, as the transports see them: one `IpOutput`. Strong end system model (RFC 1122 section
 * 3.3.4.2): a packet leaves by the interface that has its source address, and one that comes in is accepted only by the interface
 * that has its destination, since each interface knows its own addresses only. A host never forwards between them; what it sends
 * from one of its addresses to another takes no link.
 */
import type { IpAddress } from '../wire/index.ts';
import type { Interface } from './interface.ts';
import type { IpOutput, OutputResult } from './transport-interface.ts';
import { OUTPUT } from './transport-interface.ts';

export class Multihomed implements IpOutput {
  readonly interfaces: readonly Interface[];

  /** @param interfaces at least one; the first is preferred where the route does not decide. */
  constructor(interfaces: readonly Interface[]) {
    this.interfaces = interfaces;
    for (const one of interfaces) one.joinHost(interfaces.filter((other) => other !== one));
  }

  /** The interface on which packets to `address` are accepted. */
  interfaceOf(address: IpAddress): Interface | undefined {
    for (const one of this.interfaces) if (one.isLocal(address)) return one;
    return undefined;
  }

  output(
    buffer: Uint8Array,
    offset: number,
    length: number,
    protocol: number,
    source: IpAddress,
    destination: IpAddress,
    checksumOffset: number,
    gsoSize: number,
    dontFragment: boolean,
    ttl: number,
  ): OutputResult {
    // To another address of this host: that one's interface takes it, without a link.
    const by = this.interfaceOf(destination) ?? this.interfaceOf(source);
    if (by === undefined) return OUTPUT.NO_ROUTE;
    return by.output(
      buffer,
      offset,
      length,
      protocol,
      source,
      destination,
      checksumOffset,
      gsoSize,
      dontFragment,
      ttl,
    );
  }

  flush(): void {
    for (const one of this.interfaces) one.flush();
  }

  /** An address of the interface on whose link the destination is; else of the first one with a gateway. */
  sourceFor(destination: IpAddress): IpAddress | undefined {
    const here = this.interfaceOf(destination);
    if (here !== undefined) return here.sourceFor(destination);
    for (const one of this.interfaces)
      if (one.addresses.isOnLink(destination)) return one.sourceFor(destination);
    for (const one of this.interfaces) {
      const source = one.sourceFor(destination);
      if (source !== undefined) return source;
    }
    return undefined;
  }

  isLocal(address: IpAddress): boolean {
    return this.interfaceOf(address) !== undefined;
  }

  isBroadcast(address: IpAddress): boolean {
    for (const one of this.interfaces) if (one.isBroadcast(address)) return true;
    return false;
  }

  canonical(address: IpAddress): IpAddress {
    return this.interfaceOf(address)?.canonical(address) ?? address;
  }

  pathMtu(destination: IpAddress, source: IpAddress): number {
    return (this.interfaceOf(source) ?? this.interfaces[0]!).pathMtu(destination);
  }

  maxGsoLength(destination: IpAddress, source: IpAddress): number {
    return (this.interfaceOf(source) ?? this.interfaces[0]!).maxGsoLength(destination);
  }
}
