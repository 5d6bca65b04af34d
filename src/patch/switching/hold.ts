/**
 * `hold`, and `drain` of a service that writes: H6 (Figs 13, 14) or H7 (Figs 15-17) with new requests held inside the mux
 * instead of refused.
 *
 *                               H6          H7
 *   load-application           1304        1506   the new active's program runs as far as it comes without its disk; nobody waits
 *   hold-new-requests          1301        1501   SYNs and first datagrams wait in the mux
 *   complete-accepted-requests 1302        1502   idle connections are frozen; requests complete, or those that may write
 *   hold-connections                              everything of the address waits, except draining flows; a barrier follows
 *   take-connections                              the frozen connections leave the old stack with their TCP state
 *   cut-application-disk        905         905   last delta, fence
 *   start-reverse-log
 *   carry-system-files                            what the administrator named and was written since the system disk's cut
 *   start-application          1304        1506   the new active mounts the disk; its application goes on and listens
 *   check-standby-service      1304        1506   healthy over the private path
 *   alter-own-address                      1503   H7: the old partition takes the second address,
 *   request-address                        1504   and the new one, asked through the control program, the service address
 *   switch-network             1303               one operation of the mux: path, steering of draining flows
 *   put-connections                               the connections go on in the new stack
 *   release-held               1304        1505   held packets go on in order; announcements
 *
 * Until `switch-network` the undo of each step brings the old state back and nobody was refused: held packets go to the old
 * partition, its connections return to it, its disk is writable again. `switch-network` first writes down that the new active
 * serves: as soon as connections are put into it, it may acknowledge writes. From there the way back is a rollback, which carries them.
 *
 * By H7 both addresses change while everything for them waits: nobody outside can see one without the other.
 */
import { reach } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import type { CutPlan, Stage, Step } from '../run/step.ts';
import {
  carrySystemFiles,
  cutApplicationDisk,
  loadApplication,
  lowerTargetFence,
  startApplication,
  startReverseLog,
} from './disks.ts';
import type { Move, SwitchCommand } from './move.ts';
import { checkThroughPrivatePath } from './verify.ts';

/** New flows wait no longer than this, ms; then the mux lets them go to whoever has the path. */
const HOLD_TIMEOUT_MS = 10_000;
/** The same for all flows: from then on the old partition may have no connections to answer with. */
const HOLD_ALL_TIMEOUT_MS = 60_000;
const START_TIMEOUT_MS = 8_000;
const BARRIER_MS = 2_000;
const NAMES_TOLD = 8;
const SILENT_MS = 1_000;
const POLL_MS = 5;
/** `budget.drainMs` where the policy names none. */
export const DEFAULT_DRAIN_MS = 5_000;

/** Default: requests that may write, for `budget.quiesceMs`. */
export interface HoldOptions {
  /** Every accepted request is waited for, also those that only read. */
  readonly all: boolean;
  /** For so long, ms. */
  readonly budgetMs: number;
}

export function holdPlan(move: Move, given?: HoldOptions): CutPlan {
  const { env, from, to } = move;
  const { mux, hypervisor, clock } = env;
  const exchange = move.procedure === 'H7';
  const options = given ?? { all: false, budgetMs: defaultBudgetMs(move) };
  const figure = (h6: string, h7: string) => (exchange ? h7 : h6);
  const all = options.all || exchange;
  let barrier: readonly number[] = [];

  const takeConnections: Step = {
    name: 'take-connections',
    figure: '',
    do: async () => {
      if (move.fromIsDead) return move.keepConnections([], []);
      const old = hypervisor.control(from);
      const { connections, neighbors } = await old.exportConnections({
        barrier,
        timeoutMs: BARRIER_MS,
        flows: move.idle,
      });
      move.keepConnections(connections, neighbors);
      if (!all || move.draining.length === 0) return { connections: connections.length };
      const { ended } = await old.windDown(move.draining, { barrier, timeoutMs: BARRIER_MS });
      return { connections: connections.length, ended: ended.length };
    },
  };

  const putConnections: Step = {
    name: 'put-connections',
    figure: '',
    do: async () => {
      const { imported, refused } = await hypervisor
        .control(to)
        .importConnections(move.connections, move.neighbors);
      for (const { flow, reason } of refused) env.log.warn('connection was not taken over', { flow, reason });
      move.handedOver += imported;
      return {
        imported,
        refused: refused.map(({ flow, reason }) => `${flow.remoteAddress}:${flow.remotePort}: ${reason}`),
      };
    },
  };

  const reversible: Stage[] = [
    ...loadApplication(move, figure('1304', '1506')),
    {
      name: 'hold-new-requests',
      figure: figure('1301', '1501'),
      do: async () => {
        move.startedMs = clock.nowMs();
        const unfenced = lowerTargetFence(move);
        unfenced.catch(() => {});
        await move.each((address) =>
          mux.execute('hold-start', {
            address,
            scope: 'new-flows',
            limits: { timeoutMs: HOLD_TIMEOUT_MS + options.budgetMs },
          }),
        );
        // Not before every hold is begun: an undoing must find nobody who still begins one.
        await unfenced;
        return undefined;
      },
      undo: async () => {
        await move.each((address) => mux.execute('hold-release', { address }));
      },
    },
    {
      name: 'complete-accepted-requests',
      figure: figure('1302', '1502'),
      do: async () => {
        if (move.fromIsDead) return { skipped: `${from} does not run` };
        const freeze = move.record.hasApplicationDisk;
        const quiesced = await hypervisor.control(from).quiesce(options.budgetMs, all, freeze);
        if (quiesced.unfinished.length > 0)
          throw unfinished(move, quiesced.unfinished, all, options.budgetMs);
        move.isFrozen = freeze;
        move.draining = quiesced.draining;
        move.idle = quiesced.idle;
        return {
          draining: quiesced.draining.length,
          idle: quiesced.idle.length,
          waitedMs: quiesced.waitedMs,
        };
      },
      // The guest itself has kept what was taken from it.
      undo: async () => {
        const old = hypervisor.control(from);
        await Promise.all([old.resume({ reclaim: true }), old.thawFileSystems()]);
      },
    },
    {
      name: 'hold-connections',
      figure: '',
      do: async () => {
        // The barrier follows when every address of a port is held.
        const barriers = move.barriers(from, move.addresses);
        barrier = barriers.all;
        await move.each((address) =>
          mux.execute('hold-start', {
            address,
            scope: 'all',
            ...(all ? {} : { except: move.flowsOf(address, move.draining) }),
            ...barriers.after(address),
            limits: { timeoutMs: HOLD_ALL_TIMEOUT_MS },
          }),
        );
        if (exchange) await datagramsAnswered(move, options.budgetMs);
        return undefined;
      },
    },
    {
      parallel: [
        [takeConnections],
        [
          cutApplicationDisk(move),
          startReverseLog(move),
          ...carrySystemFiles(move),
          startApplication(move, START_TIMEOUT_MS, figure('1304', '1506')),
        ],
      ],
    },
    checkThroughPrivatePath(move, exchange ? move.exchanged.map(({ second }) => second) : move.addresses, {
      figure: figure('1304', '1506'),
    }),
    ...(exchange ? exchangeAddresses(move) : []),
  ];

  const final: Stage[] = [
    {
      name: 'switch-network',
      figure: figure('1303', ''),
      do: async () => {
        move.persistRole();
        await Promise.all([move.attach(), findDatagrams(move)]);
        reach('switch.port-attached');
        const { steered, also = [] } = await mux.execute('switch', holdSwitch(move));
        reach('switch.acted');
        if (exchange) await move.pathsOfSeconds();
        return { steered: also.reduce((sum, other) => sum + other.steered, steered) };
      },
    },
    putConnections,
    {
      name: 'release-held',
      figure: figure('1304', '1505, 1603'),
      do: async () => {
        const released = await move.each((address) => mux.execute('hold-release', { address }));
        reach('switch.released');
        move.endedMs = clock.nowMs();
        await move.announce();
        return {
          released: released.reduce((sum, hold) => sum + hold.released, 0),
          longestHoldMs: Math.max(...released.map((hold) => hold.longestHoldMs)),
        };
      },
    },
  ];
  return { reversible, final };
}

/** The way back has no strategy of its own and waits as long as `drain` would: slowness may be the very reason for it. */
function defaultBudgetMs(move: Move): number {
  const { quiesceMs, drainMs = DEFAULT_DRAIN_MS } = move.env.policy.budget;
  const isBack = move.from !== move.record.from;
  return isBack ? Math.max(quiesceMs, drainMs) : quiesceMs;
}

/** The one operation of the mux: every address, every connection that was taken along; by H7 what each port may use. */
export function holdSwitch(move: Move): SwitchCommand {
  const flows = [...move.connections.map((c) => c.flow), ...move.answered];
  const exchange = move.procedure === 'H7';
  const late = move.draining.length > 0 || move.unanswered > 0;
  const parts = move.pairs.map(({ address, second }) => ({
    address,
    moved: move.flowsOf(address, flows),
    // Only answers that are still due and connections that are being closed still come from the second address.
    ...(exchange && second !== undefined && late ? { notice: { second } } : {}),
  }));
  return move.switchOf(parts, exchange ? move.exchangedAddresses : undefined);
}

/**
 * By H7 the old partition's answers come from another address once it has been altered: everything waits, and what is in flight by
 * UDP gets `budgetMs` to be answered. A flow that is silent for a second is one that nobody answers.
 */
async function datagramsAnswered(move: Move, budgetMs: number): Promise<void> {
  const { mux, clock } = move.env;
  const untilMs = clock.nowMs() + budgetMs;
  for (;;) {
    const listed = await move.each((address) => mux.execute('flows', { address }));
    const due = listed.flat().some((f) => f.answered === false && f.idleMs < SILENT_MS);
    if (!due || clock.nowMs() >= untilMs) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** Everything waits: a UDP flow that was answered has nothing on its way. The others are finished by the old partition. */
async function findDatagrams(move: Move): Promise<void> {
  const listed = await move.each((address) => move.env.mux.execute('flows', { address }));
  const datagrams = listed.flat().filter(({ flow }) => flow.protocol === 'udp');
  move.answered = datagrams.filter(({ answered }) => answered === true).map(({ flow }) => flow);
  move.unanswered = datagrams.length - move.answered.length;
}

/** 1503, 1504 with 1601, 1602, 1604: without any network device involved, while everything for both addresses waits. */
function exchangeAddresses(move: Move): Step[] {
  const { from, to } = move;
  return [
    {
      name: 'alter-own-address',
      figure: '1503',
      do: async () => {
        if (move.fromIsDead) return { skipped: `${from} does not run` };
        for (const { address, second } of move.exchanged) await alter(move, from, address, second);
        return { partition: from };
      },
      undo: async () => {
        for (const { address, second } of move.exchanged) await alter(move, from, second, address);
      },
    },
    {
      name: 'request-address',
      figure: '1504, 1601, 1602, 1604',
      do: async () => {
        for (const { address, second } of move.exchanged) await alter(move, to, second, address);
        return { partition: to, addresses: move.addresses };
      },
      undo: async () => {
        for (const { address, second } of move.exchanged) await alter(move, to, address, second);
      },
    },
  ];
}

/** Does nothing where it was done before. */
async function alter(move: Move, partition: string, before: string, after: string): Promise<void> {
  const control = move.env.hypervisor.control(partition);
  const { addresses } = await control.status();
  if (!addresses.some((own) => own.split('/')[0] === before)) return;
  await control.prepareAddress(before, after);
  await control.alterAddress(before, after);
}

function unfinished(
  move: Move,
  flows: readonly { remoteAddress: string; remotePort: number; localPort: number }[],
  all: boolean,
  budgetMs: number,
): PatchError {
  const names = flows
    .slice(0, NAMES_TOLD)
    .map((f) => `${f.remoteAddress}:${f.remotePort} at port ${f.localPort}`);
  if (flows.length > NAMES_TOLD) names.push(`${flows.length - NAMES_TOLD} more`);
  const what = all ? 'requests' : 'requests that may write';
  const key = move.record.strategy === 'drain' ? 'drainMs' : 'quiesceMs';
  return new PatchError(
    'over-budget',
    `${flows.length} ${what} were not complete after ${budgetMs} ms: ${names.join(', ')}`,
    { remedy: `raise patching.budget.${key}, or cut when the service is quieter` },
  );
}
