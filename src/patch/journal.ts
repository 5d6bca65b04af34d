/**
 * The journal of a run: what was about to be done, what was done, and with what facts. An entry is written before the
 * thing it announces is begun; after a crash the run is resumed or undone from the journal alone.
 */
import { PatchError } from './errors.ts';
import { FINAL_PHASES } from './run/phase.ts';

/** Stands in every `run-begun` entry: what its steps, their undoing and the facts of its entries mean. 1: before there was one. */
export const JOURNAL_VERSION = 2;

/**
 * What a newer program began and did not end is not undone by guessing: throws PatchError `journal-newer`. To be called before
 * anything is touched.
 */
export function refuseNewerRuns(journal: Journal): void {
  for (const id of journal.runs()) {
    const entries = journal.read(id);
    const version = entries.find((e) => e.kind === 'run-begun')?.facts?.['version'];
    const found = typeof version === 'number' ? version : 1;
    const last = entries.findLast((e) => e.kind === 'phase')?.name;
    if (found <= JOURNAL_VERSION || FINAL_PHASES.some((phase) => phase === last)) continue;
    throw new PatchError(
      'journal-newer',
      `run ${id} was begun by a newer program: its journal has version ${found}, this program knows versions up to ${JOURNAL_VERSION}`,
      {
        remedy: 'start the newer program and end the run with it: changeover commit, rollback or cancel',
        values: { run: id, found, known: JOURNAL_VERSION },
      },
    );
  }
}

export const JOURNAL_KINDS = [
  'run-begun',
  'step-begun',
  'step-done',
  'step-failed',
  'undo-begun',
  'undo-done',
  'phase',
  'state',
] as const;
export type JournalKind = (typeof JOURNAL_KINDS)[number];

export interface JournalEntry {
  readonly runId: string;
  readonly kind: JournalKind;
  /** Step name; for `phase` the phase entered; for `state` what the facts are, e.g. connections between two stacks. */
  readonly name: string;
  /** Milliseconds since 1970. */
  readonly atMs: number;
  /** JSON-able facts that later steps or an undo need. */
  readonly facts?: Readonly<Record<string, unknown>>;
}

export interface Journal {
  /** Survives kill -9 of this process when it returns; `run-begun` and `phase` entries survive a power loss as well. */
  append(entry: JournalEntry): void;
  /** In the order of appending. */
  read(runId: string): JournalEntry[];
  /** Run ids, oldest first. */
  runs(): string[];
  /** Every entry of a run that is over. */
  remove(runId: string): void;
}

export class MemoryJournal implements Journal {
  #entries: JournalEntry[] = [];

  append(entry: JournalEntry): void {
    this.#entries.push(structuredClone(entry));
  }

  read(runId: string): JournalEntry[] {
    return this.#entries.filter((entry) => entry.runId === runId);
  }

  runs(): string[] {
    return [...new Set(this.#entries.map((entry) => entry.runId))];
  }

  remove(runId: string): void {
    this.#entries = this.#entries.filter((entry) => entry.runId !== runId);
  }
}
