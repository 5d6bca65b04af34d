/**
 * One direction of a TCP connection that somebody else has, seen from beside: bytes in order, out of segments that may come
 * in any order, twice, and overlapping. What was delivered stands: a segment that says otherwise later is not heard.
 *
 * Nobody can be asked to send again what was not seen. A segment beyond the window, or more waiting behind a gap than the
 * limits allow, ends it (`push` answers false), and so does whoever takes the bytes.
 */
export interface AssemblerLimits {
  /** How far beyond what was delivered a segment may be, and bytes that wait behind a gap. */
  readonly bytes: number;
  readonly segments: number;
}

interface Waiting {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

export class StreamAssembler {
  readonly #limits: AssemblerLimits;
  readonly #deliver: (bytes: Uint8Array) => boolean;
  #next: number;
  /** In the order of their sequence numbers; copies. */
  #waiting: Waiting[] = [];
  #waitingBytes = 0;

  /** `next`: sequence number of the first byte. `deliver` must copy what it keeps, and answers whether it wants more. */
  constructor(next: number, limits: AssemblerLimits, deliver: (bytes: Uint8Array) => boolean) {
    this.#next = next >>> 0;
    this.#limits = limits;
    this.#deliver = deliver;
  }

  /** Bytes that were seen and cannot be delivered yet. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /** False: nothing more will come of it. */
  push(sequence: number, bytes: Uint8Array): boolean {
    const ahead = (sequence - this.#next) | 0;
    if (ahead > 0) return bytes.length === 0 || this.#wait(sequence >>> 0, bytes, ahead);
    if (!this.#advance(ahead, bytes)) return false;
    while (this.#waiting.length > 0) {
      const first = this.#waiting[0]!;
      const distance = (first.sequence - this.#next) | 0;
      if (distance > 0) break;
      this.#waiting.shift();
      this.#waitingBytes -= first.bytes.length;
      if (!this.#advance(distance, first.bytes)) return false;
    }
    return true;
  }

  /** `ahead` ≤ 0: so many bytes of it were delivered before. */
  #advance(ahead: number, bytes: Uint8Array): boolean {
    const known = -ahead;
    if (known >= bytes.length) return true;
    const fresh = known === 0 ? bytes : bytes.subarray(known);
    this.#next = (this.#next + fresh.length) >>> 0;
    return this.#deliver(fresh);
  }

  #wait(sequence: number, bytes: Uint8Array, ahead: number): boolean {
    const { bytes: most, segments } = this.#limits;
    let at = this.#waiting.length;
    while (at > 0 && ((this.#waiting[at - 1]!.sequence - sequence) | 0) > 0) at--;
    const before = this.#waiting[at - 1];
    if (before !== undefined && before.sequence === sequence && before.bytes.length >= bytes.length)
      return true;
    if (ahead + bytes.length > most || this.#waitingBytes + bytes.length > most) return false;
    if (this.#waiting.length >= segments) return false;
    this.#waiting.splice(at, 0, { sequence, bytes: bytes.slice() });
    this.#waitingBytes += bytes.length;
    return true;
  }
}
