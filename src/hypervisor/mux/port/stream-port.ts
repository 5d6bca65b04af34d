import { chmodSync, unlinkSync } from 'node:fs';
import type { Server, Socket } from 'node:net';
import { connect, createServer } from 'node:net';
import type { Clock, Timer } from '../../../common/index.ts';
import { codeOf, messageOf, systemClock } from '../../../common/index.ts';
import type { LinkOffload, LinkReceiver } from '../../../netstack/index.ts';
import {
  ETHERNET,
  FrameParser,
  FrameWriter,
  type FramingFault,
  MAX_PACKET_LEN,
  VNET_HDR_LEN,
} from '../../../netstack/index.ts';
import type { QueueingDevice } from '../fair-queue.ts';
import { MuxError } from '../mux-error.ts';
import { readInto } from './accepted.ts';
import type { Turns, Worker } from './turns.ts';

export interface StreamPortOptions {
  readonly name: string;
  /** Unix socket to listen on. */
  readonly path: string;
  readonly mtu?: number;
  /** Both sides carry the virtio-net header. Default false: plain frames, complete checksums, nothing above the MTU. */
  readonly vnetHeader?: boolean;
  readonly turns: Turns;
  readonly onConnected: (connected: boolean, reason?: string) => void;
  /** The other side sent no frames; its connection has been closed. */
  readonly onFault: (fault: FramingFault) => void;
  /** Asked after each portion: how long the socket is to be left unread, so that the kernel stops the sender. Default never. */
  readonly debtMs?: () => number;
  readonly clock?: Clock;
  /** Frames longer than the port takes were stepped over. */
  readonly onOversize: (count: number) => void;
}

/**
 * Time of this process that a port gets per turn (deficit round robin): a portion is handled while there is some left, and
 * what it takes beyond is owed. So ports get equal time, whether they send small packets, which cost more, or large ones.
 */
const TURN_MS = 0.25;
/** Bytes waiting for a turn at which the socket is left unread: the kernel then stops the sender. */
const BACKLOG_BYTES = 256 * 1024;
/** Of one read, which is handled as a whole: twice as much makes a flood of small frames cost its neighbours half their share (V3). */
const READ_BYTES = 64 * 1024;
const TAG = 4;

/**
 * The mux's end of a partition port: listens on a unix socket, serves one connection at a time, frames as in
 * stream-framing.ts. A newer connection replaces the older one: a partition that was started again need not wait until its
 * predecessor's socket has been given up. Sending is bounded by the writer's buffers; what exceeds them is refused.
 */
export class StreamPort implements QueueingDevice, Worker {
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;
  readonly #options: StreamPortOptions;
  readonly #vnetHeader: boolean;
  readonly #parser: FrameParser;
  readonly #writer: FrameWriter;
  readonly #backlog: Buffer[] = [];
  #backlogBytes = 0;
  #turn = -1;
  /** Of this turn; below 0: owed. */
  #leftMs = 0;
  /** The socket is left unread until then. */
  #debt: Timer | undefined;
  #server: Server | undefined;
  #socket: Socket | undefined;
  #receiver: LinkReceiver | undefined;

  constructor(options: StreamPortOptions) {
    this.#options = options;
    this.#vnetHeader = options.vnetHeader ?? false;
    this.name = options.name;
    this.mtu = options.mtu ?? 1500;
    this.offload = {
      checksum: this.#vnetHeader,
      tcp4Segmentation: this.#vnetHeader,
      tcp6Segmentation: this.#vnetHeader,
      maxPacket: this.#vnetHeader ? MAX_PACKET_LEN : VNET_HDR_LEN + ETHERNET.HEADER + TAG + this.mtu,
    };
    this.#parser = new FrameParser(this.#vnetHeader, this.offload.maxPacket, (buffer, offset, length) =>
      this.#receiver?.receive(buffer, offset, length),
    );
    this.#writer = new FrameWriter(
      { vnetHeader: this.#vnetHeader },
      (chunk, done) => {
        if (this.#socket === undefined) done();
        else this.#socket.write(chunk, done);
      },
      () => this.#receiver?.writable(),
    );
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
    return this.#socket !== undefined;
  }

  get halfFull(): boolean {
    return this.#writer.halfFull;
  }

  get queuedBytes(): number {
    return this.#writer.queuedBytes;
  }

  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    return this.#socket === undefined || this.#writer.put(buffer, offset, length);
  }

  flush(): void {
    if (this.#socket !== undefined) this.#writer.flush();
  }

  close(): void {
    this.#receiver = undefined;
    this.flush();
    this.#server?.close();
    this.#server = undefined;
    this.#socket?.end();
    this.#socket?.unref();
    this.#lose();
    unlinkIfThere(this.#options.path);
  }

  serve(): boolean {
    this.#beginTurn();
    while (this.#leftMs > 0 && this.#debt === undefined) {
      const chunk = this.#backlog.shift();
      if (chunk === undefined) break;
      this.#backlogBytes -= chunk.length;
      this.#take(chunk);
    }
    if (this.#debt !== undefined) return false;
    if (this.#backlogBytes < BACKLOG_BYTES / 2) this.#socket?.resume();
    return this.#backlog.length > 0;
  }

  #accept(accepted: Socket): void {
    if (this.#socket !== undefined) {
      this.#socket.destroy();
      this.#lose();
      this.#options.onConnected(false, 'replaced by a newer connection');
    }
    const socket = readInto(Buffer.allocUnsafeSlow(READ_BYTES), accepted, (from, chunk) =>
      this.#arrived(from, chunk),
    );
    this.#socket = socket;
    let reason = 'the partition ended the connection';
    socket.on('error', (error) => {
      reason = error.message;
    });
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      this.#lose();
      this.#options.onConnected(false, reason);
    });
    this.#options.onConnected(true);
    this.#receiver?.writable();
  }

  #arrived(socket: Socket, chunk: Buffer): void {
    if (this.#socket !== socket) return;
    const { turns } = this.#options;
    turns.open();
    this.#beginTurn();
    if (this.#backlog.length === 0 && this.#leftMs > 0 && this.#debt === undefined) {
      this.#take(chunk);
      return;
    }
    // The chunk's bytes are the next read's.
    this.#backlog.push(Buffer.from(chunk));
    this.#backlogBytes += chunk.length;
    if (this.#backlogBytes >= BACKLOG_BYTES) socket.pause();
    if (this.#debt === undefined) turns.ready(this);
  }

  /** A turn that passed unused is worth as much as one. */
  #beginTurn(): void {
    const { turn } = this.#options.turns;
    if (this.#turn === turn) return;
    this.#turn = turn;
    this.#leftMs = Math.min(this.#leftMs, 0) + TURN_MS;
  }

  #take(chunk: Buffer): void {
    const fromMs = performance.now();
    this.#handle(chunk);
    this.#leftMs -= performance.now() - fromMs;
  }

  #handle(chunk: Buffer): void {
    const fault = this.#parser.push(chunk, 0, chunk.length);
    if (this.#parser.oversize > 0) {
      this.#options.onOversize(this.#parser.oversize);
      this.#parser.oversize = 0;
    }
    this.#receiver?.endOfBatch();
    if (fault === undefined) {
      const ms = this.#options.debtMs?.() ?? 0;
      if (ms > 0 && this.#socket !== undefined) this.#leaveUnread(ms);
      return;
    }
    this.#options.onFault(fault);
    this.#socket?.destroy();
    this.#lose();
    this.#options.onConnected(false, fault);
  }

  #leaveUnread(ms: number): void {
    this.#socket?.pause();
    this.#debt = (this.#options.clock ?? systemClock).after(Math.ceil(ms), () => {
      this.#debt = undefined;
      if (this.#backlog.length > 0) this.#options.turns.ready(this);
      else this.#socket?.resume();
    });
  }

  /** Forgets the connection and everything of it. */
  #lose(): void {
    this.#debt?.cancel();
    this.#debt = undefined;
    this.#socket = undefined;
    this.#parser.reset();
    this.#writer.reset();
    this.#backlog.length = 0;
    this.#backlogBytes = 0;
    this.#options.turns.leave(this);
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
