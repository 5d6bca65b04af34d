import { chmodSync, unlinkSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import type { Clock, Timer, Turns, Worker } from '../../../common/index.ts';
import { codeOf, messageOf, systemClock, TurnShare } from '../../../common/index.ts';
import type { LinkOffload, LinkReceiver } from '../../../netstack/index.ts';
import { ETHERNET, MAX_PACKET_LEN, RING_HELLO, VNET_HDR_LEN } from '../../../netstack/index.ts';
import type { QueueingDevice } from '../fair-queue.ts';
import { MuxError } from '../mux-error.ts';
import { descriptorOf, readInto } from './accepted.ts';
import type { Carrier, CarrierKind, CarrierOwner } from './carrier.ts';
import { RingCarrier } from './ring-carrier.ts';
import { StreamCarrier } from './stream-carrier.ts';

export interface StreamPortOptions {
  readonly name: string;
  /** Unix socket to listen on. */
  readonly path: string;
  readonly mtu?: number;
  /** Both sides carry the virtio-net header. Default false: plain frames, complete checksums, nothing above the MTU. */
  readonly vnetHeader?: boolean;
  /** With `vnetHeader`: a partition that asks for rings in shared memory gets them. Default true. */
  readonly rings?: boolean;
  readonly turns: Turns;
  readonly onConnected: (connected: boolean, reason?: string) => void;
  /** The other side sent no packets; its connection has been closed. */
  readonly onFault: (fault: string) => void;
  /** A partition asked for rings and could not be given any: it is served by a stream. */
  readonly onNoRing?: (error: unknown) => void;
  /** Asked after each portion: how long nothing more is to be taken, so that the sender is stopped. Default never. */
  readonly debtMs?: () => number;
  readonly clock?: Clock;
  /** Frames longer than the port takes were stepped over. */
  readonly onOversize: (count: number) => void;
}

/**
 * Time of this process that a port gets per turn (common/turns.ts), whether it sends small packets, which cost more, or large ones. A socket holds
 * no more than 208 KiB, for which this is time enough: with 0.25 ms a flood of small frames had three times as much as its neighbour could use (V3).
 */
const TURN_MS = 0.08;
/** A partition that has said nothing for so long asks for no rings. Its first frame says so at once. */
const QUESTION_MS = 200;
/** Of one read. What a turn has no time for is copied aside, so more would only be copied more often. */
const READ_BYTES = 64 * 1024;
const TAG = 4;

/**
 * The mux's end of a partition port: listens on a unix socket and serves one connection at a time. A newer connection replaces
 * the older one: a partition that was started again need not wait until its predecessor's socket has been given up.
 *
 * What carries the packets is settled by the first thing that the partition says: the question for rings (RING_HELLO), or frames.
 * Until then it is not connected. From then on the carrier stays until the connection ends.
 */
export class StreamPort implements QueueingDevice, Worker, CarrierOwner {
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;
  readonly #options: StreamPortOptions;
  readonly #vnetHeader: boolean;
  readonly #share: TurnShare;
  /** Nothing is taken until then. */
  #debt: Timer | undefined;
  #server: Server | undefined;
  /** A connection that has not said yet what shall carry its packets. */
  #undecided: { readonly socket: Socket; readonly timer: Timer } | undefined;
  #carrier: Carrier | undefined;
  #receiver: LinkReceiver | undefined;

  constructor(options: StreamPortOptions) {
    this.#options = options;
    this.#share = new TurnShare(options.turns, TURN_MS);
    this.#vnetHeader = options.vnetHeader ?? false;
    this.name = options.name;
    this.mtu = options.mtu ?? 1500;
    this.offload = {
      checksum: this.#vnetHeader,
      tcp4Segmentation: this.#vnetHeader,
      tcp6Segmentation: this.#vnetHeader,
      maxPacket: this.#vnetHeader ? MAX_PACKET_LEN : VNET_HDR_LEN + ETHERNET.HEADER + TAG + this.mtu,
    };
  }

  /** Throws MuxError `in-use` when somebody serves the socket, `socket` when it cannot be made. */
  async listen(): Promise<void> {
    const { path } = this.#options;
    if (await isServed(path)) {
      throw new MuxError('in-use', `another process already serves the port socket ${path}`, {
        remedy: 'stop it first, or choose another socket',
        values: { path },
      });
    }
    const server = createServer({ pauseOnConnect: true }, (socket) => this.#accept(socket));
    try {
      unlinkIfThere(path);
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, () => {
          server.off('error', reject);
          resolve();
        });
      });
      chmodSync(path, 0o600);
    } catch (cause) {
      throw new MuxError('socket', `port socket ${path} cannot be made: ${messageOf(cause)}`, {
        remedy: 'see that its folder exists and that this process may write to it',
        values: { path },
        cause,
      });
    }
    this.#server = server;
  }

  get connected(): boolean {
    return this.#carrier !== undefined;
  }

  /** Undefined while nobody is connected. */
  get carrier(): CarrierKind | undefined {
    return this.#carrier?.kind;
  }

  get fill(): number {
    return this.#carrier?.fill ?? 0;
  }

  get queuedBytes(): number {
    return this.#carrier?.queuedBytes ?? 0;
  }

  get receiver(): LinkReceiver | undefined {
    return this.#receiver;
  }

  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    return this.#carrier === undefined || this.#carrier.transmit(buffer, offset, length);
  }

  flush(): void {
    this.#carrier?.flush();
  }

  close(): void {
    this.#receiver = undefined;
    this.#server?.close();
    this.#server = undefined;
    this.#forgetUndecided();
    this.#carrier?.end();
    this.#lose();
    unlinkIfThere(this.#options.path);
  }

  serve(): boolean {
    return this.#work();
  }

  // ---- what carriers say

  arrived(carrier: Carrier): void {
    if (this.#carrier !== carrier) return;
    const { turns } = this.#options;
    turns.open();
    if (this.#work()) turns.ready(this);
  }

  waits(carrier: Carrier): void {
    if (this.#carrier === carrier && this.#debt === undefined) this.#options.turns.ready(this);
  }

  faulty(carrier: Carrier, fault: string): void {
    if (this.#carrier !== carrier) return;
    this.#options.onFault(fault);
    this.lost(carrier, fault);
  }

  oversize(count: number): void {
    this.#options.onOversize(count);
  }

  lost(carrier: Carrier, reason: string): void {
    if (this.#carrier !== carrier) return;
    carrier.destroy();
    this.#lose();
    this.#options.onConnected(false, reason);
  }

  // ---- connections

  #accept(accepted: Socket): void {
    this.#forgetUndecided();
    if (this.#carrier !== undefined) this.lost(this.#carrier, 'replaced by a newer connection');
    let carrier: StreamCarrier | undefined;
    const stream = () => {
      this.#undecided?.timer.cancel();
      this.#undecided = undefined;
      carrier = new StreamCarrier(this, socket, this.#vnetHeader, this.offload.maxPacket);
      this.#settle(carrier);
      return carrier;
    };
    const socket = readInto(Buffer.allocUnsafeSlow(READ_BYTES), accepted, (from, chunk) => {
      if (carrier !== undefined) carrier.read(chunk);
      else if (this.#undecided?.socket === from && !this.#answersQuestion(from, chunk, stream))
        stream().read(chunk);
    });
    let reason = 'the partition ended the connection';
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('close', () => {
      if (this.#undecided?.socket === socket) this.#forgetUndecided();
      if (carrier !== undefined) this.lost(carrier, reason);
    });
    if (!this.#vnetHeader || this.#options.rings === false) stream();
    else {
      const late = () => {
        if (this.#undecided?.socket === socket) stream();
      };
      // What has come while this process was busy is read before the immediate.
      const timer = this.#clock.after(QUESTION_MS, () => void setImmediate(late));
      this.#undecided = { socket, timer };
    }
  }

  /** Whether the first thing that came is the question for rings, which is then answered. */
  #answersQuestion(socket: Socket, chunk: Buffer, stream: () => void): boolean {
    const descriptor = chunk.equals(RING_HELLO) ? descriptorOf(socket) : undefined;
    if (descriptor === undefined) return false;
    try {
      const carrier = new RingCarrier(this, descriptor, this.offload.maxPacket);
      this.#forgetUndecided();
      this.#settle(carrier);
    } catch (error) {
      this.#options.onNoRing?.(error);
      // The answer without memory: there will be frames.
      socket.write(RING_HELLO);
      stream();
    }
    return true;
  }

  #settle(carrier: Carrier): void {
    this.#carrier = carrier;
    this.#options.onConnected(true);
    this.#receiver?.writable();
  }

  #forgetUndecided(): void {
    this.#undecided?.timer.cancel();
    this.#undecided?.socket.destroy();
    this.#undecided = undefined;
  }

  // ---- turns

  /**
   * Takes while there is time; tells whether there is more to take. A port that has nothing waiting must not ask for turns: each of
   * them would pay for what it, or another one, owes.
   */
  #work(): boolean {
    const carrier = this.#carrier;
    while (carrier !== undefined && this.#debt === undefined) {
      if (this.#share.leftMs <= 0) return carrier.waiting;
      const fromMs = performance.now();
      const took = carrier.take();
      this.#share.spend(performance.now() - fromMs);
      if (this.#carrier !== carrier || !took) return false;
      const ms = this.#options.debtMs?.() ?? 0;
      if (ms > 0) this.#leaveUnread(ms);
    }
    return false;
  }

  #leaveUnread(ms: number): void {
    this.#debt = this.#clock.after(Math.ceil(ms), () => {
      this.#debt = undefined;
      this.#options.turns.ready(this);
    });
  }

  /** Forgets the connection and everything of it. */
  #lose(): void {
    this.#debt?.cancel();
    this.#debt = undefined;
    this.#carrier = undefined;
    this.#options.turns.leave(this);
  }

  get #clock(): Clock {
    return this.#options.clock ?? systemClock;
  }
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  }
}

function isServed(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}
