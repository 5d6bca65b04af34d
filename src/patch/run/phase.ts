/** Phases of a run and the legal transitions between them; whatever is not in the table is refused. */
export const RUN_PHASES = [
  'preparing',
  'ready',
  'cutting',
  'probation',
  'committed',
  'rolling-back',
  'rolled-back',
  'undoing',
  'undone',
] as const;
export type RunPhase = (typeof RUN_PHASES)[number];

export const RUN_TRANSITIONS: Readonly<Record<RunPhase, readonly RunPhase[]>> = {
  preparing: ['ready', 'undoing'],
  ready: ['cutting', 'undoing'],
  cutting: ['probation', 'undoing'],
  probation: ['committed', 'rolling-back'],
  'rolling-back': ['rolled-back', 'probation'],
  undoing: ['undone'],
  committed: [],
  'rolled-back': [],
  undone: [],
};

/** Phases in which a run is over: its partitions are free for another one. */
export const FINAL_PHASES: readonly RunPhase[] = ['committed', 'rolled-back', 'undone'];
