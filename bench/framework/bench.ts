/** Runs races: ours and every peer in turn, round by round, so that whatever else the machine does hits all of them alike. */
import { messageOf } from '../../src/common/index.ts';
import type { Contender, FigureResult, Race, Skipped } from './figures.ts';
import { resultsOf } from './figures.ts';
import { linesOf } from './text.ts';

export interface BenchOptions {
  readonly quick: boolean;
  /** An existing folder for images and sockets; removed by whoever made it. */
  readonly scratch: string;
  /** Ids, or beginnings of ids; empty: all. */
  readonly filters: readonly string[];
  readonly print: (line: string) => void;
}

/** One file of the bench: the promises that it measures. */
export interface Subject {
  readonly ids: readonly string[];
  run(bench: Bench): Promise<void>;
}

export class Bench {
  readonly quick: boolean;
  readonly scratch: string;
  /** Samples of each contender. */
  readonly rounds: number;
  /** Length of a sample where a length can be chosen. */
  readonly seconds: number;
  readonly figures: FigureResult[] = [];
  readonly skipped: Skipped[] = [];
  readonly #filters: readonly string[];
  readonly #print: (line: string) => void;

  constructor(options: BenchOptions) {
    this.quick = options.quick;
    this.scratch = options.scratch;
    this.rounds = options.quick ? 2 : 3;
    this.seconds = options.quick ? 1 : 2;
    this.#filters = options.filters;
    this.#print = options.print;
  }

  wants(id: string): boolean {
    return this.#filters.length === 0 || this.#filters.includes(id);
  }

  /** A row that does not run and is not counted. */
  skip(id: string, why: string, failed = false): void {
    this.skipped.push({ id, why, failed });
    this.#print(`${id.padEnd(3)} ${failed ? 'failed' : 'not run'}: ${why}`);
  }

  /** A peer that fails is told as absent; when ours fails the row is. */
  async race(race: Race): Promise<void> {
    if (!this.wants(race.id)) return;
    const ours: (readonly number[])[] = [];
    const peers = (race.peers ?? []).map((peer) => ({
      name: peer.name,
      contender: 'sample' in peer ? (peer as Contender) : undefined,
      outcome: 'sample' in peer ? ([] as (readonly number[])[]) : peer.absent,
    }));
    for (let round = 0; round < (race.rounds ?? this.rounds); round++) {
      try {
        ours.push(await race.ours.sample());
      } catch (error) {
        this.skip(race.id, `${race.figures[0]?.what}: ${messageOf(error)}`, true);
        return;
      }
      for (const peer of peers) {
        if (peer.contender === undefined || typeof peer.outcome === 'string') continue;
        try {
          peer.outcome.push(await peer.contender.sample());
        } catch (error) {
          peer.outcome = messageOf(error);
        }
      }
    }
    for (const result of resultsOf(race, ours, peers)) {
      this.figures.push(result);
      for (const line of linesOf(result)) this.#print(line);
    }
  }

  async subject(subject: Subject): Promise<void> {
    const wanted = subject.ids.filter((id) => this.wants(id));
    if (wanted.length === 0) return;
    try {
      await subject.run(this);
    } catch (error) {
      this.skip(wanted.join(', '), messageOf(error), true);
    }
  }
}
