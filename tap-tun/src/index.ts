/** Linux TAP and TUN devices for Node: offloads, batched reads and writes, typed errors. */
export { TapError, type TapErrorOptions } from './errors.ts';
export {
  type BatchHandler,
  type BatchOptions,
  type PacketCounters,
  PacketDevice,
  type ShortcutTerms,
} from './packet-device.ts';
export {
  RING_FAULTS,
  RING_HELLO,
  Ring,
  type RingAnswer,
  type RingFault,
  type RingOptions,
  ringsUsable,
} from './ring.ts';
export { checkTapSupport, type TapSupport } from './support.ts';
export {
  InterfaceDevice,
  type InterfaceSettings,
  type OffloadFlags,
  PacketSocket,
  type PacketSocketOptions,
  TapDevice,
  type TapOptions,
  VNET_HEADER_BYTES,
} from './tap.ts';
