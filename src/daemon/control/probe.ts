/**
 * The product's own client: a small TCP/IP stack at a port of the mux of its own (role `probe`). It asks as a client on the
 * uplink's segment would; over a private path it reaches a partition that is still isolated. One connection per check.
 */
import { join } from 'node:path';
import type { Clock, Random } from '../../common/index.ts';
import { messageOf, systemClock, systemRandom } from '../../common/index.ts';
import type { LinkDevice, TcpConnection, TcpHandler } from '../../netstack/index.ts';
import { cidr, ipAddress, macAddress, Stack, StreamLink } from '../../netstack/index.ts';
import type {
  HealthCheck,
  ProbeAnswer,
  ProbeExchange,
  ProbeRequest,
  ServiceProbe,
} from '../../patch/index.ts';
import type { Daemon } from './daemon.ts';
import { emitRequest, parseAnswer } from './http-message.ts';
import { bareAddress } from './mapping.ts';

export const PROBE_PORT = 'probe';
const MAX_HEAD_BYTES = 64 * 1024;
const MAX_ANSWER_BYTES = 8 * 1024 * 1024;
const CONNECT_LIMIT_MS = 5_000;

export interface ProbeOptions {
  readonly link: LinkDevice;
  /** CIDR, one in each network. */
  readonly addresses: readonly string[];
  readonly mac: string;
  readonly port?: string;
  readonly clock?: Clock;
  readonly random?: Random;
}

export class Probe implements ServiceProbe {
  readonly addresses: readonly string[];
  readonly port: string;
  readonly #stack: Stack;
  readonly #link: LinkDevice;
  readonly #clock: Clock;
  /** Pulses under way: how they are answered, and how they are ended without an answer. */
  readonly #pulses = new Map<(answer: undefined) => void, () => void>();
  #private = 0;

  constructor(options: ProbeOptions) {
    this.#link = options.link;
    this.#clock = options.clock ?? systemClock;
    this.addresses = options.addresses.map(bareAddress);
    this.port = options.port ?? PROBE_PORT;
    this.#stack = new Stack({
      clock: this.#clock,
      random: options.random ?? systemRandom,
      link: options.link,
      mac: macAddress(options.mac),
      addresses: options.addresses.map(cidr),
      // Configured for nobody else, and the first check comes at once.
      detectDuplicates: false,
    });
  }

  /** `address` with or without prefix length. Never throws: what went wrong is in the answer. */
  check(address: string, health: HealthCheck): Promise<ProbeAnswer> {
    return new Promise((answered) => this.#ask(address, health, answered));
  }

  pulse(address: string, health: HealthCheck): Promise<ProbeAnswer | undefined> {
    if (this.#private > 0) return Promise.resolve(undefined);
    return new Promise((answered) => {
      const give = (answer: ProbeAnswer | undefined) => {
        this.#pulses.delete(give);
        answered(answer);
      };
      const abandon = this.#ask(address, health, give);
      this.#pulses.set(give, abandon);
    });
  }

  async privately<T>(work: () => Promise<T>): Promise<T> {
    this.#private++;
    for (const [give, abandon] of [...this.#pulses]) {
      abandon();
      give(undefined);
    }
    try {
      return await work();
    } finally {
      this.#private--;
    }
  }

  /**
   * Over a private path the same address may have another hardware address than a moment ago. Who is being asked for stays so,
   * except there: an address that nobody answered for on the uplink must not count as unreachable on the private path.
   */
  #forgetNeighbours(): void {
    const { arp, neighbours } = this.#stack.ip;
    for (const cache of [arp, neighbours]) {
      if (this.#private > 0) cache.clear();
      else cache.forgetKnown();
    }
  }

  /** Returns the function that ends the question without an answer. */
  #ask(address: string, health: HealthCheck, answered: (answer: ProbeAnswer) => void): () => void {
    const target = 'http' in health ? health.http : health.tcp;
    const startMs = this.#clock.nowMs();
    this.#forgetNeighbours();
    let connection: TcpConnection | undefined;
    let localPort = 0;
    let settled = false;
    const end = () => {
      settled = true;
      limit.cancel();
      // Not `close`: its last segments could outlive the private path and be taken for a flow of the service.
      connection?.abort();
    };
    const settle = (ok: boolean, detail: string) => {
      if (settled) return;
      end();
      answered({ ok, detail, durationMs: this.#clock.nowMs() - startMs, localPort });
    };
    const limit = this.#clock.after(target.timeoutMs, () => {
      const what = connection?.state === 'SYN-SENT' ? 'no connection' : 'no whole answer';
      settle(false, `${what} within ${target.timeoutMs} ms`);
    });
    const handler = 'http' in health ? httpHandler(health.http, hostOf(address), settle) : tcpHandler(settle);
    try {
      connection = this.#stack.tcp.connect(
        { remoteAddress: ipAddress(bareAddress(address)), remotePort: target.port },
        handler(() => connection),
      );
      localPort = connection.localPort;
    } catch (error) {
      settle(false, messageOf(error));
    }
    return end;
  }

  /** One HTTP request on a connection of its own. Never throws. */
  exchange(address: string, request: ProbeRequest): Promise<ProbeExchange> {
    this.#forgetNeighbours();
    return new Promise((resolve) => {
      let connection: TcpConnection | undefined;
      let localPort = 0;
      let settled = false;
      const chunks: Buffer[] = [];
      let bytes = 0;
      const settle = (detail: string, whole = false) => {
        if (settled) return;
        settled = true;
        limit.cancel();
        connection?.abort();
        const answer = whole ? parseAnswer(Buffer.concat(chunks)) : undefined;
        if (answer === undefined) resolve({ detail: whole ? 'no HTTP answer' : detail, localPort });
        else resolve({ answer, detail: `status ${answer.status}`, localPort });
      };
      const limit = this.#clock.after(request.timeoutMs, () =>
        settle(`no whole answer within ${request.timeoutMs} ms`),
      );
      try {
        connection = this.#stack.tcp.connect(
          { remoteAddress: ipAddress(bareAddress(address)), remotePort: request.port },
          {
            connected: () => {
              try {
                connection?.write(emitRequest({ ...request, host: hostOf(request.host) }));
              } catch (error) {
                settle(messageOf(error));
              }
            },
            readable: () => {
              const c = connection;
              if (c === undefined) return;
              for (let chunk = c.read(); chunk !== undefined; chunk = c.read()) {
                bytes += chunk.length;
                if (bytes > MAX_ANSWER_BYTES)
                  return settle(`an answer of more than ${MAX_ANSWER_BYTES} bytes`);
                chunks.push(Buffer.from(chunk));
              }
              if (c.remoteClosed) settle('', true);
            },
            writable: () => {},
            closed: (error) => (error === undefined ? settle('', true) : settle(messageOf(error))),
          },
        );
        localPort = connection.localPort;
      } catch (error) {
        settle(messageOf(error));
      }
    });
  }

  close(): void {
    this.#link.close();
  }
}

/** As a URL writes it. */
function hostOf(address: string): string {
  const bare = bareAddress(address);
  return bare.includes(':') ? `[${bare}]` : bare;
}

type Settle = (ok: boolean, detail: string) => void;
type MakeHandler = (connection: () => TcpConnection | undefined) => TcpHandler;

function tcpHandler(settle: Settle): MakeHandler {
  return () => ({
    connected: () => settle(true, 'connected'),
    readable: () => {},
    writable: () => {},
    closed: (error) => settle(false, error === undefined ? 'closed' : messageOf(error)),
  });
}

/** Reads until the server closes, so that "well" means a whole answer. */
function httpHandler(
  http: { readonly path: string; readonly expectStatus: number },
  host: string,
  settle: Settle,
): MakeHandler {
  return (connection) => {
    let head = '';
    const finish = () => {
      const status = /^HTTP\/1\.[01] (\d{3})/.exec(head)?.[1];
      if (status === undefined) settle(false, head === '' ? 'closed without an answer' : 'no HTTP answer');
      else {
        const line = head.slice(0, Math.max(0, head.indexOf('\r\n')));
        settle(Number(status) === http.expectStatus, line === '' ? `status ${status}` : line);
      }
    };
    return {
      connected: () => {
        const request = `GET ${http.path} HTTP/1.1\r\nHost: ${host}\r\nUser-Agent: changeover\r\nConnection: close\r\n\r\n`;
        try {
          connection()?.write(Buffer.from(request));
        } catch (error) {
          settle(false, messageOf(error));
        }
      },
      readable: () => {
        const c = connection();
        if (c === undefined) return;
        for (let chunk = c.read(); chunk !== undefined; chunk = c.read()) {
          if (head.length < MAX_HEAD_BYTES) head += chunk.toString('latin1');
        }
        if (c.remoteClosed) finish();
      },
      writable: () => {},
      closed: (error) => {
        if (error === undefined) finish();
        else settle(false, messageOf(error));
      },
    };
  };
}

/** Makes the probe's port at the mux and connects to it. */
export async function startProbe(daemon: Daemon): Promise<Probe> {
  const { configuration, mux, paths } = daemon;
  const { address, address6, also, mac } = configuration.network.probe;
  const addresses = [address, ...(address6 === undefined ? [] : [address6]), ...also];
  const socket = join(paths.directory, 'ports', `${PROBE_PORT}.sock`);
  await mux.execute('port-add', {
    name: PROBE_PORT,
    socket,
    mac,
    addresses: addresses.map(bareAddress),
    role: 'probe',
    vnetHeader: true,
  });
  await mux.execute('port-state', { name: PROBE_PORT, state: 'attached' });
  const link = new StreamLink({ path: socket, name: PROBE_PORT });
  try {
    await link.ready(CONNECT_LIMIT_MS);
    return new Probe({ link, addresses, mac });
  } catch (error) {
    link.close();
    throw error;
  }
}
