/** Where the forwarding path shows packets while somebody captures; see capture.ts. */
export interface PacketObserver {
  /**
   * One packet (offload header + frame) at the interface of a port, as it stands in the buffer now. `inbound`: it came from
   * the port's other end. `comment` says what became of it.
   */
  packet(
    port: string,
    inbound: boolean,
    buffer: Uint8Array,
    offset: number,
    length: number,
    comment: string | undefined,
  ): void;
}
