/** Runs a read may be answered in that do not touch each other. Beyond, the server is taken for a hostile one. */
const RUN_LIMIT = 16_384;

/**
 * Which bytes of a read were answered, where its chunks do not come one behind the other: disjoint runs, ascending, none
 * adjacent to the next. Counting bytes is not enough: two chunks for one half would pass for the whole.
 */
export class ReadCoverage {
  readonly #starts: number[] = [];
  readonly #ends: number[] = [];

  /** [0, answered) is there already. */
  constructor(answered: number) {
    if (answered > 0) this.#put(0, 0, answered);
  }

  /** Adds [start, end), not empty; false when a byte of it was there before, or there would be too many runs. */
  add(start: number, end: number): boolean {
    let low = 0;
    let high = this.#starts.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#starts[middle]! < start) low = middle + 1;
      else high = middle;
    }
    // `low`: the first run that begins at `start` or behind it.
    if (low > 0 && this.#ends[low - 1]! > start) return false;
    if (low < this.#starts.length && this.#starts[low]! < end) return false;
    const joinsBefore = low > 0 && this.#ends[low - 1] === start;
    const joinsBehind = this.#starts[low] === end;
    if (joinsBefore && joinsBehind) {
      this.#ends[low - 1] = this.#ends[low]!;
      this.#starts.splice(low, 1);
      this.#ends.splice(low, 1);
    } else if (joinsBefore) this.#ends[low - 1] = end;
    else if (joinsBehind) this.#starts[low] = start;
    else {
      if (this.#starts.length === RUN_LIMIT) return false;
      this.#put(low, start, end);
    }
    return true;
  }

  #put(index: number, start: number, end: number): void {
    this.#starts.splice(index, 0, start);
    this.#ends.splice(index, 0, end);
  }
}
