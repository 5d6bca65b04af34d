/**
 * The network multiplexer between uplinks and partition ports: ports, and the operations of the mux's vocabulary
 * (commands.ts). Packets take the path in forwarder.ts. Everything here runs to its end between two packets, checks all its
 * arguments before it changes anything, and does nothing more when repeated with the same arguments.
 *
 * It knows no sockets, files or TAPs: devices and time come in as arguments, so it runs in memory on a virtual clock.
 */
import { isDeepStrictEqual } from 'node:util';
import type { Clock, Random, Timer } from '../../common/index.ts';
import { systemClock, systemRandom } from '../../common/index.ts';
import type { IpAddress } from '../../netstack/index.ts';
import {
  formatMac,
  ipAddress,
  isLinkLocal,
  isLoopback,
  isMulticast,
  isUnspecified,
} from '../../netstack/index.ts';
import type { MuxCommands, MuxEvents, PortStatus, SwitchCounters } from './commands.ts';
import { Cut } from './cut.ts';
import { DROP, dropsByName, MUX_DROPS, type MuxDrop } from './drops.ts';
import { FlowNames } from './flow-names.ts';
import type { FlowTableOptions } from './flow-table.ts';
import { Forwarder } from './forwarder.ts';
import type { MacTableOptions } from './mac-table.ts';
import { MuxError } from './mux-error.ts';
import { announcement, barrierFrame, MUX_MAC } from './own-frames.ts';
import type { PacketObserver } from './packet-observer.ts';
import { limitsFault, type PortLimits } from './rate-limit.ts';
import { RequestRecorder } from './recording/index.ts';
import { Segments } from './segments.ts';
import type { PortOptions } from './state.ts';
import { Counts, HOLD_SCOPES, MuxPort, newHold, ServiceAddress } from './state.ts';

export const HOLD_DEFAULTS = { packets: 4096, bytes: 8 * 1024 * 1024, timeoutMs: 5_000 } as const;

const TICK_MS = 1_000;
const NOTHING_RECORDED = {
  requests: [],
  connections: { followed: 0, passedOver: 0, givenUp: 0 },
  refused: 0,
};
const ANNOUNCE_DEFAULTS = { count: 3, intervalMs: 200 } as const;

/** IPv4: not in 0/8, 127/8 and above 223; IPv6: neither special nor link-local, which each MAC has one of. */
function isServiceable(address: IpAddress): boolean {
  if (isUnspecified(address) || isLoopback(address) || isMulticast(address)) return false;
  return typeof address === 'number' ? address >>> 24 !== 0 && address >>> 28 !== 0xf : !isLinkLocal(address);
}

export interface MuxOptions {
  readonly clock?: Clock;
  readonly random?: Random;
  readonly flows?: Omit<FlowTableOptions, 'onDrained'>;
  readonly macs?: MacTableOptions;
  readonly onEvent?: <N extends keyof MuxEvents & string>(name: N, data: MuxEvents[N]) => void;
}

type Arguments<N extends keyof MuxCommands> = MuxCommands[N]['arguments'];
type Result<N extends keyof MuxCommands> = MuxCommands[N]['result'];

export class Mux {
  readonly #clock: Clock;
  readonly #forwarder: Forwarder;
  readonly #onEvent: NonNullable<MuxOptions['onEvent']>;
  readonly #names: FlowNames;
  readonly #cut: Cut;
  readonly #byName = new Map<string, MuxPort>();
  readonly #segments = new Segments(this.#byName);
  /** Drops of ports that are gone. */
  readonly #formerDrops = new Float64Array(MUX_DROPS.length);
  #tick: Timer;
  #closed = false;

  constructor(options: MuxOptions = {}) {
    this.#clock = options.clock ?? systemClock;
    this.#onEvent = options.onEvent ?? (() => {});
    this.#forwarder = new Forwarder({
      clock: this.#clock,
      random: options.random ?? systemRandom,
      ...(options.flows === undefined ? {} : { flows: options.flows }),
      ...(options.macs === undefined ? {} : { macs: options.macs }),
      onDrained: (group) => this.#cut.drained(group),
    });
    this.#names = new FlowNames(this.#forwarder.flows, this.#forwarder.addresses);
    this.#cut = new Cut(
      {
        clock: this.#clock,
        names: this.#names,
        onDrained: (data) => this.#onEvent('DRAINED', data),
        begin: () => this.#begin(),
        port: (name) => this.#port(name),
        service: (text) => this.#service(text),
        setAttached: (port, attached) => this.#setAttached(port, attached),
        isBehind: (port, uplink) => this.#segments.check(port, uplink),
      },
      this.#forwarder,
    );
    this.#tick = this.#clock.after(TICK_MS, () => this.#everySecond());
  }

  // ---- ports

  /** Takes the device over; closes it when the port is removed. Throws `exists`, `bad-argument`. */
  addPort(options: PortOptions): PortStatus {
    if (this.#byName.has(options.name)) {
      throw new MuxError('exists', `there is a port ${options.name} already`, {
        remedy: 'remove it first, or choose another name',
        values: { port: options.name },
      });
    }
    if (options.role !== 'uplink') this.#checkMac(options);
    const segment = this.#segments.choose(options);
    const ports = this.#forwarder.ports;
    let index = ports.indexOf(undefined);
    if (index < 0) index = ports.length;
    const port = new MuxPort(index, options, segment, this.#forwarder.addresses);
    this.#begin();
    ports[index] = port;
    this.#byName.set(port.name, port);
    if (port.mac !== undefined) {
      this.#forwarder.macs.setFixed(index, port.macHigh | port.segmentBits, port.macLow);
    }
    port.device.attach({
      receive: (buffer, offset, length) => this.#forwarder.receive(port, buffer, offset, length),
      endOfBatch: () => this.#forwarder.endOfBatch(),
      writable: () => this.#writable(port),
    });
    return port.status();
  }

  /** Closes the port's device. Its paths are gone, flows that it finished are forgotten. Idempotent. */
  removePort(name: string): void {
    const port = this.#byName.get(name);
    if (port === undefined) return;
    const forwarder = this.#begin();
    for (const [code, count] of port.drops.entries()) this.#formerDrops[code]! += count;
    for (const service of forwarder.services.values()) {
      if (service.path === port) service.path = undefined;
      for (const notice of [...service.notices]) if (notice.port === port) this.#cut.dropNotice(notice);
      for (const group of [...service.groups]) {
        if (group.port !== port) continue;
        forwarder.flows.forEach(service.address, (flow) => {
          if (forwarder.flows.group(flow) === group.id) forwarder.flows.remove(flow);
        });
        this.#cut.forgetGroup(group);
      }
    }
    if (port.peer !== undefined) port.peer.peer = undefined;
    port.peer = undefined;
    forwarder.macs.remove(port.index);
    forwarder.ports[port.index] = undefined;
    this.#byName.delete(name);
    port.device.close();
  }

  /** The other end of a port came or went. */
  setConnected(name: string, connected: boolean): void {
    const port = this.#byName.get(name);
    if (port === undefined || port.connected === connected) return;
    this.#begin();
    port.connected = connected;
    port.blocked = false;
    if (!connected) port.barrier = undefined;
    this.#onEvent('PORT', { name, state: port.state });
    this.#letGo();
  }

  /** Throws `bad-argument`, `unknown-port`. */
  portLimits(name: string, limits: PortLimits | undefined): PortStatus {
    const port = this.#port(name);
    const fault = limits === undefined ? undefined : limitsFault(limits, port.shares !== undefined);
    if (fault !== undefined) {
      throw new MuxError('bad-argument', `limits of port ${name}: ${fault}`, { values: { port: name } });
    }
    port.setLimits(limits, this.#begin().nowMs);
    return port.status();
  }

  /** How long nothing more is to be taken from the other end of a port. */
  debtMs(name: string): number {
    const port = this.#byName.get(name);
    return port?.mayOwe === true ? port.debtMs(this.#forwarder.nowMs) : 0;
  }

  portState(name: string, state: 'attached' | 'isolated'): PortStatus {
    const port = this.#port(name);
    this.#setAttached(port, state === 'attached');
    this.#letGo();
    return port.status();
  }

  portAddresses(name: string, addresses: readonly string[]): PortStatus {
    const port = this.#port(name);
    port.setAddresses(addresses.map(ipAddress));
    return port.status();
  }

  ports(): PortStatus[] {
    return [...this.#byName.values()].map((port) => port.status());
  }

  serviceAddresses(): string[] {
    return [...this.#forwarder.services.values()].map((service) => service.text);
  }

  /** Drops that a device or its owner counted itself. */
  countDrops(name: string, reason: MuxDrop, count: number): void {
    const port = this.#byName.get(name);
    if (port !== undefined) port.drops[DROP[reason]]! += count;
  }

  /** Who sees every packet from now on; undefined: nobody. */
  set observer(observer: PacketObserver | undefined) {
    this.#forwarder.observer = observer;
  }

  // ---- paths

  pathSet(args: Arguments<'path-set'>): void {
    const address = ipAddress(args.address);
    const port = this.#port(args.port);
    if (!isServiceable(address)) {
      throw new MuxError('bad-argument', `${args.address} cannot be a service's`, {
        remedy: 'use a unicast address that a router could pass on',
        values: { address: args.address },
      });
    }
    this.#segments.check(port, args.uplink);
    const key = this.#forwarder.addresses.keep(address);
    const service = this.#forwarder.services.get(key) ?? new ServiceAddress(address, key);
    this.#forwarder.services.set(service.address, service);
    this.#begin();
    service.path = port;
    service.otherSegment = 0;
    this.#letGo();
  }

  requestsRecord({ address, record }: Arguments<'requests-record'>): void {
    const service = this.#service(address);
    if (isDeepStrictEqual(service.recorder?.rules ?? null, record)) return;
    const { nowMs } = this.#begin();
    service.recorder = record === null ? undefined : new RequestRecorder(record, nowMs);
  }

  requestsRecorded({ address }: Arguments<'requests-recorded'>): Result<'requests-recorded'> {
    const { nowMs } = this.#begin();
    return this.#service(address).recorder?.recorded(nowMs) ?? NOTHING_RECORDED;
  }

  privatePath(args: Arguments<'private-path'>): void {
    const probe = this.#port(args.probe);
    const port = args.port === null ? undefined : this.#port(args.port);
    if (probe.role !== 'probe') {
      throw new MuxError('bad-argument', `port ${args.probe} is no probe port`, {
        remedy: 'add it with role probe',
        values: { port: args.probe },
      });
    }
    if (port !== undefined && port.role !== 'partition') {
      throw new MuxError('bad-argument', `port ${port.name} is no partition's`, {
        values: { port: port.name },
      });
    }
    this.#begin();
    if (probe.peer !== undefined) probe.peer.peer = undefined;
    if (port?.peer !== undefined) port.peer.peer = undefined;
    probe.peer = port;
    if (port !== undefined) port.peer = probe;
  }

  // ---- hold

  holdStart(args: Arguments<'hold-start'>): Result<'hold-start'> {
    const service = this.#service(args.address);
    const except = (args.except ?? []).map((name) => this.#names.key(service, name));
    const named = (args.flows ?? []).map((name) => this.#names.key(service, name));
    const { flows, groups } = this.#begin();
    let hold = service.hold;
    if (hold === undefined) {
      const { packets, bytes, timeoutMs } = { ...HOLD_DEFAULTS, ...args.limits };
      hold = newHold(args.scope, packets, bytes, timeoutMs);
      service.hold = hold;
      if (args.scope !== 'flows') service.restartCounts();
    } else {
      if (HOLD_SCOPES.indexOf(args.scope) > HOLD_SCOPES.indexOf(hold.scope)) hold.scope = args.scope;
      hold.releasing = false;
      hold.queue.limits = {
        packets: args.limits?.packets ?? hold.queue.limits.packets,
        bytes: args.limits?.bytes ?? hold.queue.limits.bytes,
      };
      hold.timeoutMs = args.limits?.timeoutMs ?? hold.timeoutMs;
    }
    hold.timer?.cancel();
    hold.timer = this.#clock.after(hold.timeoutMs, () => {
      const { released } = this.#release(service);
      this.#onEvent('HOLD_TIMEOUT', { address: service.text, released });
    });
    for (const key of except) {
      const flow = this.#names.know(service, key, this.#forwarder.nowMs);
      if (flow >= 0) flows.setExcept(flow, true);
    }
    /** Where packets went that wait from now on. */
    const before = new Set<MuxPort>();
    if (args.scope !== 'flows' && service.path !== undefined) before.add(service.path);
    for (const key of named) {
      const flow = this.#names.know(service, key, this.#forwarder.nowMs);
      if (flow < 0) continue;
      flows.setHeld(flow, true);
      const port = groups[flows.group(flow)]?.port ?? service.path;
      if (port !== undefined) before.add(port);
    }
    if (args.barrier !== undefined) {
      for (const port of before) {
        port.barrier = args.barrier >>> 0;
        this.#sendBarrier(port);
      }
    }
    return { held: hold.queue.count };
  }

  holdRelease(args: Arguments<'hold-release'>): Result<'hold-release'> {
    const service = this.#service(args.address);
    this.#begin();
    return this.#release(service);
  }

  // ---- the cut

  switch(args: Arguments<'switch'>): Result<'switch'> {
    const answer = this.#cut.switch(args);
    this.#letGo();
    return answer;
  }

  noticeCancel(args: Arguments<'notice-cancel'>): Result<'notice-cancel'> {
    return this.#cut.noticeCancel(args);
  }

  flowsMoved(args: Arguments<'flows-moved'>): Result<'flows-moved'> {
    return this.#cut.flowsMoved(args);
  }

  flowsKnown(args: Arguments<'flows-known'>): Result<'flows-known'> {
    const service = this.#service(args.address);
    const keys = args.flows.map((name) => this.#names.key(service, name));
    this.#begin();
    const flows = keys.map((key) => this.#names.know(service, key, this.#forwarder.nowMs));
    return { known: flows.filter((flow) => flow >= 0).length };
  }

  /** The first announcement leaves at once, the others by the clock as long as the port has the path. */
  announce(args: Arguments<'announce'>): void {
    const service = this.#service(args.address);
    const port = this.#port(args.port);
    if (service.path !== port) {
      throw new MuxError('path-elsewhere', `${args.port} does not have the path of ${args.address}`, {
        remedy: 'set the path first',
        values: { ...args },
      });
    }
    this.#segments.check(port, args.uplink);
    this.#announceAgain(
      service,
      port,
      Math.max(1, args.count ?? ANNOUNCE_DEFAULTS.count),
      args.intervalMs ?? ANNOUNCE_DEFAULTS.intervalMs,
    );
  }

  // ---- reports

  flows(args: Arguments<'flows'>): Result<'flows'> {
    const service = this.#service(args.address);
    const { flows, groups, nowMs } = this.#begin();
    const list: Result<'flows'> = [];
    flows.forEach(service.address, (flow) => {
      const group = flows.group(flow);
      if (args.steered !== undefined && args.steered !== (group !== 0)) return;
      const name = this.#names.name(flow);
      if (name === undefined) return;
      list.push({
        flow: name,
        port: (group === 0 ? service.path : groups[group]?.port)?.name ?? '',
        steered: group !== 0,
        state: flows.stateName(flow),
        idleMs: nowMs - flows.lastMs[flow]!,
        ...(name.protocol === 'udp' ? { answered: flows.isAnswered(flow) } : {}),
      });
    });
    return list;
  }

  counters(args: Arguments<'counters'>): Result<'counters'> {
    const { flows, services } = this.#begin();
    const chosen = args.address === undefined ? [...services.values()] : [this.#service(args.address)];
    const total = new Counts();
    const since = new Counts();
    let count = 0;
    for (const service of chosen) {
      total.add(service.total());
      since.add(service.since);
      flows.forEach(service.address, () => count++);
    }
    const drops = Float64Array.from(this.#formerDrops);
    for (const port of this.#byName.values()) {
      for (const [code, n] of port.drops.entries()) drops[code]! += n;
    }
    return {
      total: total.snapshot() satisfies SwitchCounters,
      sinceSwitch: since.snapshot(),
      drops: dropsByName(drops),
      flows: count,
    };
  }

  /** Closes every device. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#tick.cancel();
    for (const service of this.#forwarder.services.values()) service.hold?.timer?.cancel();
    for (const name of [...this.#byName.keys()]) this.removePort(name);
  }

  // ---- inside

  /** Whatever changes something between two packets begins here. */
  #begin(): Forwarder {
    this.#forwarder.refresh();
    return this.#forwarder;
  }

  #checkMac(options: PortOptions): void {
    const mac = options.mac;
    if (mac === undefined || mac === 0 || (Math.floor(mac / 2 ** 40) & 1) === 1) {
      throw new MuxError('bad-argument', `port ${options.name} needs a unicast MAC address`, {
        remedy: 'give one such as 02:00:00:00:00:0b',
      });
    }
    for (const other of this.#byName.values()) {
      if (other.mac !== mac) continue;
      throw new MuxError('exists', `port ${other.name} has the MAC ${formatMac(mac)} already`, {
        remedy: 'give each partition a MAC of its own',
        values: { port: options.name, mac: formatMac(mac) },
      });
    }
  }

  #port(name: string): MuxPort {
    const port = this.#byName.get(name);
    if (port !== undefined) return port;
    throw new MuxError('unknown-port', `there is no port ${name}`, {
      remedy: `ports are: ${[...this.#byName.keys()].join(', ') || 'none'}`,
      values: { port: name },
    });
  }

  #service(text: string): ServiceAddress {
    const service = this.#forwarder.services.get(this.#forwarder.addresses.lookUp(ipAddress(text)));
    if (service !== undefined) return service;
    throw new MuxError('unknown-address', `${text} has no path`, {
      remedy: 'give it one with path-set',
      values: { address: text },
    });
  }

  #setAttached(port: MuxPort, attached: boolean): void {
    if (port.attached === attached) return;
    this.#begin();
    port.attached = attached;
    if (port.connected) this.#onEvent('PORT', { name: port.name, state: port.state });
  }

  #writable(port: MuxPort): void {
    port.blocked = false;
    if (port.barrier !== undefined) this.#sendBarrier(port);
    this.#letGo();
  }

  /** Goes on with releases that waited for room. */
  #letGo(): void {
    for (const service of this.#forwarder.services.values()) {
      if (service.hold?.releasing === true) this.#release(service);
    }
  }

  #release(service: ServiceAddress): Result<'hold-release'> {
    const hold = service.hold;
    if (hold === undefined) return { released: 0, longestHoldMs: service.since.longestHoldMs };
    const released = hold.queue.count;
    hold.releasing = true;
    this.#forwarder.refresh();
    const empty = this.#forwarder.release(service, hold.queue, (waitedMs) => {
      if (waitedMs > hold.longestMs) hold.longestMs = waitedMs;
    });
    this.#forwarder.flush();
    service.since.longestHoldMs = Math.max(service.since.longestHoldMs, hold.longestMs);
    if (empty) {
      hold.timer?.cancel();
      service.hold = undefined;
      const { flows } = this.#forwarder;
      flows.forEach(service.address, (flow) => {
        flows.setExcept(flow, false);
        flows.setHeld(flow, false);
      });
    }
    return { released, longestHoldMs: hold.longestMs };
  }

  #sendBarrier(port: MuxPort): void {
    if (port.barrier === undefined || port.mac === undefined) return;
    const packet = barrierFrame(port.mac, port.barrier);
    if (!this.#forwarder.originate(port, packet, packet.length, `barrier ${port.barrier}`)) return;
    port.barrier = undefined;
    this.#forwarder.flush();
  }

  #announceAgain(service: ServiceAddress, port: MuxPort, left: number, intervalMs: number): void {
    if (service.path !== port || this.#closed) return;
    const packet = announcement(port.mac ?? MUX_MAC, service.ip);
    for (const uplink of this.#byName.values()) {
      if (uplink.isUplink && uplink.live && uplink.segment === port.segment) {
        this.#forwarder.originate(uplink, packet, packet.length, `announces ${service.text} at ${port.name}`);
      }
    }
    this.#forwarder.flush();
    if (left > 1) {
      this.#clock.after(intervalMs, () => this.#announceAgain(service, port, left - 1, intervalMs));
    }
  }

  #everySecond(): void {
    if (this.#closed) return;
    const { flows, services, nowMs } = this.#begin();
    flows.age(nowMs);
    for (const service of services.values()) this.#cut.collectGroups(service);
    this.#letGo();
    this.#tick = this.#clock.after(TICK_MS, () => this.#everySecond());
  }
}
