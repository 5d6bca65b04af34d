/** Child of client.test.ts: serves FILE at SOCKET as export `disk` until killed. */
import { FileStore, NbdServer } from '../../../src/blockdev/index.ts';

const [file, socket] = process.argv.slice(2);
const server = new NbdServer();
await server.setExports(new Map([['disk', FileStore.open(file!)]]));
await server.listen(socket!);
process.stdin.on('end', () => process.exit(0)).resume();
