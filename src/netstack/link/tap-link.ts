/**
 * A TAP interface as a link (interface-link.ts): what the kernel sends out of the interface is received here, what is
 * transmitted here arrives in the kernel as if from a wire.
 */
import { TapDevice, type TapOptions } from 'tap-tun';
import { InterfaceLink, linkError, type TapLinkError } from './interface-link.ts';

export interface TapLinkOptions {
  /** Interface name; created when absent. */
  readonly name: string;
  /** Largest IP packet, default what the interface has (1500 when new). */
  readonly mtu?: number;
  /** Packets up to 64 KiB with checksums to be completed, in both directions. Default true. */
  readonly offload?: boolean;
  /** Network namespace to create it in, a name of /var/run/netns or a path. */
  readonly netns?: string;
  /** MAC address of the kernel's side. */
  readonly mac?: string;
  /** Address of the kernel's side with prefix length, `10.77.0.1/24`. Left alone when not given. */
  readonly ipv4?: string;
  /** The interface outlives this process. */
  readonly persist?: boolean;
  readonly multiQueue?: boolean;
  readonly existence?: TapOptions['existence'];
  /** Packets that the kernel holds for us while this process is busy, default 10 000. */
  readonly txQueueLength?: number;
  /** Bytes that may be on their way through the kernel before transmitting has to wait; default without limit. */
  readonly sendBufferBytes?: number;
  /** Default true. */
  readonly up?: boolean;
  /** Told once when the interface is gone (deleted from outside); transmitted packets are dropped from then on. */
  readonly onGone?: (error: TapLinkError) => void;
}

const DEFAULT_TX_QUEUE_LENGTH = 10_000;

export class TapLink extends InterfaceLink<TapDevice> {
  /** Opens or creates the interface. Throws TapLinkError. */
  constructor(options: TapLinkOptions) {
    const offload = options.offload ?? true;
    const { device, mtu } = opened(options, offload);
    super({
      device,
      mtu,
      checksum: offload,
      tcp4Segmentation: device.offload.tso4,
      tcp6Segmentation: device.offload.tso6,
      udpTrains: offload,
      large: offload,
      onGone: options.onGone,
    });
  }
}

function opened(options: TapLinkOptions, offload: boolean): { device: TapDevice; mtu: number } {
  const { name, mtu, netns, mac, ipv4, persist, multiQueue, existence, sendBufferBytes } = options;
  try {
    const device = new TapDevice({
      name,
      vnetHeader: true,
      offload: offload ? { checksum: true, tso4: true, tso6: true, ecn: true } : {},
      txQueueLength: options.txQueueLength ?? DEFAULT_TX_QUEUE_LENGTH,
      up: options.up ?? true,
      ...(mtu === undefined ? {} : { mtu }),
      ...(netns === undefined ? {} : { netns }),
      ...(mac === undefined ? {} : { mac }),
      ...(ipv4 === undefined ? {} : { ipv4 }),
      ...(persist === undefined ? {} : { persist }),
      ...(multiQueue === undefined ? {} : { multiQueue }),
      ...(existence === undefined ? {} : { existence }),
      ...(sendBufferBytes === undefined ? {} : { sendBufferBytes }),
    });
    return { device, mtu: device.mtu };
  } catch (error) {
    throw linkError(error);
  }
}
