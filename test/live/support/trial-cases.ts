/** Which process is disturbed how at which named point: the cases of F1. */
export interface Case {
  readonly strategy: 'hold' | 'overlap';
  /** What is under way when the point is reached. */
  readonly when: 'prepare' | 'cut' | 'rollback';
  readonly point: string;
  readonly action: string;
}

export function caseText({ strategy, point, action }: Case): string {
  return `${strategy} ${point} ${action}`;
}

/** Connections that end with their partition are no failure of the product. */
export function isOfGuest({ action }: Case): boolean {
  return /@[AB]/.test(action);
}

const FAILURES = ['throw', 'EIO', 'ENOSPC'];
const CONTROL = ['kill', 'stop=3000', 'kill@mux', 'kill@block', 'kill+kill@mux'];
const OTHERS = ['stop@mux', 'stop@block', 'kill@mux+kill@block', 'kill@A', 'kill@B', 'stop@A', 'stop@B'];
const PAIRS = ['kill@mux+kill', 'kill@block+kill', 'kill@A+kill@mux', 'kill@B+kill@block', 'kill@A+kill'];

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
const HANDLED = [
  'mux.handle.hold-start',
  'mux.handled.hold-start',
  'mux.handle.switch',
  'mux.handled.switch',
  'mux.handled.hold-release',
  'block.handle.copy-cut',
  'block.handled.copy-cut',
  'block.handled.reverse-start',
  'block.handled.serve',
  'guest.handle.changeover-quiesce',
  'guest.handled.changeover-quiesce',
  'guest.handle.changeover-connections-export',
  'guest.handled.changeover-connections-export',
  'guest.handle.changeover-application-start',
  'guest.handled.changeover-application-start',
  'guest.handled.changeover-application-load',
  'guest.handled.guest-fsfreeze-thaw',
  'guest.handle.changeover-connections-import',
];

function product(
  strategy: Case['strategy'],
  when: Case['when'],
  names: readonly string[],
  actions: readonly string[],
): Case[] {
  return names.flatMap((point) => actions.map((action) => ({ strategy, when, point, action })));
}

const step = (part: string, names: readonly string[], places: readonly string[]) =>
  names.flatMap((name) => places.map((place) => `${part}.${name}.${place}`));

export const ALL_CASES: readonly Case[] = [
  ...product('hold', 'cut', step('step', HOLD, ['begun', 'acted']), [...CONTROL, ...OTHERS, ...PAIRS]),
  ...product('hold', 'cut', step('step', HOLD, ['begin', 'begun', 'acted', 'done']), FAILURES),
  ...product('hold', 'cut', INSIDE, [...CONTROL, ...FAILURES]),
  ...product(
    'hold',
    'cut',
    HANDLED.filter((name) => !name.startsWith('guest.')),
    ['throw', 'EIO'],
  ),
  ...product('overlap', 'cut', step('step', OVERLAP, ['begun', 'acted']), [...CONTROL, ...OTHERS, 'throw']),
  ...product('hold', 'prepare', step('step', PREPARE, ['begun', 'acted']), [
    ...CONTROL,
    ...OTHERS,
    ...FAILURES,
  ]),
  ...product('hold', 'rollback', step('rollback', ROLLBACK, ['begun', 'acted']), [
    ...CONTROL,
    ...OTHERS,
    ...FAILURES,
  ]),
];
