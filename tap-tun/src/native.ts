/** The addon's functions as src/native/device.h lists them. Nothing outside this package uses them. */
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { TapError } from './errors.ts';

/** An external; owns the descriptor. */
export type NativeDevice = { readonly __native: 'tap-tun device' };

/** `count` frames stand in the batch, `writable` ends a partial write, `errno` ≠ 0: nothing more will come. */
export type NativeCallback = (count: number, writable: boolean, errno: number) => void;

export interface Native {
  openDevice(
    netns: string | null,
    name: string,
    flags: number,
    offload: number,
    sendBuffer: number,
    receiveBuffer: number,
    callback: NativeCallback,
  ): [device: NativeDevice, name: string, index: number, offload: number];
  wrapDescriptor(fd: number, callback: NativeCallback): NativeDevice;
  packetPair(): [number, number];
  close(device: NativeDevice): void;
  start(device: NativeDevice, buffer: Uint8Array, index: Uint32Array): void;
  stop(device: NativeDevice): void;
  reference(device: NativeDevice, on: boolean): void;
  write(device: NativeDevice, buffer: Uint8Array, index: Uint32Array, first: number, count: number): number;
  writeOne(device: NativeDevice, buffer: Uint8Array, offset: number, length: number): boolean;
  counters(device: NativeDevice, into: Float64Array): void;
  get(device: NativeDevice, what: number): number;
  set(device: NativeDevice, what: number, value: number): void;
  name(device: NativeDevice): string;
  mac(device: NativeDevice, mac: Uint8Array, set: boolean): void;
  setIpv4(device: NativeDevice, address: number, mask: number): void;
  setPersist(device: NativeDevice, on: boolean): void;
  descriptor(device: NativeDevice): number;
  addShortcut(
    device: NativeDevice,
    to: NativeDevice,
    buffer: Uint8Array,
    offset: number,
    length: number,
    longest: number,
    takes: number,
  ): boolean;
  forgetShortcuts(device: NativeDevice): void;
  probe(): number;
}

/** TT_* of src/native/tap-tun.h. */
export const OpenFlag = {
  tun: 1,
  vnetHeader: 2,
  multiQueue: 4,
  persist: 8,
  mustBeNew: 16,
  packet: 32,
  receiveOwn: 64,
  bypassQdisc: 128,
  mustExist: 256,
  promiscuous: 512,
} as const;

/** enum tt_attribute. */
export const Attribute = { mtu: 0, txQueueLength: 1, up: 2, running: 3 } as const;

/** TAKES_* of src/native/shortcuts.c. */
export const Takes = { checksum: 1, tso4: 2, tso6: 4, uso: 8 } as const;

/** Bytes that one read may need, as SLOT in device.h: a batch buffer holds at least one such. */
export const SLOT_BYTES = 65_664;

let loaded: Native | undefined;

/** Loads the addon on first use, so that importing this package costs nothing where no device is opened. */
export function native(): Native {
  if (loaded !== undefined) return loaded;
  const path = fileURLToPath(new URL('../build/tap_tun.node', import.meta.url));
  try {
    loaded = createRequire(import.meta.url)(path) as Native;
  } catch (cause) {
    const missing = (cause as { code?: unknown }).code === 'MODULE_NOT_FOUND';
    throw new TapError(
      missing ? 'NOT_BUILT' : 'NOT_LOADABLE',
      missing
        ? `the tap-tun addon is not built: ${path} is missing`
        : `the tap-tun addon ${path} cannot be loaded`,
      {
        remedy: "build it with tap-tun/build.sh ('make build' does); it needs a C compiler",
        values: { path },
        cause,
      },
    );
  }
  return loaded;
}
