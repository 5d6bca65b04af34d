import type { Socket } from 'node:net';
import { connect } from 'node:net';
import type { Clock, Timer } from '../../common/index.ts';
import { CodedError, systemClock } from '../../common/index.ts';
import type { LinkDevice, LinkOffload, LinkReceiver } from './link-device.ts';
import { VNET_HDR_LEN } from './link-device.ts';
import { ETHERNET_HEADER_LEN, FrameParser, FrameWriter, MAX_PACKET_LEN } from './stream-framing.ts';

/** Codes: `timeout` (no connection in time), `closed`. */
export class StreamLinkError extends CodedError {}

export interface StreamLinkOptions {
  /** Unix socket of the port. */
  readonly path: string;
  readonly name?: string;
  /** Largest IP packet, default 1500. */
  readonly mtu?: number;
  /** Both sides carry the virtio-net header, default true. Without it there is no offload. */
  readonly vnetHeader?: boolean;
  /** Pause before the first further try and the longest one, defaults 5 and 500 ms; it doubles in between. */
  readonly retryMs?: number;
  readonly retryMaxMs?: number;
  readonly clock?: Clock;
  /** Told about every connection and loss of it; `reason` says why it was lost. */
  readonly onState?: (connected: boolean, reason?: string) => void;
}

export interface StreamLinkCounters {
  received: number;
  transmitted: number;
  connections: number;
  /** Packets given to `transmit` while there was no connection. */
  droppedDisconnected: number;
  /** Packets longer than the link carries, in either direction. */
  droppedOversize: number;
  /** Connections given up because the other side sent something that is no frame. */
  faults: number;
}

const RECEIVE_BUFFER_BYTES = 256 * 1024;

/**
 * The partition's end of a port: frames on a unix socket (stream-framing.ts). It connects by itself, and again with
 * growing pauses when the other side goes away; packets sent meanwhile are dropped and counted, as on an unplugged cable.
 */
export class StreamLink implements LinkDevice {
  readonly name: string;
  readonly mtu: number;
  readonly offload: LinkOffload;
  readonly counters: StreamLinkCounters = {
    received: 0,
    transmitted: 0,
    connections: 0,
    droppedDisconnected: 0,
    droppedOversize: 0,
    faults: 0,
  };

  readonly #options: StreamLinkOptions;
  readonly #clock: Clock;
  readonly #retryMs: number;
  readonly #retryMaxMs: number;
  readonly #parser: FrameParser;
  readonly #writer: FrameWriter;
  readonly #waiting = new Set<(error?: Error) => void>();
  #receiver: LinkReceiver | undefined;
  #socket: Socket | undefined;
  #connected = false;
  #closed = false;
  #pauseMs: number;
  #retry: Timer | undefined;
  #lastReason = 'not tried yet';

  constructor(options: StreamLinkOptions) {
    const vnetHeader = options.vnetHeader ?? true;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#retryMs = options.retryMs ?? 5;
    this.#retryMaxMs = options.retryMaxMs ?? 500;
    this.#pauseMs = this.#retryMs;
    this.name = options.name ?? options.path;
    this.mtu = options.mtu ?? 1500;
    this.offload = {
      checksum: vnetHeader,
      tcp4Segmentation: vnetHeader,
      tcp6Segmentation: vnetHeader,
      maxPacket: vnetHeader ? MAX_PACKET_LEN : VNET_HDR_LEN + ETHERNET_HEADER_LEN + 4 + this.mtu,
    };
    this.#parser = new FrameParser(vnetHeader, this.offload.maxPacket, (buffer, offset, length) => {
      this.counters.received++;
      this.#receiver?.receive(buffer, offset, length);
    });
    this.#writer = new FrameWriter(
      { vnetHeader },
      (chunk, done) => {
        if (this.#socket === undefined) done();
        else this.#socket.write(chunk, done);
      },
      () => this.#receiver?.writable(),
    );
    this.#connect();
  }

  get connected(): boolean {
    return this.#connected;
  }

  /** Resolves when there is a connection. Throws `timeout`, `closed`. */
  ready(timeoutMs = 5_000): Promise<void> {
    if (this.#connected) return Promise.resolve();
    if (this.#closed) return Promise.reject(new StreamLinkError('closed', `link ${this.name} is closed`));
    return new Promise((resolve, reject) => {
      const settle = (error?: Error) => {
        timer.cancel();
        this.#waiting.delete(settle);
        if (error === undefined) resolve();
        else reject(error);
      };
      const timer = this.#clock.after(timeoutMs, () =>
        settle(
          new StreamLinkError(
            'timeout',
            `no connection to port socket ${this.#options.path} within ${timeoutMs} ms: ${this.#lastReason}`,
            { values: { path: this.#options.path, timeoutMs } },
          ),
        ),
      );
      this.#waiting.add(settle);
    });
  }

  attach(receiver: LinkReceiver): void {
    this.#receiver = receiver;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (length > this.offload.maxPacket || length < VNET_HDR_LEN + ETHERNET_HEADER_LEN) {
      this.counters.droppedOversize++;
      return true;
    }
    if (!this.#connected) {
      this.counters.droppedDisconnected++;
      return true;
    }
    if (!this.#writer.put(buffer, offset, length)) return false;
    this.counters.transmitted++;
    return true;
  }

  flush(): void {
    if (this.#connected) this.#writer.flush();
  }

  close(): void {
    if (this.#closed) return;
    this.flush();
    this.#closed = true;
    this.#retry?.cancel();
    this.#socket?.end();
    this.#lost('closed');
    for (const settle of [...this.#waiting])
      settle(new StreamLinkError('closed', `link ${this.name} is closed`));
  }

  #connect(): void {
    const socket = connect({
      path: this.#options.path,
      onread: {
        buffer: Buffer.allocUnsafeSlow(RECEIVE_BUFFER_BYTES),
        callback: (size: number, buffer: Uint8Array) => {
          this.#receive(socket, buffer, size);
          return true;
        },
      },
    });
    this.#socket = socket;
    socket.on('connect', () => {
      if (this.#socket !== socket) return;
      this.#connected = true;
      this.#pauseMs = this.#retryMs;
      this.counters.connections++;
      this.#options.onState?.(true);
      for (const settle of [...this.#waiting]) settle();
      this.#receiver?.writable();
    });
    socket.on('error', (error) => {
      this.#lastReason = error.message;
    });
    socket.on('end', () => {
      this.#lastReason = 'the other side ended the connection';
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.#lost(this.#lastReason);
    });
  }

  #receive(socket: Socket, buffer: Uint8Array, size: number): void {
    if (this.#socket !== socket || this.#closed) return;
    const fault = this.#parser.push(buffer, 0, size);
    this.counters.droppedOversize += this.#parser.oversize;
    this.#parser.oversize = 0;
    this.#receiver?.endOfBatch();
    if (fault !== undefined && this.#socket === socket) {
      this.counters.faults++;
      this.#lastReason = fault;
      socket.destroy();
    }
  }

  #lost(reason: string): void {
    const was = this.#connected;
    this.#socket = undefined;
    this.#connected = false;
    this.#parser.reset();
    this.#writer.reset();
    if (was) this.#options.onState?.(false, reason);
    if (this.#closed) return;
    this.#retry = this.#clock.after(this.#pauseMs, () => this.#connect());
    this.#pauseMs = Math.min(this.#pauseMs * 2, this.#retryMaxMs);
  }
}
