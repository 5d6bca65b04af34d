import type { DropReason, IpAddress } from '../wire/index.ts';
import { IPV4, IPV6, UDP, writeU16 } from '../wire/index.ts';
import type { Transport } from './transport-interface.ts';

/** Takes a packet in which the link joined several UDP datagrams of one size (gso_type UDP_L4) apart again. */
export class UdpSegmentation {
  #scratch: Uint8Array | undefined;

  /** The result is the last datagram's: the packet counts as one frame. */
  deliver(
    transport: Transport,
    buffer: Uint8Array,
    ip: number,
    headerLength: number,
    totalLength: number,
    source: IpAddress,
    destination: IpAddress,
    segment: number,
  ): DropReason | undefined {
    const headers = headerLength + UDP.HEADER;
    if (totalLength < headers) return 'udp-too-short';
    this.#scratch ??= new Uint8Array(IPV6.HEADER + IPV6.MAX_PAYLOAD);
    const isIpv6 = buffer[ip]! >>> 4 === 6;
    const scratch = this.#scratch;
    scratch.set(buffer.subarray(ip, ip + headers));
    let reason: DropReason | undefined;
    for (let start = headers; start < totalLength; start += segment) {
      const length = Math.min(segment, totalLength - start);
      scratch.set(buffer.subarray(ip + start, ip + start + length), headers);
      if (isIpv6) writeU16(scratch, IPV6.PAYLOAD_LENGTH, headers - IPV6.HEADER + length);
      else writeU16(scratch, IPV4.TOTAL_LENGTH, headers + length);
      writeU16(scratch, headerLength + UDP.LENGTH, UDP.HEADER + length);
      reason = transport.input(scratch, 0, headerLength, headers + length, source, destination, true);
      if (reason === 'udp-port-closed') return reason;
    }
    return reason;
  }
}
