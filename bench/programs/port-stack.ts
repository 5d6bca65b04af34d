/** `port-stack.ts SOCKET MAC ADDRESS PROGRAM`: an ordinary Node program on our stack behind a port of a mux, for M4. */
import { pathToFileURL } from 'node:url';
import { systemClock, systemRandom } from '../../src/common/index.ts';
import { cidr, installNetOverride, macAddress, Stack, StreamLink } from '../../src/netstack/index.ts';

const [socket, mac, address, program] = process.argv.slice(2) as [string, string, string, string];
const link = new StreamLink({ path: socket, rings: true });
const stack = new Stack({
  clock: systemClock,
  random: systemRandom,
  link,
  mac: macAddress(mac),
  addresses: [cidr(`${address}/24`)],
});
await link.ready();
installNetOverride(stack, { loopback: 'node', onListening: () => console.log('listening') });
await import(pathToFileURL(program).href);
