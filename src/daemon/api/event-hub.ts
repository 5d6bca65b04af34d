/** Everything that happens, numbered, for `GET /events`: a bounded history, so that a listener that reconnects misses little. */
export interface DaemonEvent {
  /** Ascending by one; starts at 1 with the daemon. */
  readonly id: number;
  readonly type: string;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  readonly data: unknown;
}

const HISTORY = 1000;

export class EventHub {
  readonly #listeners = new Set<(event: DaemonEvent) => void>();
  readonly #nowMs: () => number;
  #history: DaemonEvent[] = [];
  #last = 0;

  constructor(nowMs: () => number = Date.now) {
    this.#nowMs = nowMs;
  }

  publish(type: string, data: unknown): void {
    const event = { id: ++this.#last, type, atMs: this.#nowMs(), data };
    this.#history.push(event);
    if (this.#history.length > HISTORY * 2) this.#history = this.#history.slice(-HISTORY);
    for (const listener of this.#listeners) listener(event);
  }

  /** Events after number `id` that are still known. */
  since(id: number): DaemonEvent[] {
    return this.#history.filter((event) => event.id > id);
  }

  /** Number of the newest event, 0 when there was none. */
  get last(): number {
    return this.#last;
  }

  /** Returns the function that takes the listener off again. */
  listen(listener: (event: DaemonEvent) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
