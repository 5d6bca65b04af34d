import { CodedError } from '../../common/index.ts';

export const PARTITION_STATES = ['defined', 'starting', 'running', 'stopping', 'stopped', 'failed'] as const;
export type PartitionState = (typeof PARTITION_STATES)[number];

/**
 * Every legal transition. `defined → running` and `stopped → running` are the adoption of a guest that outlived the
 * control process; `running → failed` is a crash.
 */
export const PARTITION_TRANSITIONS: Readonly<Record<PartitionState, readonly PartitionState[]>> = {
  defined: ['starting', 'running'],
  starting: ['running', 'stopping', 'failed'],
  running: ['stopping', 'failed'],
  stopping: ['stopped', 'failed'],
  stopped: ['starting', 'running'],
  failed: ['starting', 'stopped'],
};

export class LifecycleError extends CodedError {}

export function isLegalTransition(from: PartitionState, to: PartitionState): boolean {
  return PARTITION_TRANSITIONS[from].includes(to);
}

/** State of one partition and how long it has had it. Throws `illegal-transition`. */
export class Lifecycle {
  readonly #id: string;
  readonly #listeners = new Set<(state: PartitionState, reason: string | undefined) => void>();
  #state: PartitionState = 'defined';
  #reason: string | undefined;

  constructor(id: string) {
    this.#id = id;
  }

  get state(): PartitionState {
    return this.#state;
  }

  /** Why it is `failed`, else undefined. */
  get reason(): string | undefined {
    return this.#reason;
  }

  to(state: PartitionState, reason?: string): void {
    if (!isLegalTransition(this.#state, state)) {
      throw new LifecycleError(
        'illegal-transition',
        `partition ${this.#id} is ${this.#state}: it cannot become ${state}`,
        {
          values: { partition: this.#id, from: this.#state, to: state },
          remedy: `from ${this.#state} it can become ${PARTITION_TRANSITIONS[this.#state].join(', ')}`,
        },
      );
    }
    this.#state = state;
    this.#reason = state === 'failed' ? (reason ?? 'no reason was given') : undefined;
    for (const listener of this.#listeners) listener(state, this.#reason);
  }

  /** Returns the function that takes the listener off again. */
  onChange(listener: (state: PartitionState, reason: string | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}
