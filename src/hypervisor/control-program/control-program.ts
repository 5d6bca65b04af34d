/**
 * The logical computer control program [305] on the hypervisor's side: typed words to one partition over its agent socket,
 * no network device involved. Every call has a time limit and ends.
 */
import type {
  Barrier,
  ConnectionState,
  FlowName,
  GuestCommands,
  GuestEvents,
  GuestPatchResult,
  GuestPhase,
  GuestStatus,
  Neighbor,
  NetworkFigures,
} from '../../channel/index.ts';
import { ChannelClient } from '../../channel/index.ts';
import { CodedError } from '../../common/index.ts';

export class ControlProgramError extends CodedError {}

type Client = ChannelClient<GuestCommands, GuestEvents>;
type Arguments<N extends keyof GuestCommands & string> = GuestCommands[N]['arguments'];
type Result<N extends keyof GuestCommands & string> = GuestCommands[N]['result'];

/** Time limits in ms per word; those with a limit of their own among the arguments get it and `MARGIN_MS`. */
const SHORT_MS = 2_000;
const MEDIUM_MS = 10_000;
const MARGIN_MS = 2_000;

export class ControlProgram {
  readonly #client: Client;
  readonly partition: string;

  constructor(partition: string, client: Client) {
    this.partition = partition;
    this.#client = client;
  }

  /** Throws ChannelError `unreachable`. */
  static async connect(partition: string, socket: string, waitMs = 0): Promise<ControlProgram> {
    const client = await ChannelClient.connect<GuestCommands, GuestEvents>(socket, `partition ${partition}`, {
      waitMs,
    });
    return new ControlProgram(partition, client);
  }

  get closed(): boolean {
    return this.#client.closed;
  }

  close(): void {
    this.#client.close();
  }

  onClose(listener: (reason: string) => void): void {
    this.#client.onClose(listener);
  }

  on<N extends keyof GuestEvents & string>(name: N, listener: (data: GuestEvents[N]) => void): () => void {
    return this.#client.on(name, listener);
  }

  /** Any word, for what has no method here. */
  execute<N extends keyof GuestCommands & string>(
    name: N,
    args: Arguments<N>,
    timeoutMs = MEDIUM_MS,
  ): Promise<Result<N>> {
    return this.#client.execute(name, args, { timeoutMs });
  }

  async ping(timeoutMs = SHORT_MS): Promise<void> {
    await this.execute('guest-ping', {}, timeoutMs);
  }

  status(timeoutMs = SHORT_MS): Promise<GuestStatus> {
    return this.execute('changeover-status', {}, timeoutMs);
  }

  /** Waits until the guest is in one of `phases`; throws `guest-failed` with its reason, `timeout`, or `closed`. */
  async waitFor(phases: readonly GuestPhase[], timeoutMs = MEDIUM_MS): Promise<GuestStatus> {
    const untilMs = performance.now() + timeoutMs;
    let wake: () => void = () => {};
    const off = this.on('PHASE', () => wake());
    this.onClose(() => wake());
    try {
      for (;;) {
        const changed = new Promise<void>((resolve) => {
          wake = resolve;
        });
        const status = await this.status(Math.max(50, untilMs - performance.now()));
        if (phases.includes(status.phase)) return status;
        if (status.phase === 'failed') {
          throw new ControlProgramError(
            'guest-failed',
            `partition ${this.partition} failed: ${status.reason}`,
            {
              values: { partition: this.partition, phase: status.phase },
            },
          );
        }
        const leftMs = untilMs - performance.now();
        if (leftMs <= 0) {
          throw new ControlProgramError(
            'timeout',
            `partition ${this.partition} is still ${status.phase} after ${timeoutMs} ms, expected ${phases.join(' or ')}`,
            { values: { partition: this.partition, phase: status.phase, timeoutMs } },
          );
        }
        let timer: NodeJS.Timeout | undefined;
        await Promise.race([
          changed,
          new Promise<void>((resolve) => {
            timer = setTimeout(resolve, Math.min(leftMs, 250));
          }),
        ]);
        clearTimeout(timer);
      }
    } finally {
      off();
    }
  }

  /** Step 1207. */
  patchResults(): Promise<{ results: GuestPatchResult[]; table: string }> {
    return this.execute('changeover-patch-results', {});
  }

  loadApplication(limitMs: number): Promise<Result<'changeover-application-load'>> {
    return this.execute('changeover-application-load', { limitMs }, limitMs + MARGIN_MS);
  }

  startApplication(timeoutMs = MEDIUM_MS): Promise<Result<'changeover-application-start'>> {
    return this.execute('changeover-application-start', { timeoutMs }, timeoutMs + MARGIN_MS);
  }

  async collectGarbage(which: 'young' | 'all'): Promise<void> {
    await this.execute('changeover-collect', { young: which === 'young' });
  }

  /** Step 1602. */
  async takeAddress(address: string, gateway?: string): Promise<void> {
    await this.execute('changeover-address-take', gateway === undefined ? { address } : { address, gateway });
  }

  /** First half of step 2202. */
  async prepareAddress(from: string, to: string): Promise<void> {
    await this.execute('changeover-address-prepare', { from, to });
  }

  /** Second half of step 2202. */
  alterAddress(from: string, to: string): Promise<{ connections: number }> {
    return this.execute('changeover-address-alter', { from, to });
  }

  async announce(): Promise<void> {
    await this.execute('changeover-announce', {});
  }

  quiesce(budgetMs: number, all = false, freeze = false): Promise<Result<'changeover-quiesce'>> {
    const how = { ...(all ? { all } : {}), ...(freeze ? { freeze } : {}) };
    return this.execute('changeover-quiesce', { budgetMs, ...how }, budgetMs + MARGIN_MS);
  }

  freezeIdle(most: number): Promise<Result<'changeover-freeze-idle'>> {
    return this.execute('changeover-freeze-idle', { most });
  }

  windDown(
    flows: FlowName[],
    options: { barrier?: Barrier; timeoutMs?: number } = {},
  ): Promise<Result<'changeover-wind-down'>> {
    return this.execute(
      'changeover-wind-down',
      { flows, ...options },
      (options.timeoutMs ?? MEDIUM_MS) + MARGIN_MS,
    );
  }

  changedFiles(
    sinceMs: number,
    limit: number,
    under?: string[],
  ): Promise<Result<'changeover-changed-files'>> {
    const where = under === undefined ? {} : { under };
    return this.execute('changeover-changed-files', { sinceMs, limit, ...where });
  }

  /** A whole file of the running guest, at most `maxBytes`. */
  async readFile(path: string, maxBytes: number): Promise<Buffer> {
    const handle = await this.execute('guest-file-open', { path, mode: 'r' });
    try {
      const { 'buf-b64': text } = await this.execute('guest-file-read', { handle, count: maxBytes });
      return Buffer.from(text, 'base64');
    } finally {
      await this.execute('guest-file-close', { handle });
    }
  }

  /** Replaces a file of the running guest, durably. */
  async writeFile(path: string, data: Buffer): Promise<void> {
    const handle = await this.execute('guest-file-open', { path, mode: 'w' });
    try {
      await this.execute('guest-file-write', { handle, 'buf-b64': data.toString('base64') });
    } finally {
      await this.execute('guest-file-close', { handle });
    }
  }

  async resume(options: { reclaim?: boolean } = {}): Promise<number> {
    return (await this.execute('changeover-resume', options)).reclaimed;
  }

  exportConnections(
    options: { barrier?: Barrier; timeoutMs?: number; flows?: FlowName[] } = {},
  ): Promise<{ connections: ConnectionState[]; neighbors: Neighbor[] }> {
    return this.execute(
      'changeover-connections-export',
      options,
      (options.timeoutMs ?? MEDIUM_MS) + MARGIN_MS,
    );
  }

  importConnections(
    connections: ConnectionState[],
    neighbors: Neighbor[] = [],
  ): Promise<{ imported: number; refused: { flow: FlowName; reason: string }[] }> {
    return this.execute('changeover-connections-import', { connections, neighbors });
  }

  networkFigures(): Promise<NetworkFigures> {
    return this.execute('changeover-network-figures', {}, SHORT_MS);
  }

  connections(): Promise<Result<'changeover-connections'>> {
    return this.execute('changeover-connections', {});
  }

  selfCheck(rounds: number, connections: number): Promise<Result<'changeover-self-check'>> {
    return this.execute('changeover-self-check', { rounds, connections }, 30_000);
  }

  freezeFileSystems(): Promise<number> {
    return this.execute('guest-fsfreeze-freeze', {});
  }

  thawFileSystems(): Promise<number> {
    return this.execute('guest-fsfreeze-thaw', {});
  }

  /** Asks the guest to sync, unmount and end; its answer may be lost with the channel, which is fine. */
  async shutdown(mode: 'powerdown' | 'reboot' = 'powerdown', timeoutMs = SHORT_MS): Promise<void> {
    try {
      await this.execute('guest-shutdown', { mode }, timeoutMs);
    } catch (error) {
      if (!this.closed) throw error;
    }
  }
}
