/**
 * After a cut: connections that the old partition still has. Those between two requests are handed over with their TCP
 * state, so that keep-alive clients stay connected; those with a request in flight are finished by the old partition and
 * handed over when they are idle. Ends when no flow is steered any more, or at the deadline with the names of the rest.
 */
import type { ConnectionState, FlowName, Neighbor } from '../../channel/index.ts';
import { again, messageOf, reach } from '../../common/index.ts';
import type { Move } from './move.ts';

const ROUND_MS = 200;
/**
 * Connections that wait at the same time while they are moved: the more there are, the longer each waits. Where there is an application disk
 * all of them do: the old partition's is fenced, and a request that writes must not meet it there.
 */
const BATCH = 8;
const ALL = Number.MAX_SAFE_INTEGER;
/** In every so many rounds requests by UDP wait for the answers that are due, at most so long, ms. */
const WAITING_EVERY = 10;
const ANSWERS_DUE_MS = 1_000;
const POLL_MS = 10;
/** UDP flows that were answered and have been quiet for so long follow the path, ms. */
const QUIET_DATAGRAMS_MS = 200;
/** A round that moves nobody yet is worth a hold only for so long, ms. */
const HOLD_LIMIT_MS = 2_000;
const TAKEN_HOLD_MS = 30_000;
const AGAIN_MS = [ROUND_MS, ROUND_MS];

export interface DrainResult {
  readonly handedOver: number;
  readonly abandoned: FlowName[];
}

/**
 * Moves some of what is idle now; returns how many connections moved. Between two stacks they exist nowhere else, so the journal says how far
 * this has come: until their states stand in it the old partition takes them back, from then on they are put into the new one.
 */
export async function handOverIdle(move: Move): Promise<number> {
  const { env, from } = move;
  const { mux, hypervisor, log } = env;
  const old = hypervisor.control(from);
  const { idle } = await old.freezeIdle(move.record.hasApplicationDisk ? ALL : BATCH);
  if (idle.length === 0) {
    await old.resume();
    return 0;
  }
  const parts = move.addresses
    .map((address) => ({ address, flows: move.flowsOf(address, idle) }))
    .filter(({ flows }) => flows.length > 0);
  const barriers = move.barriers(
    from,
    parts.map(({ address }) => address),
  );
  // Commands to the mux take effect in the order in which they were sent, whether or not their answers are awaited.
  const hold = (timeoutMs: number, withBarrier: boolean) => {
    const begun = Promise.all(
      parts.map(({ address, flows }) =>
        mux.execute('hold-start', {
          address,
          scope: 'flows',
          flows: flows.map((flow) => ({ ...flow, localAddress: address })),
          ...(withBarrier ? barriers.after(address) : {}),
          limits: { timeoutMs },
        }),
      ),
    );
    begun.catch(() => {});
    return begun;
  };
  const resume = () =>
    old
      .resume({ reclaim })
      .catch((error) => log.warn('the old partition was not resumed', { reason: messageOf(error) }));
  const releaseAll = () => Promise.all(parts.map(({ address }) => release(move, address)));
  let reclaim = true;
  let allMoved = false;
  try {
    const held = hold(HOLD_LIMIT_MS, true);
    move.noteHandOver({ state: 'begun' });
    await held;
    const { connections, neighbors } = await old.exportConnections({
      barrier: barriers.all,
      timeoutMs: HOLD_LIMIT_MS,
      flows: idle,
    });
    const taken = connections.map((connection) => underAddress(connection, move));
    // Until they are put, also by a control process that has to start first, nobody could answer for them.
    const kept = hold(TAKEN_HOLD_MS, false);
    reach('hand-over.before-persist');
    move.noteHandOver({ state: 'taken', connections: taken, neighbors });
    reclaim = false;
    const moved = await putOver(move, taken, neighbors);
    await kept.catch((error) => log.warn('a hold was not extended', { reason: messageOf(error) }));
    allMoved = taken.length === idle.length;
    return moved;
  } finally {
    if (allMoved) await Promise.all([releaseAll(), resume()]);
    else {
      // What is held meets its connections again.
      await resume();
      await releaseAll();
    }
  }
}

/** A hold that stays makes clients wait until its limit, though nothing is to be waited for any more. */
async function release({ env }: Move, address: string): Promise<void> {
  await again(
    AGAIN_MS,
    () => env.mux.execute('hold-release', { address }),
    (error) => env.log.warn('a hold is released once more', { address, reason: messageOf(error) }),
  );
}

/** As often as it takes, within reason: nobody else has these connections any more. */
function putOver(
  move: Move,
  connections: readonly ConnectionState[],
  neighbors: readonly Neighbor[],
): Promise<number> {
  const { env, to } = move;
  const all = connections.map((connection) => connection.flow);
  const put = async () => {
    reach('hand-over.persisted');
    // First: an imported connection may answer at once, and the mux lets only a flow's own port speak for it.
    for (const address of move.addresses) {
      const flows = move.flowsOf(address, all);
      if (flows.length > 0) await env.mux.execute('flows-moved', { address, flows });
    }
    reach('hand-over.moved');
    const control = env.hypervisor.control(to);
    const { imported, refused } = await control.importConnections([...connections], [...neighbors]);
    for (const { flow, reason } of refused) env.log.warn('connection was not taken over', { flow, reason });
    reach('hand-over.put');
    move.noteHandOver({ state: 'done' });
    return imported;
  };
  return again(AGAIN_MS, put, (error) =>
    env.log.warn('connections are put once more', { partition: to, reason: messageOf(error) }),
  );
}

/** What an earlier control process had in its hands when it ended. Before anything that is held goes on. */
export async function mendHandOver(move: Move): Promise<void> {
  const last = move.lastHandOver();
  if (last === undefined || last.state === 'done') return;
  if (last.state === 'taken') await putOver(move, last.connections, last.neighbors);
  else move.noteHandOver({ state: 'done' });
  await move.env.hypervisor.control(move.from).resume({ reclaim: last.state === 'begun' });
}

/** A connection that left under the old partition's second address arrives under the service address. */
function underAddress(connection: ConnectionState, move: Move): ConnectionState {
  const { flow } = connection;
  const localAddress =
    move.addresses.find((address) => move.flowsOf(address, [flow]).length > 0) ?? flow.localAddress;
  return { ...connection, flow: { ...flow, localAddress } };
}

/** Rounds of `handOverIdle` until nothing is steered to the old partition, at most `deadlineMs`; `onIdleMoved` follows the first one. */
export async function drain(
  move: Move,
  deadlineMs: number,
  onMoved: (count: number) => void,
  stopped: () => boolean,
  onIdleMoved: () => void,
): Promise<DrainResult> {
  const { env } = move;
  const { clock } = env;
  const untilMs = clock.nowMs() + deadlineMs;
  let handedOver = 0;
  let left: FlowName[] = [];
  for (let round = 0; !stopped(); round++) {
    const late = clock.nowMs() >= untilMs;
    let isOver = false;
    try {
      for (let moved = 1; moved > 0 && !stopped(); ) {
        moved = await handOverIdle(move);
        handedOver += moved;
        if (moved > 0) onMoved(moved);
      }
      onIdleMoved();
      await moveDatagrams(move, round % WAITING_EVERY === WAITING_EVERY - 1 || late);
      if (late) await endSilent(move);
    } catch (error) {
      const again = await runs(move);
      const reason = messageOf(error);
      if (again) env.log.warn('hand-over of idle connections failed, will be tried again', { reason });
      else env.log.warn('the old partition ended, and its connections with it', { reason });
      isOver = !again;
      onIdleMoved();
    }
    left = await steeredFlows(move);
    if (left.length === 0 || late || isOver) break;
    await new Promise((resolve) => setTimeout(resolve, ROUND_MS));
  }
  return { handedOver, abandoned: left };
}

async function runs({ env, from }: Move): Promise<boolean> {
  const status = await env.hypervisor.partitionStatus(from).catch(() => undefined);
  return status?.state === 'running';
}

/**
 * Before a switch that steers what is known: connections of which the mux has seen nothing for long, or nothing since it was started
 * again, are known to the partition that has them.
 */
export async function nameFlows(move: Move): Promise<void> {
  const { mux, hypervisor } = move.env;
  const { connections } = await hypervisor.control(move.from).connections();
  const all = connections.map(({ flow }) => flow);
  await move.each(async (address) => {
    const flows = move.flowsOf(address, all).map((flow) => ({ ...flow, localAddress: address }));
    if (flows.length > 0) await mux.execute('flows-known', { address, flows });
  });
}

/** Flows that the old partition still has. One that has ended stays listed for a while, so that its last segments find their way. */
async function steeredFlows(move: Move): Promise<FlowName[]> {
  const listed = await move.each((address) => move.env.mux.execute('flows', { address, steered: true }));
  return listed
    .flat()
    .filter((f) => f.state !== 'closed')
    .map((f) => f.flow);
}

/**
 * UDP flows follow the path when nothing is in flight on them: when the last datagram was the answer and they have been quiet
 * for a while. Those of busy clients never are, so with `waiting` their next requests wait in the mux until what is in
 * flight has been answered; then the new active gets them.
 */
async function moveDatagrams(move: Move, waiting: boolean): Promise<void> {
  const { mux, clock } = move.env;
  for (const address of move.addresses) {
    const steered = async () =>
      (await mux.execute('flows', { address, steered: true })).filter((f) => f.flow.protocol === 'udp');
    const found = await steered();
    const quiet = found.filter((f) => f.answered === true && f.idleMs >= QUIET_DATAGRAMS_MS);
    const flows = (waiting ? found : quiet).map(({ flow }) => flow);
    if (flows.length === 0) continue;
    if (!waiting) {
      await mux.execute('flows-moved', { address, flows, answered: true });
      continue;
    }
    const limits = { timeoutMs: HOLD_LIMIT_MS };
    await mux.execute('hold-start', { address, scope: 'flows', flows, limits });
    try {
      const untilMs = clock.nowMs() + ANSWERS_DUE_MS;
      do {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
        await mux.execute('flows-moved', { address, flows, answered: true });
      } while ((await steered()).length > 0 && clock.nowMs() < untilMs);
    } finally {
      await release(move, address);
    }
  }
}

/** At the deadline: our side of connections that cannot be moved and on which nothing is in flight. */
async function endSilent(move: Move): Promise<void> {
  const { env, from } = move;
  const control = env.hypervisor.control(from);
  const { connections } = await control.connections();
  const { ended } = await control.windDown(connections.map(({ flow }) => flow));
  if (ended.length > 0)
    env.log.info('silent connections were ended', { partition: from, count: ended.length });
}
