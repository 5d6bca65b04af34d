/**
 * Which flow a fragmented datagram belongs to (RFC 791: source, destination, protocol and identification name it). The first
 * fragment names the ports and is recorded here; the others look it up. Four-way sets, bounded; an entry lives 30 s, after
 * which no fragment of that datagram can be put together any more (RFC 1122, 3.3.2).
 */
const SETS = 256;
const WAYS = 4;
const LIFE_MS = 30_000;

export class FragmentTable {
  readonly #source = new Int32Array(SETS * WAYS);
  readonly #destination = new Int32Array(SETS * WAYS);
  readonly #idProtocol = new Int32Array(SETS * WAYS);
  readonly #seenMs = new Float64Array(SETS * WAYS).fill(Number.NEGATIVE_INFINITY);
  readonly #ports = new Int32Array(SETS * WAYS);

  /** The ports word of the datagram, as the flow table has it (service's port in the high half). */
  ports = 0;

  record(
    source: number,
    destination: number,
    protocol: number,
    id: number,
    ports: number,
    nowMs: number,
  ): void {
    const base = this.#base(source, destination, id);
    const key = (id << 8) | protocol;
    let at = base;
    for (let i = base; i < base + WAYS; i++) {
      if (this.#idProtocol[i] === key && this.#source[i] === source && this.#destination[i] === destination) {
        at = i;
        break;
      }
      if (this.#seenMs[i]! < this.#seenMs[at]!) at = i;
    }
    this.#source[at] = source;
    this.#destination[at] = destination;
    this.#idProtocol[at] = key;
    this.#seenMs[at] = nowMs;
    this.#ports[at] = ports;
  }

  /** Puts the datagram's ports into `ports`; false when its first fragment has not been seen. */
  find(source: number, destination: number, protocol: number, id: number, nowMs: number): boolean {
    const base = this.#base(source, destination, id);
    const key = (id << 8) | protocol;
    for (let i = base; i < base + WAYS; i++) {
      if (
        this.#idProtocol[i] === key &&
        this.#source[i] === source &&
        this.#destination[i] === destination &&
        nowMs - this.#seenMs[i]! <= LIFE_MS
      ) {
        this.ports = this.#ports[i]!;
        return true;
      }
    }
    return false;
  }

  #base(source: number, destination: number, id: number): number {
    const h = Math.imul(source ^ Math.imul(id, 0x9e3779b1) ^ Math.imul(destination, 0x85ebca6b), 0xc2b2ae35);
    return ((h >>> 16) % SETS) * WAYS;
  }
}
