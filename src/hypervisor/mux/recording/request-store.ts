/**
 * The requests of a service that were recorded, one of each kind: method and target. Bounded in number, bytes and age. Where there is no
 * room the one that came least often goes, of several the one that has not come for longest: what nobody asks twice does not push
 * out what everybody asks.
 */
export interface StoreLimits {
  readonly requests: number;
  readonly bytes: number;
  /** Since it came last. */
  readonly ageMs: number;
}

export interface StoredRequest {
  readonly method: string;
  readonly target: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
}

interface Entry {
  /** As it came last. */
  request: StoredRequest;
  bytes: number;
  count: number;
  lastMs: number;
}

export class RequestStore {
  readonly #limits: StoreLimits;
  readonly #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(limits: StoreLimits) {
    this.#limits = limits;
  }

  get size(): number {
    return this.#entries.size;
  }

  get bytes(): number {
    return this.#bytes;
  }

  put(request: StoredRequest, nowMs: number): void {
    const key = `${request.method} ${request.target}`;
    const bytes = sizeOf(request);
    if (bytes > this.#limits.bytes) return;
    const known = this.#entries.get(key);
    if (known !== undefined) {
      this.#bytes += bytes - known.bytes;
      known.request = request;
      known.bytes = bytes;
      known.count++;
      known.lastMs = nowMs;
    } else {
      this.#expire(nowMs);
      this.#entries.set(key, { request, bytes, count: 1, lastMs: nowMs });
      this.#bytes += bytes;
    }
    while (this.#entries.size > this.#limits.requests || this.#bytes > this.#limits.bytes)
      this.#dropRarest(key);
  }

  /** Most often first. */
  list(nowMs: number): { readonly request: StoredRequest; readonly count: number; readonly ageMs: number }[] {
    this.#expire(nowMs);
    return [...this.#entries.values()]
      .sort((a, b) => b.count - a.count || b.lastMs - a.lastMs)
      .map(({ request, count, lastMs }) => ({ request, count, ageMs: nowMs - lastMs }));
  }

  #expire(nowMs: number): void {
    for (const [key, entry] of this.#entries) {
      if (nowMs - entry.lastMs > this.#limits.ageMs) this.#delete(key, entry);
    }
  }

  #dropRarest(kept: string): void {
    let rarest: [string, Entry] | undefined;
    for (const one of this.#entries) {
      if (one[0] === kept) continue;
      const [, { count, lastMs }] = one;
      const other = rarest?.[1];
      if (other === undefined || count < other.count || (count === other.count && lastMs < other.lastMs))
        rarest = one;
    }
    if (rarest !== undefined) this.#delete(...rarest);
  }

  #delete(key: string, entry: Entry): void {
    this.#entries.delete(key);
    this.#bytes -= entry.bytes;
  }
}

function sizeOf({ method, target, headers, body = '' }: StoredRequest): number {
  let bytes = method.length + target.length + Buffer.byteLength(body);
  for (const [name, value] of Object.entries(headers)) bytes += name.length + value.length;
  return bytes;
}
