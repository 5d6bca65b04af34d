import type { NetworkView } from '../../daemon/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { portLines } from '../ports.ts';
import type { Session } from '../session.ts';

/** JSON: {ports: PortStatus[], counters}. */
export async function network(session: Session): Promise<ExitCode> {
  const view = await (await session.api()).get<NetworkView>('/network');
  session.result(view, () => portLines(view.ports));
  return EXIT.done;
}
