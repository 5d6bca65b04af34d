/** transferServer as a process: on our stack behind a port (`socket`), or on the kernel's. Its argument is a TransferProcess. */
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import { cidr, installNetOverride, macAddress, Stack, StreamLink } from '../../../src/netstack/index.ts';
import { transferServer } from './transfer.ts';

export interface TransferProcess {
  /** A port of QEMU's framing; with `rings` one that has them, and the virtio-net header. */
  readonly socket?: string;
  readonly rings?: boolean;
  readonly address: string;
  readonly port: number;
}

const given = JSON.parse(process.argv[2] ?? '{}') as TransferProcess;
let counters = () => ({});
if (given.socket !== undefined) {
  const link = new StreamLink({
    path: given.socket,
    vnetHeader: given.rings === true,
    rings: given.rings === true,
  });
  const stack = new Stack({
    clock: systemClock,
    random: systemRandom,
    link,
    mac: macAddress('02:00:00:00:00:aa'),
    addresses: [cidr(given.address)],
  });
  installNetOverride(stack);
  counters = () => ({ ...stack.tcp.counters, carrier: link.carrier, connections: link.counters.connections });
  await link.ready(60_000);
}
const server = transferServer(() => counters());
server.listen(given.port, given.address.split('/')[0], () => console.log('ready'));
