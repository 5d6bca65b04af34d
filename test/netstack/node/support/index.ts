import { systemClock, systemRandom } from '../../../../src/common/index.ts';
import type { FaceHooks } from '../../../../src/netstack/index.ts';
import { cidr, MemoryLink, macAddress, NetFace, Stack } from '../../../../src/netstack/index.ts';

/** Two stacks on the system's clock, joined in memory: a client 10.0.0.1 and a server 10.0.0.2. */
export function pair(hooks: FaceHooks = {}): { client: NetFace; server: NetFace; close(): void } {
  const [left, right] = MemoryLink.pair(systemClock, { segmentation: true });
  const one = (link: MemoryLink, address: string, mac: string) =>
    new Stack({
      clock: systemClock,
      random: systemRandom,
      link,
      mac: macAddress(mac),
      addresses: [cidr(`${address}/24`)],
    });
  const client = one(left, '10.0.0.1', '02:00:00:00:00:01');
  const server = one(right, '10.0.0.2', '02:00:00:00:00:02');
  const faces = { client: new NetFace(client), server: new NetFace(server, hooks) };
  return {
    ...faces,
    close: () => {
      faces.client.close();
      faces.server.close();
      left.close();
      right.close();
    },
  };
}

export const SERVER = '10.0.0.2';
