/** A partition with our stack that echoes what it gets on one TCP port: node port-stack.ts '<Options as JSON>'. */
import { systemClock, systemRandom } from '../../../src/common/index.ts';
import {
  cidr,
  ipAddress,
  macAddress,
  NetFace,
  Stack,
  StackServer,
  StreamLink,
} from '../../../src/netstack/index.ts';

export interface PortStackOptions {
  readonly socket: string;
  readonly mac: string;
  /** With prefix length. */
  readonly address: string;
  readonly gateway: string;
  readonly port: number;
}

const options = JSON.parse(process.argv[2] ?? '{}') as PortStackOptions;
const link = new StreamLink({ path: options.socket });
const stack = new Stack({
  clock: systemClock,
  random: systemRandom,
  link,
  mac: macAddress(options.mac),
  addresses: [cidr(options.address)],
  gateway: ipAddress(options.gateway),
});
await link.ready();
const server = new StackServer(new NetFace(stack), {}, (socket) => {
  socket.on('error', () => {});
  socket.pipe(socket);
});
server.on('listening', () => process.stdout.write('ready\n'));
server.listenOn({ port: options.port });
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
