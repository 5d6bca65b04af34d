/**
 * Which flow a fragmented datagram belongs to (RFC 791: source, destination, protocol and identification name it; RFC 8200:
 * without the protocol; an IPv6 source is a salted hash here: with the identification of 32 bits nobody can hit another's). The first fragment names the ports and is recorded here; the others look it up. Four-way sets,
 * bounded; an entry lives 60 s, after which no fragment of that datagram can be put together any more (RFC 1122, 3.3.2; RFC 8200, 4.5).
 */
const SETS = 256;
const WAYS = 4;
const LIFE_MS = 60_000;

export class FragmentTable {
  readonly #source = new Int32Array(SETS * WAYS);
  readonly #destination = new Int32Array(SETS * WAYS);
  readonly #id = new Int32Array(SETS * WAYS);
  readonly #protocol = new Uint8Array(SETS * WAYS);
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
    let at = base;
    for (let i = base; i < base + WAYS; i++) {
      if (
        this.#id[i] === id &&
        this.#protocol[i] === protocol &&
        this.#source[i] === source &&
        this.#destination[i] === destination
      ) {
        at = i;
        break;
      }
      if (this.#seenMs[i]! < this.#seenMs[at]!) at = i;
    }
    this.#source[at] = source;
    this.#destination[at] = destination;
    this.#id[at] = id;
    this.#protocol[at] = protocol;
    this.#seenMs[at] = nowMs;
    this.#ports[at] = ports;
  }

  /** Puts the datagram's ports into `ports`; false when its first fragment has not been seen. */
  find(source: number, destination: number, protocol: number, id: number, nowMs: number): boolean {
    const base = this.#base(source, destination, id);
    for (let i = base; i < base + WAYS; i++) {
      if (
        this.#id[i] === id &&
        this.#protocol[i] === protocol &&
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
