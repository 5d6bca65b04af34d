/** transferServer as a process: on our stack behind a port (`socket`), or on the kernel's. Its argument is a TransferProcess. */
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import { cidr, installNetOverride, macAddress, Stack, StreamLink } from '../../../src/netstack/index.ts';
import { transferServer } from './transfer.ts';

export interface TransferProcess {
  /** A port of QEMU's framing. */
  readonly socket?: string;
  readonly address: string;
  readonly port: number;
}

const given = JSON.parse(process.argv[2] ?? '{}') as TransferProcess;
let counters = () => ({});
if (given.socket !== undefined) {
  const link = new StreamLink({ path: given.socket, vnetHeader: false });
  const stack = new Stack({
    clock: systemClock,
    random: systemRandom,
    link,
    mac: macAddress('02:00:00:00:00:aa'),
    addresses: [cidr(given.address)],
  });
  installNetOverride(stack);
  counters = () => stack.tcp.counters;
  await link.ready(60_000);
}
const server = transferServer(() => counters());
server.listen(given.port, given.address.split('/')[0], () => console.log('ready'));
