/** `port-mux.ts TAP SOCKET MAC ADDRESS`: a mux with one uplink and one partition that has the path of its address, for M4. */
import { MuxServer } from '../../src/hypervisor/index.ts';

const [tap, socket, mac, address] = process.argv.slice(2) as [string, string, string, string];
const server = new MuxServer();
server.addUplink({ name: tap });
await server.addPort({ name: 'partition', socket, mac, addresses: [address], vnetHeader: true });
server.mux.portState('partition', 'attached');
server.mux.pathSet({ address, port: 'partition' });
console.log('ready');
