/** A network device. */
export interface BootNetwork {
  readonly mac: string;
  /** Port socket of the mux, frames with virtio-net header. */
  readonly socket: string;
  /** CIDR, either family. */
  readonly addresses: readonly string[];
  /** At most one of each family, text form. */
  readonly gateways?: readonly string[];
  readonly mtu?: number;
}

/** What `src/guest/main.ts` is told at boot (`--boot FILE`): the partition's devices, as firmware would hand them over. */
export interface BootDescription {
  readonly partition: string;
  readonly hostname: string;
  /** Its network devices in order. */
  readonly network: readonly BootNetwork[];
  /** NBD server with the exports `system` and, when the application disk is attached, `application`. */
  readonly blockSocket: string;
  readonly agentSocket: string;
  /** Private directory for unpacked programs; emptied at boot. */
  readonly scratchDirectory: string;
}
