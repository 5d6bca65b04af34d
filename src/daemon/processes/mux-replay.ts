/**
 * Tells a fresh mux process what the last one was told. Uplinks and ports come first, ports isolated: nothing passes. Then one
 * operation between two packets (`restore`) sets paths, the flows that partitions have open, holds, switches with their change
 * notices, private paths, and attaches the ports. So no packet of a flow is ever seen by a mux that does not know where it
 * belongs; what was sent meanwhile is lost on the way, as on a wire, and sent again by TCP.
 *
 * Which flows there are, nobody wrote down: the partition that has a connection says so. It is asked also when nothing treats known flows apart
 * yet: a switch may be on its way.
 */
import type { FlowName } from '../../channel/index.ts';
import type { RememberedCommand } from './desired-state.ts';
import type { Tell } from './kept-process.ts';
import { KeptProcessError } from './kept-process.ts';

/** Connections that the partition behind a port has open; none when it cannot be asked. */
export type FlowsOfPort = (port: string) => Promise<readonly FlowName[]>;

const BEFORE = ['uplink-add', 'port-add'];
const AFTER = ['requests-record', 'capture-start'];
const DIRECTS_FLOWS = ['hold-start', 'switch'];

export async function replayMux(
  tell: Tell,
  commands: readonly RememberedCommand[],
  flowsOf: FlowsOfPort,
): Promise<void> {
  const parts = [...BEFORE, ...AFTER];
  for (const command of commands) {
    if (!BEFORE.includes(command.name) || (await tell(command)) !== undefined) continue;
    throw new KeptProcessError(
      'start-failed',
      `the mux process refused ${command.name} ${String(command.args['name'])}`,
      {
        remedy: 'its log says why; it is started again',
      },
    );
  }
  const restored = await withFlows(
    commands.filter(({ name }) => !parts.includes(name)),
    flowsOf,
  );
  if (restored.length > 0) await tell({ name: 'restore', args: { commands: restored } });
  for (const command of commands) if (AFTER.includes(command.name)) await tell(command);
}

/** Flows stand after the paths and before the first command that treats known flows apart. */
async function withFlows(
  commands: readonly RememberedCommand[],
  flowsOf: FlowsOfPort,
): Promise<RememberedCommand[]> {
  const found = commands.findIndex(({ name }) => DIRECTS_FLOWS.includes(name));
  const at = found === -1 ? commands.length : found;
  const paths = commands.filter(({ name }) => name === 'path-set').map(({ args }) => args);
  // A partition with several addresses is asked once.
  const ports = [...new Set(paths.map(({ port }) => String(port)))];
  const flowsByPort = new Map(
    await Promise.all(ports.map(async (port) => [port, await flowsOf(port)] as const)),
  );
  const known = paths.flatMap((path): RememberedCommand[] => {
    const address = String(path['address']);
    const flows = flowsByPort
      .get(String(path['port']))!
      .filter((flow) => flow.remoteAddress.includes(':') === address.includes(':'))
      // A partition that altered its address names them by the other one.
      .map((flow) => ({ ...flow, localAddress: address }));
    return flows.length === 0 ? [] : [{ name: 'flows-known', args: { address, flows } }];
  });
  return [...commands.slice(0, at), ...known, ...commands.slice(at)];
}
