/**
 * Keeps the event loop alive while something that is "ref'd" exists, as a kernel socket would: the stack's own timers and
 * its link never do. One idle interval serves all.
 */
const FAR_MS = 2 ** 30;

export class LoopAnchor {
  #held = 0;
  #over = false;
  #interval: NodeJS.Timeout | undefined;

  /** From now on nothing is held any more. */
  end(): void {
    this.#over = true;
    clearInterval(this.#interval);
    this.#interval = undefined;
  }

  hold(): void {
    this.#held++;
    if (this.#over) return;
    this.#interval ??= setInterval(() => {}, FAR_MS);
  }

  release(): void {
    this.#held--;
    if (this.#held > 0) return;
    clearInterval(this.#interval);
    this.#interval = undefined;
  }
}

/** One holder of an anchor: `ref` and `unref` are idempotent. */
export class AnchorHold {
  readonly #anchor: LoopAnchor;
  #holding = false;
  #over = false;

  constructor(anchor: LoopAnchor) {
    this.#anchor = anchor;
    this.ref();
  }

  ref(): void {
    if (this.#holding || this.#over) return;
    this.#holding = true;
    this.#anchor.hold();
  }

  unref(): void {
    if (!this.#holding) return;
    this.#holding = false;
    this.#anchor.release();
  }

  /** For good. */
  end(): void {
    this.unref();
    this.#over = true;
  }
}
