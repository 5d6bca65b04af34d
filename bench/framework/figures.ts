/** What a row of the bench is: figures, taken of ours and of its peers in turn, and what they must reach. */

export const UNITS = {
  perSecond: '/s',
  bytesPerSecond: 'B/s',
  bitsPerSecond: 'bit/s',
  milliseconds: 'ms',
  bytes: 'B',
  count: '',
  percent: '%',
} as const;
export type Unit = keyof typeof UNITS;

/** One quantity of a row. A sample is one number per figure, in this order. */
export interface Figure {
  readonly what: string;
  readonly unit: Unit;
  readonly better: 'more' | 'less';
  /** Peer → ours divided by the peer's: at least that where more is better, at most that where less is. */
  readonly goals?: Readonly<Record<string, number>>;
  /** Ours by itself: at least or at most that. */
  readonly limit?: number;
  /** The worst round stands for all, where one bad one is one too many. Default: the median. */
  readonly worst?: boolean;
}

export interface Contender {
  readonly name: string;
  sample(): Promise<readonly number[]>;
}

/** A peer that cannot take part, and why. */
export interface Absent {
  readonly name: string;
  readonly absent: string;
}

export interface Race {
  /** Id of the promise, `B1`. */
  readonly id: string;
  readonly figures: readonly Figure[];
  readonly ours: Contender;
  readonly peers?: readonly (Contender | Absent)[];
  /** Default: the bench's. */
  readonly rounds?: number;
}

export interface PeerResult {
  readonly name: string;
  readonly value?: number;
  readonly samples?: readonly number[];
  /** Ours divided by the peer's. */
  readonly ratio?: number;
  readonly goal?: number;
  readonly reached?: boolean;
  readonly absent?: string;
}

export interface FigureResult {
  readonly id: string;
  readonly what: string;
  readonly unit: Unit;
  readonly better: 'more' | 'less';
  /** Median of the samples, or the worst of them. */
  readonly value: number;
  readonly worst: boolean;
  readonly samples: readonly number[];
  readonly limit?: number;
  readonly reached?: boolean;
  readonly peers: readonly PeerResult[];
}

/** A row that could not run, and is not counted. */
export interface Skipped {
  readonly id: string;
  readonly why: string;
  /** It is ours that failed, not a tool that is missing. */
  readonly failed: boolean;
}

export interface BenchReport {
  readonly startedAt: string;
  readonly seconds: number;
  readonly quick: boolean;
  /** Load averages of 1, 5 and 15 minutes before the first row. */
  readonly load: readonly number[];
  /** The load was at most 1 when it began. */
  readonly quiet: boolean;
  readonly machine: {
    readonly kernel: string;
    readonly processor: string;
    readonly processors: number;
    readonly memoryMiB: number;
    readonly node: string;
  };
  readonly figures: readonly FigureResult[];
  readonly skipped: readonly Skipped[];
}

export function median(samples: readonly number[]): number {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The value below which `share` (0 … 1) of the samples are. */
export function quantile(samples: readonly number[], share: number): number {
  const sorted = [...samples].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}

/** Results of a race, from each contender's samples (one array per round). */
export function resultsOf(
  race: Race,
  ours: readonly (readonly number[])[],
  peers: readonly { readonly name: string; readonly outcome: readonly (readonly number[])[] | string }[],
): FigureResult[] {
  return race.figures.map((figure, at) => {
    const { what, unit, better, limit, worst = false } = figure;
    const more = better === 'more';
    const column = (rounds: readonly (readonly number[])[]) =>
      rounds.map((sample) => sample[at] ?? Number.NaN);
    const standsFor = (samples: readonly number[]) => {
      if (!worst) return median(samples);
      return more ? Math.min(...samples) : Math.max(...samples);
    };
    const holds = (measured: number, goal: number) => (more ? measured >= goal : measured <= goal);
    const samples = column(ours);
    const value = standsFor(samples);
    return {
      id: race.id,
      what,
      unit,
      better,
      worst,
      value,
      samples,
      ...(limit === undefined ? {} : { limit, reached: holds(value, limit) }),
      peers: peers.flatMap(({ name, outcome }): PeerResult[] => {
        if (typeof outcome === 'string') return [{ name, absent: outcome }];
        const theirs = column(outcome);
        // A figure that only ours has.
        if (theirs.every(Number.isNaN)) return [];
        const peerValue = standsFor(theirs);
        const goal = figure.goals?.[name];
        return [
          {
            name,
            value: peerValue,
            samples: theirs,
            // Of failed requests the peer may have none: then there is no ratio, but a goal.
            ...(peerValue === 0 ? {} : { ratio: value / peerValue }),
            ...(goal === undefined ? {} : { goal, reached: holds(value, goal * peerValue) }),
          },
        ];
      }),
    };
  });
}
