/**
 * After a cut: connections that the old partition still has. Those between two requests are handed over with their TCP
 * state, so that keep-alive clients stay connected; those with a request in flight are finished by the old partition and
 * handed over when they are idle. Ends when no flow is steered any more, or at the deadline with the names of the rest.
 */
import type { ConnectionState, FlowName } from '../../channel/index.ts';
import { messageOf } from '../../common/index.ts';
import type { Move } from './move.ts';
import { flowsOf, nextBarrier } from './move.ts';

const ROUND_MS = 200;
/** A round that moves nobody yet is worth a hold only for so long, ms. */
const HOLD_LIMIT_MS = 2_000;

export interface DrainResult {
  readonly handedOver: number;
  readonly abandoned: FlowName[];
}

/** Moves what is idle now; returns how many connections moved. */
export async function handOverIdle(move: Move): Promise<number> {
  const { env, from, to } = move;
  const { mux, hypervisor } = env;
  const old = hypervisor.control(from);
  const { idle } = await old.quiesce(0);
  if (idle.length === 0) {
    await old.resume();
    return 0;
  }
  const parts = move.addresses
    .map((address) => ({ address, flows: flowsOf(address, idle) }))
    .filter(({ flows }) => flows.length > 0);
  const barrier = nextBarrier();
  try {
    for (const [i, { address, flows }] of parts.entries()) {
      await mux.execute('hold-start', {
        address,
        scope: 'flows',
        flows: flows.map((flow) => ({ ...flow, localAddress: address })),
        ...(i === parts.length - 1 ? { barrier } : {}),
        limits: { timeoutMs: HOLD_LIMIT_MS },
      });
    }
    const { connections, neighbors } = await old.exportConnections({
      barrier,
      timeoutMs: HOLD_LIMIT_MS,
      flows: idle,
    });
    const renamed = connections.map((connection) => underAddress(connection, move.addresses));
    // First: an imported connection may answer at once, and the mux lets only a flow's own port speak for it.
    for (const { address } of parts) {
      const flows = flowsOf(
        address,
        renamed.map((connection) => connection.flow),
      );
      await mux.execute('flows-moved', { address, flows });
    }
    const { imported, refused } = await hypervisor.control(to).importConnections(renamed, neighbors);
    for (const { flow, reason } of refused) {
      env.log.warn('connection was not taken over', { flow, reason });
    }
    return imported;
  } finally {
    for (const { address } of parts) await mux.execute('hold-release', { address });
    await old.resume();
  }
}

/** A connection that left under the old partition's second address arrives under the service address. */
function underAddress(connection: ConnectionState, addresses: readonly string[]): ConnectionState {
  const { flow } = connection;
  const localAddress = addresses.find((address) => flowsOf(address, [flow]).length > 0) ?? flow.localAddress;
  return { ...connection, flow: { ...flow, localAddress } };
}

/** Rounds of `handOverIdle` until nothing is steered to the old partition, at most `deadlineMs`. */
export async function drain(
  move: Move,
  deadlineMs: number,
  onMoved: (count: number) => void,
  stopped: () => boolean,
): Promise<DrainResult> {
  const { env } = move;
  const { mux, clock } = env;
  const untilMs = clock.nowMs() + deadlineMs;
  let handedOver = 0;
  let left: FlowName[] = [];
  while (!stopped()) {
    try {
      const moved = await handOverIdle(move);
      handedOver += moved;
      if (moved > 0) onMoved(moved);
    } catch (error) {
      env.log.warn('hand-over of idle connections failed, will be tried again', { reason: messageOf(error) });
    }
    // A flow that has ended stays listed for a while, so that its last segments find their way.
    const listed = await move.each((address) => mux.execute('flows', { address, steered: true }));
    const steered = listed.flat().filter((f) => f.state !== 'closed');
    left = steered.map((f) => f.flow);
    if (left.length === 0 || clock.nowMs() >= untilMs) break;
    await new Promise((resolve) => setTimeout(resolve, ROUND_MS));
  }
  return { handedOver, abandoned: left };
}
