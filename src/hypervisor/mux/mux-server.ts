/**
 * The mux with real devices: TAPs as uplinks, unix sockets as partition ports, files as captures; and the answers to every
 * command of its channel.
 */
import type { Socket } from 'node:net';
import { connect } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { Handlers } from '../../channel/index.ts';
import type { Clock, Log } from '../../common/index.ts';
import { messageOf, silentLog, systemClock, Turns } from '../../common/index.ts';
import type { LinkDevice, TapLinkOptions } from '../../netstack/index.ts';
import { ipAddress, macAddress, NicLink, parseIpAddress, StreamSink, TapLink } from '../../netstack/index.ts';
import { type CaptureStart, Captures } from './captures.ts';
import type { MuxCommands, MuxEvents, PortStatus } from './commands.ts';
import { Mux, type MuxOptions } from './mux.ts';
import { MuxError } from './mux-error.ts';
import { StreamPort } from './port/stream-port.ts';
import type { PortLimits } from './rate-limit.ts';
import { restore } from './restore.ts';

/** The commands by name, without the index signature that a vocabulary has. */
type Commands = { [N in keyof MuxCommands as string extends N ? never : N]: MuxCommands[N] };
type Answers = {
  [N in keyof Commands]: (
    args: Commands[N]['arguments'],
  ) => Commands[N]['result'] | Promise<Commands[N]['result']>;
};

export interface MuxServerOptions {
  readonly clock?: Clock;
  readonly log?: Log;
  readonly onEvent?: MuxOptions['onEvent'];
  /** The `shutdown` command was answered. */
  readonly onShutdown?: () => void;
  readonly openTap?: (options: TapLinkOptions) => LinkDevice;
}

export class MuxServer {
  readonly mux: Mux;
  readonly captures: Captures;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #turns = new Turns();
  readonly #openTap: (options: TapLinkOptions) => LinkDevice;
  readonly #onShutdown: () => void;
  /** Arguments of the port-add or uplink-add that made each port. */
  readonly #made = new Map<string, string>();

  constructor(options: MuxServerOptions = {}) {
    const clock = options.clock ?? systemClock;
    this.#clock = clock;
    this.#log = options.log ?? silentLog;
    this.#openTap = options.openTap ?? ((tap) => new TapLink(tap));
    this.#onShutdown = options.onShutdown ?? (() => {});
    this.mux = new Mux({
      clock,
      onEvent: (name, data) => {
        this.#log.info(EVENT_WORDS[name] ?? name, data as Readonly<Record<string, unknown>>);
        options.onEvent?.(name, data);
      },
    });
    this.captures = new Captures(
      clock,
      () => this.mux.ports(),
      () => this.#observe(),
    );
  }

  /** Creates or takes over a TAP, or shares a NIC. Throws TapLinkError, MuxError `exists`, `host-address`. */
  addUplink(args: MuxCommands['uplink-add']['arguments']): PortStatus {
    const { name, joins } = args;
    const kind = args.kind ?? 'tap';
    const { limits, ...identity } = args;
    if (this.#known(name, identity) !== undefined) return this.mux.portLimits(name, limits);
    if (kind === 'nic') for (const address of this.mux.serviceAddresses()) this.#notOfHost(address);
    const device = kind === 'nic' ? this.#nic(args) : this.#tap(args);
    const connected = !(device instanceof NicLink) || device.state === 'up';
    this.#add(
      identity,
      () =>
        this.mux.addPort({
          name,
          kind,
          role: 'uplink',
          device,
          connected,
          ...(joins === undefined ? {} : { joins }),
        }),
      device,
    );
    return this.#limited(name, limits);
  }

  /** A port with limits that cannot be is not made. */
  #limited(name: string, limits: PortLimits | undefined): PortStatus {
    try {
      return this.mux.portLimits(name, limits);
    } catch (error) {
      this.removePort(name);
      throw error;
    }
  }

  #tap({ name, mtu, offload }: MuxCommands['uplink-add']['arguments']): LinkDevice {
    return this.#openTap({
      name,
      ...(mtu === undefined ? {} : { mtu }),
      ...(offload === undefined ? {} : { offload }),
      onGone: (error) => {
        this.#log.error(`uplink ${name} is gone`, { error });
        this.mux.setConnected(name, false);
      },
    });
  }

  #nic({ name, mtu, offload }: MuxCommands['uplink-add']['arguments']): LinkDevice {
    return new NicLink({
      name,
      clock: this.#clock,
      ...(mtu === undefined ? {} : { mtu }),
      ...(offload === undefined ? {} : { offload }),
      onState: (state, reason) => {
        if (state === 'up') this.#log.info(`uplink ${name} is up`);
        else this.#log.error(`uplink ${name} is ${state}`, reason === undefined ? {} : { reason });
        this.mux.setConnected(name, state === 'up');
      },
    });
  }

  /** Throws `host-address`: with a NIC the host's own stack would answer for the address, too. */
  #notOfHost(address: string): void {
    const wanted = ipAddress(address);
    for (const [name, entries] of Object.entries(networkInterfaces())) {
      for (const entry of entries ?? []) {
        if (parseIpAddress(entry.address) !== wanted) continue;
        throw new MuxError('host-address', `${address} is an address of this host itself, on ${name}`, {
          remedy: `take it away (ip address del ${entry.cidr} dev ${name}): the host sees what arrives at a NIC, too, and would answer`,
          values: { address, interface: name },
        });
      }
    }
  }

  /** Listens for a partition. Throws MuxError `exists`, `in-use`, `socket`, `bad-argument`. */
  async addPort(args: MuxCommands['port-add']['arguments']): Promise<PortStatus> {
    const { name } = args;
    const { addresses: _addresses, limits, ...identity } = args;
    if (this.#known(name, identity) !== undefined) {
      this.mux.portAddresses(name, args.addresses);
      return this.mux.portLimits(name, limits);
    }
    const mac = macAddress(args.mac);
    const addresses = args.addresses.map(ipAddress);
    const device: StreamPort = new StreamPort({
      name,
      path: args.socket,
      turns: this.#turns,
      ...(args.vnetHeader === undefined ? {} : { vnetHeader: args.vnetHeader }),
      onConnected: (connected, reason) => {
        const how = connected ? `connected (${device.carrier})` : `disconnected: ${reason}`;
        this.#log.debug(`port ${name} ${how}`);
        this.mux.setConnected(name, connected);
      },
      onFault: (fault) => {
        this.#log.warn(`port ${name} sent what is no frame`, { fault });
        this.mux.countDrops(name, 'framing-fault', 1);
      },
      onNoRing: (error) => this.#log.warn(`port ${name} asked for rings and gets a stream`, { error }),
      debtMs: () => this.mux.debtMs(name),
      clock: this.#clock,
      onOversize: (count) => this.mux.countDrops(name, 'oversize-frame', count),
    });
    this.#add(
      identity,
      () =>
        this.mux.addPort({
          name,
          kind: 'stream',
          role: args.role ?? 'partition',
          device,
          mac,
          addresses,
          connected: false,
          ...(args.uplink === undefined ? {} : { uplink: args.uplink }),
        }),
      device,
    );
    const status = this.#limited(name, limits);
    try {
      await device.listen();
    } catch (error) {
      this.removePort(name);
      throw error;
    }
    return status;
  }

  removePort(name: string): void {
    this.#made.delete(name);
    this.mux.removePort(name);
  }

  /** Throws CaptureError, MuxError `unknown-port`. */
  startCapture(options: CaptureStart): void {
    this.captures.start(options);
    this.#observe();
  }

  /** Packets are shown to the captures only while there are any. */
  #observe(): void {
    this.mux.observer = this.captures.active ? this.captures : undefined;
  }

  /** One function per command of the vocabulary. */
  handlers(): Handlers<MuxCommands> {
    const { mux, captures } = this;
    const answers: Answers = {
      'uplink-add': (args) => this.addUplink(args),
      'port-add': (args) => this.addPort(args),
      'port-remove': ({ name }) => {
        this.removePort(name);
        return {};
      },
      'port-state': ({ name, state }) => mux.portState(name, state),
      'port-addresses': ({ name, addresses }) => mux.portAddresses(name, addresses),
      'port-limits': ({ name, limits }) => mux.portLimits(name, limits ?? undefined),
      ports: () => mux.ports(),
      'path-set': (args) => {
        if (mux.ports().some((port) => port.kind === 'nic')) this.#notOfHost(args.address);
        mux.pathSet(args);
        return {};
      },
      'requests-record': (args) => {
        mux.requestsRecord(args);
        return {};
      },
      'requests-recorded': (args) => mux.requestsRecorded(args),
      'private-path': (args) => {
        mux.privatePath(args);
        return {};
      },
      'hold-start': (args) => mux.holdStart(args),
      'hold-release': (args) => mux.holdRelease(args),
      switch: (args) => {
        const result = mux.switch(args);
        for (const { address, steered } of [{ address: args.address, ...result }, ...(result.also ?? [])]) {
          captures.mark(`switch: ${address} from ${args.from} to ${args.to}, ${steered} flows steered`);
        }
        return result;
      },
      'notice-cancel': (args) => {
        const result = mux.noticeCancel(args);
        captures.mark(`change notice of ${args.address} cancelled, ${result.abandoned.length} flows cut off`);
        return result;
      },
      'flows-moved': (args) => mux.flowsMoved(args),
      'flows-known': (args) => mux.flowsKnown(args),
      restore: ({ commands }) => restore(answers, commands, this.#log),
      announce: (args) => {
        mux.announce(args);
        return {};
      },
      flows: (args) => mux.flows(args),
      counters: (args) => mux.counters(args),
      'capture-start': async (args) => {
        const { file, socket, ...rest } = args;
        if (file !== undefined && socket === undefined) {
          this.startCapture({ ...rest, file });
          return {};
        }
        if (socket === undefined || file !== undefined) {
          throw new MuxError('bad-argument', 'a capture goes to a file or to a socket', {
            values: { ...args },
          });
        }
        const sink = new StreamSink(await connected(socket));
        try {
          this.startCapture({ ...rest, file: socket, sink });
        } catch (error) {
          await sink.close();
          throw error;
        }
        return {};
      },
      'capture-dump': (args) => captures.dump(args),
      'capture-stop': async ({ file }) => {
        const stopping = captures.stop(file);
        this.#observe();
        const { packets, bytes, dropped, ...rest } = await stopping;
        return { file: rest.file, packets, bytes, dropped };
      },
      'capture-mark': ({ comment }) => {
        captures.mark(comment);
        return {};
      },
      shutdown: () => {
        setImmediate(() => this.#onShutdown());
        return {};
      },
    };
    return answers as unknown as Handlers<MuxCommands>;
  }

  /** Ends captures, removes TAPs and sockets. Idempotent. */
  async close(): Promise<void> {
    this.mux.observer = undefined;
    await this.captures.close();
    this.mux.close();
    this.#made.clear();
  }

  /** The port's status when it was made with the same arguments. Throws `exists` when with others. */
  #known(name: string, args: object): PortStatus | undefined {
    const made = this.#made.get(name);
    if (made === undefined) return undefined;
    if (made === JSON.stringify(args)) return this.mux.ports().find((port) => port.name === name);
    throw new MuxError('exists', `there is a port ${name} already, made with other arguments`, {
      remedy: 'remove it first, or choose another name',
      values: { port: name },
    });
  }

  #add(args: { name: string }, add: () => PortStatus, device: LinkDevice): PortStatus {
    try {
      const status = add();
      this.#made.set(args.name, JSON.stringify(args));
      return status;
    } catch (error) {
      device.close();
      throw error;
    }
  }
}

/** Throws MuxError `no-socket`. */
function connected(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    // Nothing is expected from there but its end.
    socket.once('connect', () => resolve(socket.resume()));
    socket.once('error', (error) =>
      reject(
        new MuxError('no-socket', `nobody takes the capture at ${path}: ${messageOf(error)}`, {
          remedy: 'listen at the unix socket first',
          cause: error,
        }),
      ),
    );
  });
}

const EVENT_WORDS: Readonly<Record<keyof MuxEvents & string, string>> = {
  PORT: 'port changed its state',
  DRAINED: 'every steered flow has ended',
  HOLD_TIMEOUT: 'a hold reached its time limit and was released',
};
