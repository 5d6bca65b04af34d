/**
 * One run of a task at a time for many who ask. Who asks while it runs shares the next run, since the running one may have
 * begun too early for him: the rule of a flush.
 */
export class Coalesced {
  readonly #task: () => Promise<void>;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;

  constructor(task: () => Promise<void>) {
    this.#task = task;
  }

  request(): Promise<void> {
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  /** Ends when no run is under way. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await (this.#next ?? this.#running).catch(() => {});
  }

  #start(): Promise<void> {
    const run = this.#task().finally(() => {
      if (this.#running === run && this.#next === undefined) this.#running = undefined;
    });
    this.#running = run;
    return run;
  }
}
