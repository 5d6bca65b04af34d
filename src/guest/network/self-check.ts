/**
 * The guest's check of its own network programs, with no network device involved: a client and two HTTP servers on three
 * stacks joined by in-memory links; requests are answered, the connections are quiesced, exported by the first server,
 * imported by the second, and go on. It proves the hand-over before a cut relies on it, and it runs the code of the cut often
 * enough for the engine to have compiled it: the first hand-over of a process takes several times as long as the tenth.
 */
import { once } from 'node:events';
import http from 'node:http';
import { messageOf, systemClock, systemRandom } from '../../common/index.ts';
import {
  cidr,
  connectOn,
  MemoryLink,
  macAddress,
  NetFace,
  RequestTracker,
  Stack,
} from '../../netstack/index.ts';
import { GuestError } from '../errors.ts';

const CLIENT = '192.0.2.1';
const SERVER = '192.0.2.2';
const PORT = 80;
const TIMEOUT_MS = 5_000;

export interface SelfCheckResult {
  readonly connections: number;
  readonly requests: number;
  readonly durationMs: number;
}

/** `connections` are opened, answer `requests` each, move, and answer as many again. Throws `self-check-failed`. */
export async function selfCheck(connections: number, requests: number): Promise<SelfCheckResult> {
  const startMs = performance.now();
  const links = MemoryLink.pair(systemClock, { checksum: true, segmentation: true });
  const client = face(links[0], CLIENT, '02:00:00:00:00:01');
  const trackers = [new RequestTracker(), new RequestTracker()] as const;
  const first = face(links[1], SERVER, '02:00:00:00:00:02', trackers[0]);
  const spare = MemoryLink.pair(systemClock, { checksum: true, segmentation: true });
  let second = face(spare[1], SERVER, '02:00:00:00:00:02', trackers[1]);
  const timer = setTimeout(() => {
    for (const part of [client, first, second]) part.close(true);
  }, TIMEOUT_MS);
  try {
    serve(first);
    const sockets = await Promise.all(
      Array.from({ length: connections }, async () => {
        const socket = connectOn(client, { host: SERVER, port: PORT });
        await once(socket, 'connect');
        return socket;
      }),
    );
    for (let i = 0; i < requests; i++) await Promise.all(sockets.map(exchange));
    await trackers[0].quiesce(TIMEOUT_MS);
    const { connections: moved } = trackers[0].exportFrozen();
    // The second server takes the first one's place on the link.
    second.close(true);
    second = face(links[1], SERVER, '02:00:00:00:00:02', trackers[1]);
    serve(second);
    const { imported } = second.importConnections(moved);
    if (imported !== connections) throw failure(`${imported} of ${connections} connections could be moved`);
    for (let i = 0; i < requests; i++) await Promise.all(sockets.map(exchange));
    return { connections, requests: 2 * connections * requests, durationMs: performance.now() - startMs };
  } catch (error) {
    throw error instanceof GuestError ? error : failure(messageOf(error));
  } finally {
    clearTimeout(timer);
    for (const part of [client, first, second]) part.close(true);
  }
}

function failure(reason: string): GuestError {
  return new GuestError('self-check-failed', `the hand-over of connections does not work here: ${reason}`);
}

function face(link: MemoryLink, address: string, mac: string, tracker?: RequestTracker): NetFace {
  const stack = new Stack({
    clock: systemClock,
    random: systemRandom,
    link,
    mac: macAddress(mac),
    addresses: [cidr(`${address}/24`)],
  });
  return new NetFace(stack, tracker === undefined ? {} : { onConnection: tracker.onConnection });
}

function serve(on: NetFace): void {
  const server = http.createServer((_request, response) => response.end('checked\n'));
  on.listen(server, { port: PORT });
}

/** One keep-alive request and its whole answer. */
function exchange(socket: ReturnType<typeof connectOn>): Promise<void> {
  return new Promise((resolve, reject) => {
    let text = '';
    const failed = () => reject(failure('a connection was lost'));
    const more = (chunk: Buffer) => {
      text += chunk.toString('latin1');
      if (!text.endsWith('checked\n') && !text.endsWith('checked\n\r\n0\r\n\r\n')) return;
      socket.off('data', more).off('close', failed);
      resolve();
    };
    socket.on('data', more).on('close', failed);
    socket.write(`GET /self-check HTTP/1.1\r\nHost: ${SERVER}\r\n\r\n`);
  });
}
