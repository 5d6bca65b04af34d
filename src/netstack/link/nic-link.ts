/**
 * An interface that the host has already (a NIC, a veth) as a link, by a packet socket: what arrives at the interface is
 * received here, what is transmitted here leaves through it. The host's own stack sees what arrives, too, and acts on what is
 * for its own MAC and addresses; it does not see what is transmitted here, nor is what it sends seen here.
 *
 * The unit is a packet with vnet header in both directions: the kernel's receive offload may have merged segments into one
 * packet up to 64 KiB, and cuts what is larger than the MTU on the way out, in the NIC where that can.
 *
 *   up    ── interface set down, carrier lost ──▶ down ── back ──▶ up
 *   up, down ── deleted, or moved to another namespace ──▶ gone ── an interface of the name ──▶ up, down, by a new socket
 *
 * The state is asked for every WATCH_MS: a packet socket is told of none of it reliably. While it is not up, what is
 * transmitted is dropped and counted. The kernel holds what arrives while this process is busy, up to `receiveBufferBytes`;
 * what exceeds that it drops, which `counters` tells.
 */
import { PacketSocket } from 'tap-tun';
import type { Clock, Timer } from '../../common/index.ts';
import { messageOf, systemClock } from '../../common/index.ts';
import { InterfaceLink, linkError, type TapLinkCounters, TapLinkError } from './interface-link.ts';
import type { LinkDevice, LinkOffload, LinkReceiver } from './link-device.ts';

export type NicState = 'up' | 'down' | 'gone';

export interface NicLinkOptions {
  /** Name of the interface, which must exist. */
  readonly name: string;
  /** Largest IP packet to transmit, no more than the interface's, which is left alone. Default: the interface's. */
  readonly mtu?: number;
  /** Transmit packets up to 64 KiB with checksums to be completed. Default true; received packets may be such anyhow. */
  readonly offload?: boolean;
  readonly netns?: string;
  /** Bytes of kernel memory that received packets may wait in, default 16 MiB. */
  readonly receiveBufferBytes?: number;
  /** Bytes that may be on their way through the kernel before transmitting has to wait, default 4 MiB. */
  readonly sendBufferBytes?: number;
  /** Told about every change of state; for `gone`, why. */
  readonly onState?: (state: NicState, reason?: string) => void;
  readonly clock?: Clock;
}

export interface NicLinkCounters extends TapLinkCounters {
  /** Frames that arrived while the kernel's queue for this process was full. */
  droppedQueue: number;
}

const RECEIVE_BUFFER_BYTES = 16 * 1024 * 1024;
const SEND_BUFFER_BYTES = 4 * 1024 * 1024;
const WATCH_MS = 250;

export class NicLink implements LinkDevice {
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;
  readonly #options: NicLinkOptions;
  readonly #clock: Clock;
  #link: InterfaceLink<PacketSocket> | undefined;
  #receiver: LinkReceiver | undefined;
  #state: NicState;
  #timer: Timer;
  #closed = false;
  /** Of sockets before this one, and packets that found none. */
  #earlier: NicLinkCounters = { ...NOTHING };

  /** Opens a socket on the interface and makes it promiscuous. Throws TapLinkError: 'ENODEV', 'EPERM' … */
  constructor(options: NicLinkOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.name = options.name;
    this.#link = this.#open();
    this.mtu = this.#link.mtu;
    this.offload = this.#link.offload;
    this.#state = this.#ask();
    this.#timer = this.#clock.after(WATCH_MS, () => this.#watch());
  }

  get state(): NicState {
    return this.#state;
  }

  get counters(): NicLinkCounters {
    const sum = { ...this.#earlier };
    if (this.#link !== undefined) addTo(sum, this.#link);
    return sum;
  }

  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    this.#link?.attach(receiver);
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#link !== undefined) return this.#link.transmit(buffer, offset, length);
    this.#earlier.droppedGone++;
    return true;
  }

  flush(): void {
    this.#link?.flush();
  }

  /** Idempotent. The interface leaves promiscuous mode unless somebody else wants it. */
  close(): void {
    this.#closed = true;
    this.#timer.cancel();
    this.#letGo();
  }

  #open(): InterfaceLink<PacketSocket> {
    const { name, mtu, netns, receiveBufferBytes, sendBufferBytes } = this.#options;
    const large = this.#options.offload ?? true;
    try {
      const device = new PacketSocket({
        name,
        vnetHeader: true,
        promiscuous: true,
        receiveBufferBytes: receiveBufferBytes ?? RECEIVE_BUFFER_BYTES,
        sendBufferBytes: sendBufferBytes ?? SEND_BUFFER_BYTES,
        ...(netns === undefined ? {} : { netns }),
      });
      if (mtu !== undefined && mtu > device.mtu) {
        const most = device.mtu;
        device.close();
        throw new TapLinkError('EMSGSIZE', `interface ${name} has an MTU of ${most}, less than ${mtu}`, {
          remedy: `set it (ip link set ${name} mtu ${mtu}), or ask for no more than ${most}`,
          values: { name, mtu, most },
        });
      }
      const features = {
        checksum: large,
        tcp4Segmentation: large,
        tcp6Segmentation: large,
        udpTrains: false,
        large,
      };
      return new InterfaceLink({ device, mtu: mtu ?? this.mtu ?? device.mtu, ...features });
    } catch (error) {
      throw linkError(error);
    }
  }

  /** The interface as it is now, seen through the socket. */
  #ask(): NicState {
    const device = this.#link?.device;
    if (device === undefined || device.closed) return 'gone';
    try {
      return device.up && device.running ? 'up' : 'down';
    } catch {
      return 'gone';
    }
  }

  #watch(): void {
    if (this.#closed) return;
    this.#timer = this.#clock.after(WATCH_MS, () => this.#watch());
    let state = this.#ask();
    let reason: string | undefined;
    if (state === 'gone') {
      this.#letGo();
      try {
        this.#link = this.#open();
        if (this.#receiver !== undefined) this.#link.attach(this.#receiver);
        state = this.#ask();
      } catch (error) {
        reason = messageOf(error);
      }
    }
    if (state === this.#state) return;
    this.#state = state;
    this.#options.onState?.(state, reason);
    if (state === 'up') this.#receiver?.writable();
  }

  #letGo(): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#link = undefined;
    addTo(this.#earlier, link);
    link.close();
  }
}

const NOTHING: NicLinkCounters = {
  received: 0,
  transmitted: 0,
  droppedSize: 0,
  droppedRejected: 0,
  droppedKernel: 0,
  droppedGone: 0,
  refused: 0,
  droppedQueue: 0,
};

function addTo(sum: NicLinkCounters, link: InterfaceLink<PacketSocket>): void {
  const now = { ...link.counters, droppedQueue: link.device.counters().rxDropped };
  for (const key of Object.keys(NOTHING) as (keyof NicLinkCounters)[]) sum[key] += now[key];
}
