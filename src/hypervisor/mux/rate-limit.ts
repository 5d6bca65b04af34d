/**
 * Token buckets: what a port may send or be sent per second. A packet passes while there is a token, and takes what it costs
 * even into debt: so packets of any size pass, and over time the rate is exact. Tokens come with time, up to the burst.
 *
 * Who can be stopped (a partition, at its socket) is *held back*: its packets pass, and `debtMs` says how long it has to be left
 * unread. Who cannot (an uplink) loses packets.
 */
export interface Rate {
  readonly bytesPerSecond?: number;
  /** Packets as on a wire: one that is to be cut counts as its segments. */
  readonly packetsPerSecond?: number;
  /** Default: what comes in 100 ms, at least 131072. */
  readonly burstBytes?: number;
  /** Default: what comes in 100 ms, at least 128. */
  readonly burstPackets?: number;
}

export interface PortLimits {
  /** What the port's other end may send into the mux. */
  readonly send?: Rate;
  /** What it may be sent; the rest is dropped. */
  readonly receive?: Rate;
  /** Bytes that may wait for it; partitions' ports only. Default and most: 2 MiB. */
  readonly queueBytes?: number;
}

const BURST_MS = 100;
const LEAST_BURST = { bytes: 131_072, packets: 128 };

class Bucket {
  readonly #perMs: number;
  readonly #most: number;
  #tokens: number;

  constructor(perSecond: number, burst: number) {
    this.#perMs = perSecond / 1000;
    this.#most = burst;
    this.#tokens = burst;
  }

  pass(ms: number): void {
    this.#tokens = Math.min(this.#most, this.#tokens + ms * this.#perMs);
  }

  get empty(): boolean {
    return this.#tokens <= 0;
  }

  take(cost: number): void {
    this.#tokens -= cost;
  }

  get debtMs(): number {
    return this.#tokens >= 0 ? 0 : -this.#tokens / this.#perMs;
  }
}

export class RateLimit {
  readonly #bytes: Bucket | undefined;
  readonly #packets: Bucket | undefined;
  #lastMs: number;

  constructor(rate: Rate, nowMs: number) {
    const { bytesPerSecond, packetsPerSecond, burstBytes, burstPackets } = rate;
    const bucket = (perSecond: number | undefined, burst: number | undefined, least: number) =>
      perSecond === undefined
        ? undefined
        : new Bucket(perSecond, burst ?? Math.max((perSecond * BURST_MS) / 1000, least));
    this.#bytes = bucket(bytesPerSecond, burstBytes, LEAST_BURST.bytes);
    this.#packets = bucket(packetsPerSecond, burstPackets, LEAST_BURST.packets);
    this.#lastMs = nowMs;
  }

  /** Whether a packet may pass; it is paid for then. */
  admits(bytes: number, packets: number, nowMs: number): boolean {
    this.#pass(nowMs);
    if (this.#bytes?.empty === true || this.#packets?.empty === true) return false;
    this.charge(bytes, packets);
    return true;
  }

  /** Pays for a packet that passes anyhow. */
  charge(bytes: number, packets: number): void {
    this.#bytes?.take(bytes);
    this.#packets?.take(packets);
  }

  /** How long nothing more is to be taken. */
  debtMs(nowMs: number): number {
    this.#pass(nowMs);
    return Math.max(this.#bytes?.debtMs ?? 0, this.#packets?.debtMs ?? 0);
  }

  #pass(nowMs: number): void {
    const ms = nowMs - this.#lastMs;
    if (ms <= 0) return;
    this.#lastMs = nowMs;
    this.#bytes?.pass(ms);
    this.#packets?.pass(ms);
  }
}

/** Packets that the unit at `offset` is on a wire. */
export function wirePackets(buffer: Uint8Array, offset: number, length: number): number {
  if (buffer[offset + 1] === 0) return 1;
  const size = buffer[offset + 4]! | (buffer[offset + 5]! << 8);
  const headers = buffer[offset + 2]! | (buffer[offset + 3]! << 8);
  return size === 0 ? 1 : Math.max(1, Math.ceil((length - headers) / size));
}

/** What is wrong with limits that somebody gave; undefined: nothing. */
export function limitsFault(limits: PortLimits, queueing: boolean): string | undefined {
  for (const direction of ['send', 'receive'] as const) {
    for (const [key, value] of Object.entries(limits[direction] ?? {})) {
      if (!Number.isFinite(value) || value <= 0) return `${direction}.${key} is ${value}, it must be above 0`;
    }
  }
  const { queueBytes } = limits;
  if (queueBytes === undefined) return undefined;
  if (!queueing) return 'queueBytes is for ports of partitions';
  return Number.isFinite(queueBytes) && queueBytes >= LEAST_QUEUE_BYTES
    ? undefined
    : `queueBytes is ${queueBytes}, at least ${LEAST_QUEUE_BYTES}`;
}

/** Room for two packets of 64 KiB. */
const LEAST_QUEUE_BYTES = 131_072;
