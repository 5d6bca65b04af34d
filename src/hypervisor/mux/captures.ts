import type { Clock } from '../../common/index.ts';
import type { CaptureSink, CaptureSummary } from '../../netstack/index.ts';
import { FileSink, PcapngWriter, RingSink } from '../../netstack/index.ts';
import type { PortStatus } from './commands.ts';
import { MuxError } from './mux-error.ts';
import type { PacketObserver } from './packet-observer.ts';

/** Of one write when a ring is dumped. */
const DUMP_BYTES = 1024 * 1024;

interface Running {
  /** The file's path, or the socket's. */
  readonly file: string;
  readonly writer: PcapngWriter;
  /** Undefined: every port. */
  readonly ports: ReadonlySet<string> | undefined;
  readonly snapLength: number | undefined;
  /** Port → interface of the file. */
  readonly interfaces: Map<string, number>;
  readonly ring: RingSink | undefined;
}

export interface CaptureStart {
  /** Path, unique among the running ones. */
  readonly file: string;
  /** Where it goes instead of into a file of this name; its end ends the capture. */
  readonly sink?: CaptureSink;
  /** Kept in memory, the latest. */
  readonly ringBytes?: number;
  readonly ports?: readonly string[];
  readonly snapLength?: number;
  readonly comment?: string;
}

export interface CaptureDump {
  readonly name: string;
  readonly file: string;
  readonly ports?: readonly string[];
  readonly lastMs?: number;
}

/**
 * The running captures of a mux: any number of pcapng files, each with one interface per port and uplink. A packet appears
 * at the interface it came in by as it was sent, and at the one it left by as it left; comments say what was done to it.
 */
export class Captures implements PacketObserver {
  readonly #clock: Clock;
  readonly #describe: () => readonly PortStatus[];
  readonly #onEnd: () => void;
  readonly #running = new Map<string, Running>();

  /** `describe` names the ports that there are; `onEnd` is told when a capture ended by itself. */
  constructor(clock: Clock, describe: () => readonly PortStatus[], onEnd: () => void = () => {}) {
    this.#clock = clock;
    this.#describe = describe;
    this.#onEnd = onEnd;
  }

  get active(): boolean {
    return this.#running.size > 0;
  }

  /** Nothing when the file is being written already. Throws CaptureError, MuxError `unknown-port`. */
  start(options: CaptureStart): void {
    if (this.#running.has(options.file)) return;
    const ports = this.#describe();
    for (const name of options.ports ?? []) {
      if (ports.some((port) => port.name === name)) continue;
      throw new MuxError('unknown-port', `there is no port ${name} to capture`, {
        remedy: `ports are: ${ports.map((port) => port.name).join(', ') || 'none'}`,
        values: { port: name },
      });
    }
    const ring = options.ringBytes === undefined ? undefined : new RingSink(options.ringBytes);
    const running: Running = {
      file: options.file,
      ring,
      writer: PcapngWriter.create(ring ?? options.sink ?? options.file, {
        clock: this.#clock,
        ...(options.sink === undefined ? {} : { onStop: () => this.#ended(running) }),
        ...(options.comment === undefined ? {} : { comment: options.comment }),
      }),
      ports: options.ports === undefined ? undefined : new Set(options.ports),
      snapLength: options.snapLength,
      interfaces: new Map(),
    };
    for (const port of ports) this.#interface(running, port.name);
    this.#running.set(options.file, running);
  }

  /** Ends the capture into `file`, or the only one. Throws `no-capture`. */
  async stop(file?: string): Promise<{ file: string } & CaptureSummary> {
    const chosen = file ?? (this.#running.size === 1 ? [...this.#running.keys()][0] : undefined);
    const running = chosen === undefined ? undefined : this.#running.get(chosen);
    if (running === undefined) {
      const files = [...this.#running.keys()].join(', ');
      throw new MuxError('no-capture', file === undefined ? 'which capture?' : `no capture into ${file}`, {
        remedy: files === '' ? 'start one first' : `these are running: ${files}`,
      });
    }
    this.#running.delete(running.file);
    return { file: running.file, ...(await running.writer.close()) };
  }

  /** Throws MuxError `no-capture`, CaptureError. */
  async dump({
    name,
    file,
    ports,
    lastMs,
  }: CaptureDump): Promise<{ file: string; packets: number; bytes: number }> {
    const running = this.#running.get(name);
    if (running?.ring === undefined) {
      throw new MuxError('no-capture', `nothing is kept under the name ${name}`, {
        remedy: 'set network.historyMiB, or start a capture',
      });
    }
    await running.writer.flush();
    const { chunks, packets } = running.ring.dump({
      ...(ports === undefined ? {} : { interfaces: new Set(ports) }),
      ...(lastMs === undefined
        ? {}
        : { sinceNs: this.#clock.wallNs() - BigInt(Math.round(lastMs)) * 1_000_000n }),
    });
    const sink = new FileSink(file);
    let bytes = 0;
    try {
      let batch: Uint8Array[] = [];
      let length = 0;
      const put = async () => {
        await sink.write(Buffer.concat(batch));
        bytes += length;
        batch = [];
        length = 0;
      };
      for (const chunk of chunks) {
        batch.push(chunk);
        length += chunk.length;
        if (length >= DUMP_BYTES) await put();
      }
      await put();
    } finally {
      await sink.close();
    }
    return { file, packets, bytes };
  }

  /** Its reader has gone: nobody will ask for its end. */
  #ended(running: Running): void {
    if (this.#running.get(running.file) !== running) return;
    this.#running.delete(running.file);
    void running.writer.close();
    this.#onEnd();
  }

  mark(comment: string): void {
    for (const { writer } of this.#running.values()) writer.mark(comment);
  }

  /** Ends all of them. */
  async close(): Promise<void> {
    await Promise.all([...this.#running.keys()].map((file) => this.stop(file)));
  }

  packet(
    port: string,
    inbound: boolean,
    buffer: Uint8Array,
    offset: number,
    length: number,
    comment: string | undefined,
  ): void {
    const timeNs = this.#clock.wallNs();
    for (const running of this.#running.values()) {
      const id = this.#interface(running, port);
      if (id === undefined) continue;
      running.writer.writePacket(
        id,
        inbound ? 'inbound' : 'outbound',
        timeNs,
        buffer,
        offset,
        length,
        comment,
      );
    }
  }

  /** Interface of a port in a file; a port that came later gets one with its first packet. */
  #interface(running: Running, name: string): number | undefined {
    const known = running.interfaces.get(name);
    if (known !== undefined) return known;
    if (running.ports !== undefined && !running.ports.has(name)) return undefined;
    const port = this.#describe().find((other) => other.name === name);
    const text = port === undefined ? undefined : [port.role, port.mac].filter(Boolean).join(' ');
    const id = running.writer.addInterface({
      name,
      ...(text === undefined ? {} : { description: text }),
      ...(running.snapLength === undefined ? {} : { snapLength: running.snapLength }),
    });
    running.interfaces.set(name, id);
    return id;
  }
}
