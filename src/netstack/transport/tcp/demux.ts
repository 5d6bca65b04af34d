import type { IpAddress } from '../../wire/index.ts';
import type { Tcb } from './tcb.ts';

/**
 * Finds the connection of a segment: a map by the two ports, then a short chain compared by address. Both address families
 * fit without building a key, and an altered local address needs no new place.
 */
export class Demux {
  readonly #buckets = new Map<number, Tcb>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  find(
    localAddress: IpAddress,
    localPort: number,
    remoteAddress: IpAddress,
    remotePort: number,
  ): Tcb | undefined {
    let tcb = this.#buckets.get(((remotePort << 16) | localPort) >>> 0);
    while (tcb !== undefined && (tcb.remoteAddress !== remoteAddress || tcb.localAddress !== localAddress)) {
      tcb = tcb.nextInBucket;
    }
    return tcb;
  }

  /** Whether any connection uses these ports and this remote address, whatever its local one. */
  portPairInUse(localPort: number, remoteAddress: IpAddress, remotePort: number): boolean {
    let tcb = this.#buckets.get(((remotePort << 16) | localPort) >>> 0);
    while (tcb !== undefined && tcb.remoteAddress !== remoteAddress) tcb = tcb.nextInBucket;
    return tcb !== undefined;
  }

  add(tcb: Tcb): void {
    const key = ((tcb.remotePort << 16) | tcb.localPort) >>> 0;
    tcb.nextInBucket = this.#buckets.get(key);
    this.#buckets.set(key, tcb);
    this.#size++;
  }

  remove(tcb: Tcb): void {
    const key = ((tcb.remotePort << 16) | tcb.localPort) >>> 0;
    let before: Tcb | undefined;
    let at = this.#buckets.get(key);
    while (at !== undefined && at !== tcb) {
      before = at;
      at = at.nextInBucket;
    }
    if (at === undefined) return;
    if (before !== undefined) before.nextInBucket = tcb.nextInBucket;
    else if (tcb.nextInBucket !== undefined) this.#buckets.set(key, tcb.nextInBucket);
    else this.#buckets.delete(key);
    tcb.nextInBucket = undefined;
    this.#size--;
  }

  *[Symbol.iterator](): IterableIterator<Tcb> {
    for (const first of this.#buckets.values()) {
      let tcb: Tcb | undefined = first;
      while (tcb !== undefined) {
        const next: Tcb | undefined = tcb.nextInBucket;
        yield tcb;
        tcb = next;
      }
    }
  }
}
