import { TapError } from './errors.ts';
import { Attribute, type NativeDevice, OpenFlag } from './native.ts';
import { PacketDevice } from './packet-device.ts';

/** Bytes of the virtio-net header before each frame when `vnetHeader` is on. */
export const VNET_HEADER_BYTES = 10;

/** What this process accepts without the kernel finishing it first (TUNSETOFFLOAD). All but checksum need checksum. */
export interface OffloadFlags {
  /** Frames may arrive with an incomplete checksum (NEEDS_CSUM). */
  readonly checksum?: boolean;
  /** TCP over IPv4 may arrive as one frame larger than the MTU. */
  readonly tso4?: boolean;
  readonly tso6?: boolean;
  /** Such frames may carry ECN marks (gso_type bit 0x80). */
  readonly ecn?: boolean;
  /** UDP segmentation (gso_type 5), kernel 6.2 or newer; left out silently where the kernel has it not. */
  readonly uso?: boolean;
}

const TUN_F = { checksum: 0x01, tso4: 0x02, tso6: 0x04, ecn: 0x08, uso: 0x60 } as const;

export interface InterfaceSettings {
  /** Largest IP packet in bytes. */
  readonly mtu?: number;
  /** Kernel side's MAC address, `02:00:00:00:00:01`; TAP only. */
  readonly mac?: string;
  /** Frames that the kernel queues for us before it drops: each may be 64 KiB with offloads. Kernel default 500 or 1000. */
  readonly txQueueLength?: number;
  readonly up?: boolean;
  /** IPv4 address of the kernel side with prefix length, `10.0.0.1/24`. */
  readonly ipv4?: string;
}

export interface TapOptions extends InterfaceSettings {
  /** Interface name, up to 15 characters; with `%d` the kernel numbers it. Default `tap%d` or `tun%d`. */
  readonly name?: string;
  /** `tap` carries Ethernet frames, `tun` IP packets. Default tap. */
  readonly kind?: 'tap' | 'tun';
  /** Each frame is preceded by a 10-byte virtio-net header, in both directions. Needed for `offload`. Default false. */
  readonly vnetHeader?: boolean;
  readonly offload?: OffloadFlags;
  /** Several processes or devices may open the same interface; the kernel spreads flows over them. */
  readonly multiQueue?: boolean;
  /** The interface outlives this process. `setPersist(false)` is `ip link del`. */
  readonly persist?: boolean;
  /** `new`: EBUSY when the name exists. `existing`: ENODEV when it does not. Default: created when absent. */
  readonly existence?: 'any' | 'new' | 'existing';
  /** Name of a network namespace under /var/run/netns, or a path with a slash. Default: this process's. */
  readonly netns?: string;
  /** Limit for bytes on their way through the kernel (TUNSETSNDBUF); writes wait when it is reached. */
  readonly sendBufferBytes?: number;
}

function checkedName(name: string): string {
  // The kernel's dev_valid_name(): no slash, no colon, no space, not "." or "..".
  if (name === '' || Buffer.byteLength(name) > 15 || /[/:\s]|^\.\.?$/.test(name) || name.includes('\0')) {
    throw new TapError('BAD_NAME', `${JSON.stringify(name)} is no interface name`, {
      remedy: 'use 1 to 15 characters without slash, colon or space',
      values: { name },
    });
  }
  return name;
}

function netnsPath(netns: string | undefined): string | null {
  if (netns === undefined) return null;
  if (netns === '' || netns.includes('\0') || Buffer.byteLength(netns) > 4000) {
    throw new TapError('BAD_NAME', `${JSON.stringify(netns)} is no network namespace`, {
      remedy: 'give a name of /var/run/netns or a path',
    });
  }
  return netns.includes('/') ? netns : `/var/run/netns/${netns}`;
}

function checkedInteger(what: string, value: number, least: number, most: number): number {
  if (Number.isInteger(value) && value >= least && value <= most) return value;
  throw new TapError('BAD_OPTION', `${what} ${value} is not possible`, { remedy: `use ${least} to ${most}` });
}

function parseMac(text: string): Uint8Array {
  if (!/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text)) {
    throw new TapError('BAD_OPTION', `${JSON.stringify(text)} is no MAC address`, {
      remedy: 'write six bytes in hexadecimal: 02:00:00:00:00:01',
    });
  }
  return Uint8Array.from(text.split(':'), (byte) => Number.parseInt(byte, 16));
}

function parseIpv4(text: string): { address: number; mask: number } {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text);
  const numbers = match?.slice(1).map(Number) ?? [];
  const [a, b, c, d, prefix] = numbers as [number, number, number, number, number];
  if (match === null || prefix > 32 || Math.max(a, b, c, d) > 255) {
    throw new TapError('BAD_OPTION', `${JSON.stringify(text)} is no IPv4 address with prefix length`, {
      remedy: 'write it as 10.0.0.1/24',
    });
  }
  return {
    address: ((a << 24) | (b << 16) | (c << 8) | d) >>> 0,
    mask: prefix === 0 ? 0 : (0xffffffff << (32 - prefix)) >>> 0,
  };
}

/** A device that stands for a kernel interface of its own or of a NIC, with the settings that `ip link set` has. */
export class InterfaceDevice extends PacketDevice {
  readonly index: number;
  readonly vnetHeader: boolean;
  protected readonly openedName: string;
  protected readonly acceptedOffload: number;

  protected constructor(
    kind: string,
    name: string,
    netns: string | undefined,
    flags: number,
    offload: number,
    sendBuffer: number,
    receiveBuffer: number,
  ) {
    const path = netnsPath(netns);
    let opened: [NativeDevice, string, number, number] | undefined;
    super(netns === undefined ? `${kind} ${name}` : `${kind} ${name} in ${netns}`, (n, callback) => {
      opened = n.openDevice(path, name, flags, offload, sendBuffer, receiveBuffer, callback);
      return opened[0];
    });
    this.openedName = opened![1];
    this.index = opened![2];
    this.acceptedOffload = opened![3];
    this.vnetHeader = (flags & OpenFlag.vnetHeader) !== 0;
  }

  /** Current name; it follows `ip link set … name`. */
  get name(): string {
    return this.closed ? this.openedName : this.native((n, device) => n.name(device));
  }

  get mtu(): number {
    return this.native((n, device) => n.get(device, Attribute.mtu));
  }

  get mac(): string {
    const mac = new Uint8Array(6);
    this.native((n, device) => n.mac(device, mac, false));
    return [...mac].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
  }

  get txQueueLength(): number {
    return this.native((n, device) => n.get(device, Attribute.txQueueLength));
  }

  /** Administratively up. */
  get up(): boolean {
    return this.native((n, device) => n.get(device, Attribute.up)) !== 0;
  }

  /** Up with carrier. */
  get running(): boolean {
    return this.native((n, device) => n.get(device, Attribute.running)) !== 0;
  }

  /** Applies what is given, `up` last (or first, when it is false). */
  configure(settings: InterfaceSettings): void {
    const { mtu, mac, txQueueLength, up, ipv4 } = settings;
    if (up === false) this.native((n, device) => n.set(device, Attribute.up, 0));
    if (mac !== undefined) {
      const bytes = parseMac(mac);
      this.native((n, device) => n.mac(device, bytes, true));
    }
    if (mtu !== undefined) {
      checkedInteger('an MTU of', mtu, 68, 65_535);
      this.native((n, device) => n.set(device, Attribute.mtu, mtu));
    }
    if (txQueueLength !== undefined) {
      checkedInteger('a queue length of', txQueueLength, 1, 4_194_304);
      this.native((n, device) => n.set(device, Attribute.txQueueLength, txQueueLength));
    }
    if (ipv4 !== undefined) {
      const { address, mask } = parseIpv4(ipv4);
      this.native((n, device) => n.setIpv4(device, address, mask));
    }
    if (up === true) this.native((n, device) => n.set(device, Attribute.up, 1));
  }
}

/** One queue of a TAP or TUN interface. Frames that the kernel sends out of the interface are received here, and the other way round. */
export class TapDevice extends InterfaceDevice {
  readonly kind: 'tap' | 'tun';
  /** What the kernel was told; `uso` false where it does not know it. */
  readonly offload: Required<OffloadFlags>;

  constructor(options: TapOptions = {}) {
    const kind = options.kind ?? 'tap';
    const wanted = options.offload ?? {};
    let offload = 0;
    for (const [flag, bits] of Object.entries(TUN_F)) {
      if (wanted[flag as keyof OffloadFlags]) offload |= bits;
    }
    if (offload !== 0 && !options.vnetHeader) {
      throw new TapError('BAD_OPTION', 'offloads need the virtio-net header', { remedy: 'set vnetHeader' });
    }
    if (offload !== 0 && (offload & TUN_F.checksum) === 0) {
      throw new TapError('BAD_OPTION', 'segmentation offload needs checksum offload', {
        remedy: 'set offload.checksum',
      });
    }
    super(
      'interface',
      checkedName(options.name ?? `${kind}%d`),
      options.netns,
      (kind === 'tun' ? OpenFlag.tun : 0) |
        (options.vnetHeader ? OpenFlag.vnetHeader : 0) |
        (options.multiQueue ? OpenFlag.multiQueue : 0) |
        (options.persist ? OpenFlag.persist : 0) |
        (options.existence === 'new' ? OpenFlag.mustBeNew : 0) |
        (options.existence === 'existing' ? OpenFlag.mustExist : 0),
      offload,
      options.sendBufferBytes === undefined
        ? 0
        : checkedInteger('a send buffer of', options.sendBufferBytes, 1, 0x7fffffff),
      0,
    );
    this.kind = kind;
    const has = (bits: number) => (this.acceptedOffload & bits) !== 0;
    this.offload = {
      checksum: has(TUN_F.checksum),
      tso4: has(TUN_F.tso4),
      tso6: has(TUN_F.tso6),
      ecn: has(TUN_F.ecn),
      uso: has(TUN_F.uso),
    };
    try {
      this.configure(options);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Whether the interface stays when its last queue is closed. */
  setPersist(on: boolean): void {
    this.native((n, device) => n.setPersist(device, on));
  }
}

export interface PacketSocketOptions extends InterfaceSettings {
  /** An existing interface: a NIC, one end of a veth pair, a bridge. */
  readonly name: string;
  readonly netns?: string;
  /** As with a TAP: 10-byte virtio-net header before each frame (PACKET_VNET_HDR). */
  readonly vnetHeader?: boolean;
  /** See also what this host sends out of the interface. Default false. */
  readonly receiveOwn?: boolean;
  /** Receive frames for any MAC address; the interface is promiscuous until the socket is closed. Default false. */
  readonly promiscuous?: boolean;
  /** Hand frames to the driver without the interface's queueing discipline. */
  readonly bypassQdisc?: boolean;
  readonly sendBufferBytes?: number;
  readonly receiveBufferBytes?: number;
}

/**
 * A raw packet socket (AF_PACKET) on an existing interface: what is written leaves through it, what arrives is received
 * (a copy: the kernel's own stack sees it, too). The way to a NIC, and the kernel-side generator of the tests.
 */
export class PacketSocket extends InterfaceDevice {
  constructor(options: PacketSocketOptions) {
    super(
      'interface',
      checkedName(options.name),
      options.netns,
      OpenFlag.packet |
        (options.vnetHeader ? OpenFlag.vnetHeader : 0) |
        (options.receiveOwn ? OpenFlag.receiveOwn : 0) |
        (options.promiscuous ? OpenFlag.promiscuous : 0) |
        (options.bypassQdisc ? OpenFlag.bypassQdisc : 0),
      0,
      checkedInteger('a send buffer of', options.sendBufferBytes ?? 0, 0, 0x7fffffff),
      checkedInteger('a receive buffer of', options.receiveBufferBytes ?? 0, 0, 0x7fffffff),
    );
    try {
      this.configure(options);
    } catch (error) {
      this.close();
      throw error;
    }
  }
}
