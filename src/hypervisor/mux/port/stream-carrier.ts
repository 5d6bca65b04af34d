import type { Socket } from 'node:net';
import { FrameParser, FrameWriter } from '../../../netstack/index.ts';
import type { Carrier, CarrierOwner } from './carrier.ts';

/**
 * Frames that are handled as a whole. More would make a flood of small ones cost its neighbours more than their share of a turn.
 */
const PORTION_FRAMES = 64;
/** Bytes waiting for a turn at which the socket is left unread: the kernel then stops the sender. */
const BACKLOG_BYTES = 256 * 1024;

/**
 * Frames on the connection (stream-framing.ts). Sending is bounded by the writer's buffers. A chunk that comes while the port has
 * no time for it is copied into a backlog, which is bounded, too.
 */
export class StreamCarrier implements Carrier {
  readonly kind = 'stream';
  readonly #owner: CarrierOwner;
  readonly #socket: Socket;
  readonly #parser: FrameParser;
  readonly #writer: FrameWriter;
  readonly #backlog: Buffer[] = [];
  #backlogBytes = 0;
  /** In the buffer that the next read overwrites. */
  #fresh: Buffer | undefined;
  #gone = false;

  constructor(owner: CarrierOwner, socket: Socket, vnetHeader: boolean, maxPacket: number) {
    this.#owner = owner;
    this.#socket = socket;
    this.#parser = new FrameParser(vnetHeader, maxPacket, (buffer, offset, length) =>
      owner.receiver?.receive(buffer, offset, length),
    );
    this.#writer = new FrameWriter(
      { vnetHeader },
      (chunk, done) => {
        if (this.#gone) done();
        else socket.write(chunk, done);
      },
      () => owner.receiver?.writable(),
    );
  }

  get fill(): number {
    return this.#writer.used;
  }

  get queuedBytes(): number {
    return this.#writer.queuedBytes;
  }

  get waiting(): boolean {
    return this.#fresh !== undefined || this.#backlog.length > 0;
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    return this.#writer.put(buffer, offset, length);
  }

  flush(): void {
    this.#writer.flush();
  }

  /** The socket has read `chunk`, whose bytes are good during this call only. */
  read(chunk: Buffer): void {
    if (this.#gone) return;
    if (this.#backlog.length > 0) {
      this.#keep(chunk);
      this.#owner.waits(this);
      return;
    }
    this.#fresh = chunk;
    this.#owner.arrived(this);
    const left = this.#fresh;
    this.#fresh = undefined;
    if (left !== undefined && !this.#gone) this.#keep(left);
  }

  take(): boolean {
    const chunk = this.#fresh ?? this.#backlog[0];
    if (chunk === undefined) return false;
    const fault = this.#parser.push(chunk, 0, chunk.length, PORTION_FRAMES);
    this.#taken(chunk, this.#parser.position);
    if (this.#parser.oversize > 0) {
      this.#owner.oversize(this.#parser.oversize);
      this.#parser.oversize = 0;
    }
    this.#owner.receiver?.endOfBatch();
    if (fault !== undefined) this.#owner.faulty(this, fault);
    return true;
  }

  end(): void {
    this.flush();
    this.#gone = true;
    this.#socket.end();
    this.#socket.unref();
  }

  destroy(): void {
    this.#gone = true;
    this.#socket.destroy();
  }

  /** The first `count` bytes of `chunk`, which is what was to be taken next, have been. */
  #taken(chunk: Buffer, count: number): void {
    const rest = count < chunk.length ? chunk.subarray(count) : undefined;
    if (this.#fresh !== undefined) {
      this.#fresh = rest;
      return;
    }
    if (rest === undefined) this.#backlog.shift();
    else this.#backlog[0] = rest;
    this.#backlogBytes -= count;
    if (this.#backlogBytes < BACKLOG_BYTES / 2 && this.#socket.isPaused()) this.#socket.resume();
  }

  #keep(chunk: Buffer): void {
    this.#backlog.push(Buffer.from(chunk));
    this.#backlogBytes += chunk.length;
    if (this.#backlogBytes >= BACKLOG_BYTES) this.#socket.pause();
  }
}
