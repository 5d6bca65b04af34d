/** Which process is disturbed how at which named point: the cases of F1. */
import type { SeededRandom } from '../../../src/common/index.ts';
import type { RunRequest } from '../../../src/patch/index.ts';

/** How the service is moved in the run that is disturbed. */
export const WAYS = {
  hold: { strategy: 'hold', procedure: 'H6' },
  'hold-H7': { strategy: 'hold', procedure: 'H7' },
  drain: { strategy: 'drain', procedure: 'H6' },
  overlap: { strategy: 'overlap', procedure: 'H8' },
} as const satisfies Record<string, RunRequest>;
export type Way = keyof typeof WAYS;
export type When = 'prepare' | 'cut' | 'rollback';

export interface Case {
  readonly way: Way;
  /** What is under way when the point is reached. */
  readonly when: When;
  readonly point: string;
  /** As a point takes it; or `upgrade`, `leave`: see `disturb`. */
  readonly action: string;
}

export function caseText({ way, point, action }: Case): string {
  return `${way} ${point} ${action}`;
}

/** Points that the disturbed process passes itself; those of the control process are all others. */
function ownPoint(point: string): 'mux' | 'block' | 'guest' | undefined {
  return /^(mux|block|guest)\.handled?\./.exec(point)?.[1] as 'mux' | 'block' | 'guest' | undefined;
}

/** Connections that end with their partition are no failure of the product. */
export function isOfGuest({ point, action }: Case): boolean {
  return /@[AB]/.test(action) || (ownPoint(point) === 'guest' && /kill|stop/.test(action));
}

/** The control process ends by it. */
export function endsControl({ point, action }: Case): boolean {
  return ownPoint(point) === undefined && action.split('+').includes('kill');
}

const FAILURES = ['throw', 'EIO', 'ENOSPC'];
/** Stopped for longer than a process may be silent. */
const CONTROL = ['kill', 'stop=3500', 'kill@mux', 'kill@block', 'kill+kill@mux'];
const NEXT = ['upgrade', 'leave'];
const OTHERS = ['stop@mux', 'stop@block', 'kill@mux+kill@block', 'kill@A', 'kill@B', 'stop@A', 'stop@B'];
const PAIRS = ['kill@mux+kill', 'kill@block+kill', 'kill@A+kill@mux', 'kill@B+kill@block', 'kill@A+kill'];
/** At points of the process itself. */
const OWN = ['kill', 'stop', ...FAILURES];

/** Steps that are short and follow each other: before, in, after each. */
const HOLD = [
  'load-application',
  'hold-new-requests',
  'complete-accepted-requests',
  'hold-connections',
  'take-connections',
  'cut-application-disk',
  'start-reverse-log',
  'start-application',
  'check-standby-service',
  'switch-network',
  'put-connections',
  'release-held',
  'verify-service',
];
const H7 = ['hold-connections', 'alter-own-address', 'request-address', 'switch-network', 'put-connections'];
const DRAIN = ['complete-accepted-requests', 'take-connections', 'cut-application-disk', 'switch-network'];
const OVERLAP = [
  'cut-application-disk',
  'start-application',
  'request-address',
  'switch-network',
  'alter-own-address',
  'announce-address',
];
const PREPARE = [
  'copy-disks',
  'cut-system-disk',
  'copy-patch-files',
  'boot-standby',
  'restart-standby',
  'check-standby',
];
const ROLLBACK = [
  'stop-old',
  'boot-old',
  'replay-reverse-log',
  'load-application',
  'hold-connections',
  'cut-application-disk',
  'start-application',
  'switch-network',
  'put-connections',
  'release-held',
];
const ROLLBACK_SHORT = [
  'check-new',
  'wait-for-drain',
  'stop-old',
  'boot-old',
  'switch-network',
  'put-connections',
];

/** Within one step, or in another process. */
const INSIDE = [
  'switch.before-role-persist',
  'switch.role-persisted',
  'switch.port-attached',
  'switch.acted',
  'switch.released',
  'connections.before-persist',
  'connections.persisted',
  'disk-cut.frozen',
  'disk-cut.fenced',
  'start-application.exported',
  'phase.cutting.before-persist',
  'phase.cutting.persisted',
  'phase.probation.before-persist',
  'phase.probation.persisted',
  'mux.hold-start.send',
  'mux.hold-start.answered',
  'mux.switch.send',
  'mux.switch.answered',
  'mux.hold-release.send',
  'block.copy-cut.send',
  'block.copy-cut.answered',
  'block.reverse-start.answered',
];
const both = (process: string, names: readonly string[]) =>
  names.flatMap((name) => [`${process}.handle.${name}`, `${process}.handled.${name}`]);
const OWN_CUT = [
  ...both('mux', ['hold-start', 'switch', 'hold-release']),
  ...both('block', ['copy-cut', 'reverse-start', 'serve', 'fence']),
  ...both('guest', [
    'changeover-quiesce',
    'changeover-connections-export',
    'changeover-application-start',
    'changeover-connections-import',
    'changeover-application-load',
    'guest-fsfreeze-thaw',
  ]),
];
const OWN_H7 = both('guest', ['changeover-address-prepare', 'changeover-address-alter']);
const OWN_PREPARE = [
  ...both('block', ['disk-add', 'copy-start', 'copy-status', 'copy-cut', 'hash', 'serve']),
  ...both('guest', ['changeover-patch-results', 'changeover-self-check', 'guest-fsfreeze-freeze']),
];
const OWN_ROLLBACK = [
  ...both('block', ['copy-round', 'copy-cut', 'copy-cancel']),
  ...both('mux', ['notice-cancel', 'switch']),
  ...both('guest', ['changeover-quiesce', 'changeover-connections-import']),
];

/** Connections follow in rounds. */
const HAND_OVER = [
  'hand-over.before-persist',
  'hand-over.persisted',
  'hand-over.moved',
  'hand-over.put',
  'mux.flows-moved.answered',
];

function product(way: Way, when: When, names: readonly string[], actions: readonly string[]): Case[] {
  return names.flatMap((point) => actions.map((action) => ({ way, when, point, action })));
}

const step = (part: string, names: readonly string[], places: readonly string[]) =>
  names.flatMap((name) => places.map((place) => `${part}.${name}.${place}`));

const ALL = [...CONTROL, ...NEXT, ...OTHERS];

/** Of `hold` by H6 alone: every point with everything. */
export const HOLD_CASES: readonly Case[] = [
  ...product('hold', 'cut', step('step', HOLD, ['begun', 'acted']), [...ALL, ...PAIRS]),
  ...product('hold', 'cut', step('step', HOLD, ['begin', 'begun', 'acted', 'done']), FAILURES),
  ...product('hold', 'cut', INSIDE, [...CONTROL, ...FAILURES]),
  ...product('hold', 'cut', OWN_CUT, OWN),
  ...product('hold', 'prepare', step('step', PREPARE, ['begun', 'acted']), [...ALL, ...FAILURES]),
  ...product('hold', 'prepare', OWN_PREPARE, OWN),
  ...product('hold', 'prepare', ['block.serve.answered', 'partition.before-spawn'], [...CONTROL, 'throw']),
  ...product('hold', 'rollback', step('rollback', ROLLBACK, ['begun', 'acted']), [...ALL, ...FAILURES]),
  ...product('hold', 'rollback', OWN_ROLLBACK, OWN),
];

/** What the other ways have beside it. */
export const OTHER_CASES: readonly Case[] = [
  ...product('hold-H7', 'cut', step('step', H7, ['begun', 'acted']), [...ALL, ...PAIRS, ...FAILURES]),
  ...product('hold-H7', 'cut', OWN_H7, OWN),
  ...product('hold-H7', 'rollback', step('rollback', H7, ['begun', 'acted']), [...ALL, ...FAILURES]),
  ...product('drain', 'cut', step('step', DRAIN, ['begun', 'acted']), [...ALL, ...FAILURES]),
  ...product('drain', 'rollback', step('rollback', ROLLBACK_SHORT, ['begun', 'acted']), [
    ...CONTROL,
    'throw',
  ]),
  ...product('overlap', 'cut', step('step', OVERLAP, ['begun', 'acted']), [...ALL, ...PAIRS, ...FAILURES]),
  ...product('overlap', 'cut', OWN_H7, OWN),
  ...product('overlap', 'cut', HAND_OVER, [...ALL, ...PAIRS, ...FAILURES]),
  ...product('overlap', 'rollback', step('rollback', ROLLBACK_SHORT, ['begun', 'acted']), [
    ...ALL,
    ...FAILURES,
  ]),
];

/** Cases in random order, dealt by what the next run can take. */
export class Deck {
  readonly #random: SeededRandom;
  readonly #left = new Map<string, Case[]>();
  #count = 0;

  /** `named`: only these, by their texts. */
  constructor(random: SeededRandom, cases: readonly Case[], named?: readonly string[]) {
    this.#random = random;
    for (const one of cases) {
      if (named?.includes(caseText(one)) === false) continue;
      const key = `${one.way} ${one.when}`;
      this.#left.set(key, [...(this.#left.get(key) ?? []), one]);
      this.#count++;
    }
  }

  get size(): number {
    return this.#count;
  }

  /** Where more is left the next run goes more often; undefined: nothing is left. */
  way(): Way | undefined {
    const ways = [...this.#left].flatMap(([key, cases]) => cases.map(() => key.split(' ')[0] as Way));
    return ways[this.#random.below(Math.max(1, ways.length))];
  }

  draw(way: Way, when: When): Case | undefined {
    const cases = this.#left.get(`${way} ${when}`) ?? [];
    const [one] = cases.splice(this.#random.below(Math.max(1, cases.length)), 1);
    if (one !== undefined) this.#count--;
    return one;
  }
}
