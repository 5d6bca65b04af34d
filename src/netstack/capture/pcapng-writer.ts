/**
 * Writes a capture that can be read while it grows.
 *
 * Two chunks of equal size: one is filled by `writePacket`, the other is on its way to the sink. They change places when
 * the sink is free and the filling one has reached a threshold, the flush interval has passed, or a mark was set. When both
 * are full the packet is not captured and counted: the data path never waits and memory is bounded.
 *
 * A chunk holds whole blocks only, so the file always ends after a block except while a write is in progress. The first
 * error of the sink (full disk), or reaching `limitBytes`, stops the capture: `stopped` says why, packets from then on are
 * counted as dropped. What comes after `close` is no part of the capture and not counted. An interface's description is
 * written with its first packet, so its number in the file is the order of these, not the caller's id.
 */
import { type as osType, release } from 'node:os';
import type { Clock, Timer } from '../../common/index.ts';
import { codeOf, messageOf, systemClock } from '../../common/index.ts';
import { VNET_HDR_LEN } from '../link/index.ts';
import type { CaptureSink } from './capture-sink.ts';
import { FileSink } from './capture-sink.ts';
import { ChunkPool } from './chunk-pool.ts';
import { finishCopy } from './finish-copy.ts';
import type { CaptureDirection, CaptureInterface, Chunk } from './pcapng-blocks.ts';
import { interfaceBlockRoom, packetBlockRoom } from './pcapng-blocks.ts';

export interface CaptureOptions {
  /** Goes into the section header. */
  readonly comment?: string;
  /** Longest time a packet stays in memory, default 250 ms. */
  readonly flushMs?: number;
  /** Size of each of the two chunks, default 4 MiB, at least 256 KiB. */
  readonly bufferBytes?: number;
  /** The capture stops before it gets larger than this. */
  readonly limitBytes?: number;
  /** Told once when the capture stops before `close`. */
  readonly onStop?: (stop: CaptureStop) => void;
  readonly clock?: Clock;
}

/** `code`: an errno name such as ENOSPC, `limit`, or `closed`. */
export interface CaptureStop {
  readonly code: string;
  readonly reason: string;
}

export interface CaptureSummary {
  readonly packets: number;
  /** In the file, headers included. */
  readonly bytes: number;
  /** Packets that were not captured: sink too slow, or stopped. */
  readonly dropped: number;
  readonly stopped?: CaptureStop;
}

interface InterfaceState {
  readonly description: CaptureInterface;
  readonly snapLength: number;
  /** Number in the file, -1 until its description is written. */
  fileId: number;
  seen: number;
  dropped: number;
}

const DEFAULT_SNAP_LENGTH = 262_144;
const DEFAULT_BUFFER_BYTES = 4 * 1024 * 1024;
const LEAST_BUFFER_BYTES = 256 * 1024;
/** A filling chunk goes out from here on. */
const FLUSH_BYTES = 128 * 1024;
/** Longest name and description of an interface. */
const MAX_TEXT = 1000;
const MARKS: CaptureInterface = { name: 'marks', description: 'comments of the program, no packets' };
/** A mark is a frame without addresses of the local experimental ethertype (IEEE 802) whose payload is the text. */
const MARK_ETHERTYPE = 0x88b5;
const MARK_HEADER_BYTES = VNET_HDR_LEN + 14;
const MARK_TEXT_BYTES = 1400;

const chunks = new ChunkPool();

/** Makes what the first capture of this process will need, where making it disturbs nobody. */
export function prepareCaptures(): void {
  for (const chunk of [chunks.take(DEFAULT_BUFFER_BYTES), chunks.take(DEFAULT_BUFFER_BYTES)])
    chunks.give(chunk);
}

export class PcapngWriter {
  readonly #sink: CaptureSink;
  readonly #clock: Clock;
  readonly #flushMs: number;
  readonly #limitBytes: number;
  readonly #onStop: ((stop: CaptureStop) => void) | undefined;
  readonly #interfaces: InterfaceState[] = [];
  readonly #startNs: bigint;
  #filling: Chunk;
  #spare: Chunk;
  #timer: Timer | undefined;
  /** The write in progress; it never rejects. */
  #writing: Promise<void> | undefined;
  #announced = 0;
  #marks = -1;
  #packets = 0;
  #bytes = 0;
  #dropped = 0;
  /** No packet is taken any more. */
  #stopped: CaptureStop | undefined;
  /** The sink has failed: nothing is written any more either. */
  #broken: CaptureStop | undefined;
  #closing: Promise<CaptureSummary> | undefined;

  /** A path is created or replaced. Throws CaptureError when that fails. */
  static create(target: string | CaptureSink, options: CaptureOptions = {}): PcapngWriter {
    return new PcapngWriter(typeof target === 'string' ? new FileSink(target) : target, options);
  }

  private constructor(sink: CaptureSink, options: CaptureOptions) {
    const size = Math.max(options.bufferBytes ?? DEFAULT_BUFFER_BYTES, LEAST_BUFFER_BYTES);
    this.#sink = sink;
    this.#clock = options.clock ?? systemClock;
    this.#flushMs = options.flushMs ?? 250;
    this.#limitBytes = options.limitBytes ?? Number.POSITIVE_INFINITY;
    this.#onStop = options.onStop;
    this.#startNs = this.#clock.wallNs();
    this.#filling = chunks.take(size);
    this.#spare = chunks.take(size);
    this.#filling.section({
      os: `${osType()} ${release()}`,
      application: 'changeover',
      comment: options.comment,
    });
    this.#push();
  }

  /** Returns the id for writePacket. */
  addInterface(description: CaptureInterface): number {
    const wanted = description.snapLength ?? DEFAULT_SNAP_LENGTH;
    const snapLength =
      Number.isInteger(wanted) && wanted > 0 ? Math.min(wanted, DEFAULT_SNAP_LENGTH) : DEFAULT_SNAP_LENGTH;
    const texts = {
      name: description.name.slice(0, MAX_TEXT),
      ...(description.description === undefined
        ? {}
        : { description: description.description.slice(0, MAX_TEXT) }),
      ...(description.hardware === undefined ? {} : { hardware: description.hardware.slice(0, MAX_TEXT) }),
    };
    return this.#interfaces.push({ description: texts, snapLength, fileId: -1, seen: 0, dropped: 0 }) - 1;
  }

  /**
   * Captures the packet (vnet header and frame) at buffer[offset, offset + length). `inbound`: it came in from the link.
   * Copies; never throws and never waits. What cannot be captured (an id never handed out, too) is counted as dropped.
   */
  writePacket(
    id: number,
    direction: CaptureDirection | undefined,
    timestampNs: bigint,
    buffer: Uint8Array,
    offset: number,
    length: number,
    comment?: string,
  ): void {
    if (this.#closing !== undefined) return;
    const state = this.#interfaces[id];
    if (state === undefined) {
      this.#dropped++;
      return;
    }
    state.seen++;
    const original = length - VNET_HDR_LEN;
    const captured = Math.min(original, state.snapLength);
    if (original < 0 || !this.#reserve(state, packetBlockRoom(captured, comment))) {
      state.dropped++;
      this.#dropped++;
      return;
    }
    const chunk = this.#filling;
    const frame = offset + VNET_HDR_LEN;
    const at = chunk.beginPacket(state.fileId, timestampNs, captured, original);
    if (captured <= 128) for (let i = 0; i < captured; i++) chunk.bytes[at + i] = buffer[frame + i]!;
    else chunk.bytes.set(buffer.subarray(frame, frame + captured), at);
    finishCopy(chunk.bytes, at, captured, buffer, offset, frame, original);
    chunk.endPacket(at, direction, comment);
    this.#packets++;
    if (chunk.used >= FLUSH_BYTES) this.#push();
    else this.#later();
  }

  /** Puts a comment between the packets, visible in the packet list as a frame of interface `marks`, and flushes. */
  mark(comment: string, timestampNs: bigint = this.#clock.wallNs()): void {
    if (this.#marks < 0) this.#marks = this.addInterface(MARKS);
    const packet = new Uint8Array(MARK_HEADER_BYTES + MARK_TEXT_BYTES);
    packet[MARK_HEADER_BYTES - 2] = MARK_ETHERTYPE >> 8;
    packet[MARK_HEADER_BYTES - 1] = MARK_ETHERTYPE & 0xff;
    const { written } = new TextEncoder().encodeInto(comment, packet.subarray(MARK_HEADER_BYTES));
    this.writePacket(this.#marks, undefined, timestampNs, packet, 0, MARK_HEADER_BYTES + written, comment);
    this.#push();
  }

  /** Resolves when everything captured so far is in the sink (or the capture has stopped). */
  async flush(): Promise<void> {
    while (this.#broken === undefined && (this.#filling.used > 0 || this.#writing !== undefined)) {
      this.#push();
      await this.#writing;
    }
  }

  get summary(): CaptureSummary {
    return { ...this.#counts, ...(this.#stopped === undefined ? {} : { stopped: this.#stopped }) };
  }

  get #counts(): { packets: number; bytes: number; dropped: number } {
    return { packets: this.#packets, bytes: this.#bytes, dropped: this.#dropped };
  }

  /** Ends the file with one statistics block per interface. Idempotent; never rejects. */
  close(): Promise<CaptureSummary> {
    this.#closing ??= this.#finish();
    return this.#closing;
  }

  async #finish(): Promise<CaptureSummary> {
    await this.flush();
    const nowNs = this.#clock.wallNs();
    for (const state of this.#interfaces) {
      this.#announce(state);
      this.#filling.statistics(state.fileId, nowNs, this.#startNs, state.seen, state.dropped);
      if (this.#filling.used >= FLUSH_BYTES) await this.flush();
      if (this.#broken !== undefined) break;
    }
    const early = this.#stopped;
    this.#stopped ??= { code: 'closed', reason: 'the capture was closed' };
    await this.flush();
    this.#timer?.cancel();
    const stopped = early ?? this.#broken;
    const summary = { ...this.#counts, ...(stopped === undefined ? {} : { stopped }) };
    try {
      await this.#sink.close();
    } catch (error) {
      if (summary.stopped === undefined) return { ...summary, stopped: stopOf(error) };
    } finally {
      chunks.give(this.#filling);
      chunks.give(this.#spare);
    }
    return summary;
  }

  /** Makes room for `bytes` in the filling chunk and announces the interface; false: there is none. */
  #reserve(state: InterfaceState, bytes: number): boolean {
    if (this.#stopped !== undefined) return false;
    const needed = bytes + (state.fileId < 0 ? interfaceBlockRoom(state.description) : 0);
    if (this.#bytes + this.#filling.used + needed > this.#limitBytes) {
      this.#stop({ code: 'limit', reason: `the capture has reached its limit of ${this.#limitBytes} bytes` });
      return false;
    }
    if (this.#filling.room < needed) {
      this.#push();
      if (this.#filling.room < needed) return false;
    }
    this.#announce(state);
    return true;
  }

  #announce(state: InterfaceState): void {
    if (state.fileId >= 0) return;
    this.#filling.interface(state.description, state.snapLength);
    state.fileId = this.#announced++;
  }

  #later(): void {
    if (this.#timer !== undefined) return;
    this.#timer = this.#clock.after(this.#flushMs, () => {
      this.#timer = undefined;
      this.#push();
    });
  }

  /** Hands the filling chunk to the sink unless that is busy; then it happens when the sink is free. */
  #push(): void {
    if (this.#writing !== undefined || this.#filling.used === 0 || this.#broken !== undefined) return;
    const chunk = this.#filling;
    this.#filling = this.#spare;
    this.#spare = chunk;
    this.#writing = this.#write(chunk);
  }

  async #write(chunk: Chunk): Promise<void> {
    try {
      await this.#sink.write(chunk.bytes.subarray(0, chunk.used));
      this.#bytes += chunk.used;
    } catch (error) {
      this.#broken = stopOf(error);
      this.#stop(this.#broken);
    }
    chunk.used = 0;
    this.#writing = undefined;
    if (this.#filling.used >= FLUSH_BYTES) this.#push();
    else if (this.#filling.used > 0) this.#later();
  }

  #stop(stop: CaptureStop): void {
    if (this.#stopped !== undefined) return;
    this.#stopped = stop;
    this.#onStop?.(stop);
  }
}

function stopOf(error: unknown): CaptureStop {
  return { code: codeOf(error) ?? 'EIO', reason: messageOf(error) };
}
