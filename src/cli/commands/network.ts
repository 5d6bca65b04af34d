import type { NetworkView, PartitionFigures } from '../../daemon/index.ts';
import { statsTable } from '../../daemon/standalone/stack-stats.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { portLines } from '../ports.ts';
import type { Session } from '../session.ts';

/** JSON: {ports: PortStatus[], counters}; with `--connections PARTITION` PartitionFigures. */
export async function network(
  session: Session,
  options: Readonly<Record<string, unknown>>,
): Promise<ExitCode> {
  const api = await session.api();
  const { connections } = options;
  if (connections === undefined) {
    const view = await api.get<NetworkView>('/network');
    session.result(view, () => portLines(view.ports));
  } else {
    const path = `/partitions/${encodeURIComponent(String(connections))}/network`;
    const figures = await api.get<PartitionFigures>(path);
    session.result(figures, () => statsTable(figures));
  }
  return EXIT.done;
}
