/**
 * The path of every packet through the mux.
 *
 * receive → link checks → private path? → source checks of partitions (anti-spoof) → ARP or IP → one of
 *   inbound    the destination is a service address: hold, or to the flow's port, or along the address's path
 *   byMac      everything else: fixed MACs of partitions, learned MACs of uplinks, flood
 * → emit (capture, offloads the receiver lacks, transmit). Every packet ends in emit, in a hold queue, or in `drop` with a
 * counted reason.
 *
 * Packets are changed in place (destination MAC, change notice), so the capture of a packet as it came is written before the
 * first change. State is written here only for flows, fragments, learned MACs and counters; paths, holds, groups and notices
 * belong to the commands (mux.ts), which run between two packets. Nothing is allocated per packet, except copies of packets
 * that wait and comments while somebody captures.
 *
 * A device may deliver while it is being transmitted to (an in-memory link): such a packet is set aside and taken when the
 * current one is through.
 */
import type { Clock, Random } from '../../common/index.ts';
import { VNET_HDR_LEN, writeU16, writeU32 } from '../../netstack/index.ts';
import { AddressKeys } from './address-keys.ts';
import { DROP } from './drops.ts';
import { Egress } from './egress.ts';
import type { FlowTableOptions } from './flow-table.ts';
import { FlowTable, MAX_GROUPS } from './flow-table.ts';
import { FragmentTable } from './fragment-table.ts';
import { HoldQueue } from './hold-queue.ts';
import { Ipv6Senders } from './ipv6-senders.ts';
import type { MacTableOptions } from './mac-table.ts';
import { LEARNED, MacTable } from './mac-table.ts';
import type { PacketObserver } from './packet-observer.ts';
import { FINE, FRAGMENT, KIND, PacketView } from './packet-view.ts';
import { directs, portBehind } from './segments.ts';
import { Senders } from './senders.ts';
import { Shortcuts } from './shortcuts.ts';
import type { DrainGroup, HoldScope, MuxPort, Notice, ServiceAddress } from './state.ts';

const REENTRY_LIMITS = { packets: 4096, bytes: 4 * 1024 * 1024 };
/** 01:80:C2:00:00:00 … 0F stay on their own wire (IEEE 802.1D, 7.12.6); spanning tree passes between uplinks. */
const LINK_LOCAL_HIGH = 0x0180;
const LINK_LOCAL_LOW = 0xc2000000 | 0;

export interface ForwarderOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly flows?: FlowTableOptions;
  readonly macs?: MacTableOptions;
  readonly onDrained: (group: DrainGroup) => void;
}

export class Forwarder {
  readonly ports: (MuxPort | undefined)[] = [];
  readonly services = new Map<number, ServiceAddress>();
  readonly groups: (DrainGroup | undefined)[] = [undefined];
  readonly addresses: AddressKeys;
  readonly flows: FlowTable;
  readonly macs: MacTable;

  readonly #clock: Clock;
  readonly #fragments = new FragmentTable();
  readonly #view: PacketView;
  readonly #out = new Egress(this.ports);
  readonly #shortcuts = new Shortcuts(this.ports);
  readonly #reentry = new HoldQueue(REENTRY_LIMITS);
  readonly #senders: Senders;
  readonly #ipv6Senders: Ipv6Senders;
  #busy = false;
  #stale = true;

  constructor(options: ForwarderOptions) {
    this.#clock = options.clock;
    this.macs = new MacTable(options.macs);
    const salt = options.random.u32();
    this.addresses = new AddressKeys(salt);
    this.#view = new PacketView(this.addresses);
    this.flows = new FlowTable(
      {
        ...options.flows,
        addresses: this.addresses,
        onDrained: (id) => {
          const group = this.groups[id];
          if (group !== undefined) options.onDrained(group);
        },
      },
      salt,
    );
    this.#senders = new Senders(this, this.#view, this.#fragments);
    this.#ipv6Senders = new Ipv6Senders(this, this.#view, this.#senders);
  }

  get nowMs(): number {
    if (this.#stale) {
      this.#out.nowMs = this.#clock.nowMs();
      this.#stale = false;
    }
    return this.#out.nowMs;
  }

  /** Time has passed: the next packet or command reads the clock. And a command may change what shortcuts rest on. */
  refresh(): void {
    this.#shortcuts.forget();
    this.#stale = true;
  }

  /** One packet from a port's device. */
  receive(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    if (this.#busy) {
      if (!this.#reentry.push(buffer, offset, length, port.index, this.#out.nowMs)) {
        port.drops[DROP['reentry-full']]!++;
      }
      return;
    }
    this.#busy = true;
    try {
      this.#take(port, buffer, offset, length);
      if (this.#reentry.count > 0) this.#takeReentered();
    } finally {
      this.#busy = false;
    }
  }

  /** A port's device has nothing more for now. */
  endOfBatch(): void {
    this.#stale = true;
    this.#shortcuts.endOfBatch();
    this.flush();
  }

  /** Sends what the devices have collected. */
  flush(): void {
    this.#out.flush();
  }

  set observer(observer: PacketObserver | undefined) {
    this.#out.observer = observer;
    this.#shortcuts.allow(observer === undefined);
  }

  /** A frame of the mux itself (barrier, announcement); false when the port has no room. */
  originate(port: MuxPort, buffer: Uint8Array, length: number, comment: string): boolean {
    this.#out.ingressDue = false;
    this.#out.comment = this.#out.observer === undefined ? undefined : comment;
    this.#out.keepRefused = true;
    const taken = this.#out.emit(port, buffer, 0, length);
    this.#out.keepRefused = false;
    return taken;
  }

  /**
   * Takes packets out of a hold until none is left or the port a packet goes to has no room; false in the latter case.
   * `onPacket` hears how long each of them waited.
   */
  release(service: ServiceAddress, queue: HoldQueue, onPacket: (waitedMs: number) => void): boolean {
    this.#busy = true;
    this.#out.keepRefused = true;
    try {
      queue.drain((buffer, offset, length, index, atMs) => {
        const port = this.ports[index];
        if (port === undefined) return true;
        const waitedMs = this.nowMs - atMs;
        this.#out.refused = false;
        this.#out.ingressDue = false;
        this.#out.comment = this.#out.observer === undefined ? undefined : `held ${waitedMs.toFixed(1)} ms`;
        this.#again(service, port, buffer, offset, length);
        if (this.#out.refused) return false;
        onPacket(waitedMs);
        return true;
      });
    } finally {
      this.#out.keepRefused = false;
      this.#busy = false;
    }
    return queue.count === 0;
  }

  /** Free group numbers; undefined when there are not as many. */
  freeGroups(count: number): number[] | undefined {
    const free: number[] = [];
    for (let id = 1; id < MAX_GROUPS && free.length < count; id++) {
      if (this.groups[id] === undefined) free.push(id);
    }
    return free.length < count ? undefined : free;
  }

  #takeReentered(): void {
    this.#reentry.drain((buffer, offset, length, index) => {
      const port = this.ports[index];
      if (port !== undefined) this.#take(port, buffer, offset, length);
      return true;
    });
  }

  #take(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    port.received++;
    port.receivedBytes += length - VNET_HDR_LEN;
    this.#out.begin(port.index);
    if (this.#stale) {
      this.#out.nowMs = this.#clock.nowMs();
      this.#stale = false;
    }
    const view = this.#view;
    if (port.sendLimit !== undefined && !port.maySend(buffer, offset, length, this.#out.nowMs)) {
      this.#out.drop(port, DROP['rate-limit'], buffer, offset, length);
      return;
    }
    const fault = view.readLink(buffer, offset, length);
    if (fault !== FINE) {
      this.#out.drop(port, fault, buffer, offset, length);
      return;
    }
    const peer = port.peer;
    if (peer !== undefined || !port.attached) {
      if (peer === undefined) {
        this.#out.drop(port, DROP['isolated'], buffer, offset, length);
        return;
      }
      if (port.role === 'probe' || !port.attached || view.isGroup || this.#isFor(peer)) {
        this.#out.captureIngress(port, buffer, offset, length, undefined);
        if (!peer.connected) this.#out.drop(peer, DROP['port-down'], buffer, offset, length);
        else this.#out.emit(peer, buffer, offset, length);
        if (port.role === 'probe' || !port.attached || !view.isGroup) return;
      }
    }
    if ((view.fromHigh & 0x100) !== 0 || (view.fromHigh === 0 && view.fromLow === 0)) {
      this.#out.drop(port, DROP['bad-source-mac'], buffer, offset, length);
      return;
    }
    if (port.isUplink) {
      const high = view.fromHigh | port.segmentBits;
      const learned = this.macs.learn(port.index, high, view.fromLow, this.#out.nowMs);
      this.#shortcuts.macsMoved(this.macs.moved);
      if (learned !== LEARNED.OK) {
        const why = learned === LEARNED.FIXED ? DROP['mac-of-a-port'] : DROP['mac-flapping'];
        this.#out.drop(port, why, buffer, offset, length);
        return;
      }
    } else if (view.fromLow !== port.macLow || view.fromHigh !== port.macHigh) {
      this.#out.drop(port, DROP['spoofed-mac'], buffer, offset, length);
      return;
    }
    if (
      view.toHigh === LINK_LOCAL_HIGH &&
      (view.toLow & ~15) === LINK_LOCAL_LOW &&
      !(port.isUplink && view.toLow === LINK_LOCAL_LOW)
    ) {
      this.#out.drop(port, DROP['link-local-group'], buffer, offset, length);
      return;
    }
    switch (view.kind) {
      case KIND.IPV4:
      case KIND.IPV6:
        this.#ip(port, buffer, offset, length);
        break;
      case KIND.ARP:
        this.#arp(port, buffer, offset, length);
        break;
      default:
        this.#other(port, buffer, offset, length);
    }
  }

  /** Not IP, not ARP: passes between uplinks; partitions neither send nor get it. */
  #other(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const why = this.#view.kind === KIND.VLAN ? DROP['vlan-from-partition'] : DROP['ethertype'];
    if (!port.isUplink) {
      this.#out.drop(port, why, buffer, offset, length);
      return;
    }
    this.#byMac(port, buffer, offset, length, why);
  }

  #isFor(port: MuxPort): boolean {
    return this.#view.toLow === port.macLow && this.#view.toHigh === port.macHigh;
  }

  // ---- ARP

  #arp(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const view = this.#view;
    const fault = view.readArp(buffer);
    if (fault !== FINE) {
      this.#out.drop(port, fault, buffer, offset, length);
      return;
    }
    if (!port.isUplink) {
      const why = this.#senders.arp(port, buffer);
      if (why !== FINE) {
        this.#out.drop(port, why, buffer, offset, length);
        return;
      }
    }
    this.#question(
      port,
      view.arpAsks ? this.services.get(view.arpTarget) : undefined,
      buffer,
      offset,
      length,
    );
  }

  /** ARP or neighbour discovery; `asked`: the service address that somebody wants to be told about. */
  #question(
    port: MuxPort,
    asked: ServiceAddress | undefined,
    buffer: Uint8Array,
    offset: number,
    length: number,
  ): void {
    if (asked === undefined || asked.path === port || !directs(asked, port, this.#view, this.macs)) {
      this.#byMac(port, buffer, offset, length, FINE);
    } else if (asked.hold?.scope === 'all') this.#hold(asked, port, buffer, offset, length);
    else this.#toPath(asked, port, buffer, offset, length);
  }

  // ---- IP

  #ip(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    if (port.isUplink && this.services.size === 0) {
      this.#byMac(port, buffer, offset, length, FINE);
      return;
    }
    const view = this.#view;
    const isIpv6 = view.kind === KIND.IPV6;
    let fault = isIpv6 ? view.readIpv6(buffer) : view.readIpv4(buffer);
    if (fault === FINE && isIpv6 && !port.isUplink) fault = this.#ipv6Senders.kind(port);
    if (fault === FINE && view.isNdp) {
      if (!port.isUplink) fault = this.#ipv6Senders.other(port, buffer);
      if (fault === FINE) {
        const asked = view.isSolicitation ? this.services.get(view.ndpTarget) : undefined;
        this.#question(port, asked, buffer, offset, length);
        return;
      }
    }
    if (fault !== FINE) {
      this.#out.drop(port, fault, buffer, offset, length);
      return;
    }
    let notice: Notice | undefined;
    if (!port.isUplink) {
      const source = view.source;
      notice = port.notices.length > 0 ? port.noticeFor(source) : undefined;
      const service = notice !== undefined ? notice.service : this.services.get(source);
      if (service !== undefined) {
        const why = this.#senders.ip(port, service, notice, buffer, this.#out.nowMs);
        if (why !== FINE) {
          this.#out.drop(port, why, buffer, offset, length);
          return;
        }
      } else {
        const why = isIpv6 ? this.#ipv6Senders.other(port, buffer) : this.#senders.ipv4(port);
        if (why !== FINE) {
          this.#out.drop(port, why, buffer, offset, length);
          return;
        }
      }
      if (!isIpv6 && this.#senders.isDhcpServer(port)) {
        this.#out.drop(port, DROP['dhcp-server'], buffer, offset, length);
        return;
      }
      if (notice !== undefined && view.destination !== notice.service.address) {
        this.#out.captureIngress(port, buffer, offset, length, undefined);
        if (notice.change.rewriteOutbound(buffer, offset, length)) {
          notice.service.since.rewritten++;
          if (this.#out.observer !== undefined) this.#out.remark(notice.change.describe('outbound'));
        }
      }
    }
    const service = this.services.get(view.destination);
    if (service === undefined || !directs(service, port, view, this.macs)) {
      this.#byMac(port, buffer, offset, length, FINE);
      return;
    }
    this.#inbound(service, port, buffer, offset, length, true);
  }

  /** A packet to a service address. `mayHold`: it has not been on hold yet. */
  #inbound(
    service: ServiceAddress,
    port: MuxPort,
    buffer: Uint8Array,
    offset: number,
    length: number,
    mayHold: boolean,
  ): void {
    const view = this.#view;
    const flows = this.flows;
    let flow = -1;
    let ports = 0;
    let named = view.hasFlow;
    if (view.fragment === FRAGMENT.LATER) {
      named = this.#senders.fragmentKnown(service.address, this.#out.nowMs);
      ports = this.#fragments.ports;
    } else if (named) {
      ports = (view.destinationPort << 16) | view.sourcePort;
      if (view.fragment === FRAGMENT.FIRST) {
        this.#senders.recordFragment(service.address, ports, this.#out.nowMs);
      }
    }
    if (named) flow = flows.find(service.address, view.flowSource, ports, view.flowProtocol);
    if (flow >= 0 && view.isSyn && !view.quoted && flows.hasEnded(flow)) {
      // The client uses the port again (RFC 6191): a new flow.
      flows.remove(flow);
      flow = -1;
    }
    const group = flow >= 0 ? flows.group(flow) : 0;
    const drain = group === 0 ? undefined : this.groups[group];
    const hold = service.hold;
    if (mayHold && hold !== undefined && this.#waits(service, hold.scope, flow, drain)) {
      this.#hold(service, port, buffer, offset, length);
      return;
    }
    const target = drain === undefined ? service.path : drain.port;
    if (target === undefined) {
      this.#out.drop(port, DROP['no-path'], buffer, offset, length);
      return;
    }
    if (target === port) {
      this.#out.drop(port, DROP['own-address'], buffer, offset, length);
      return;
    }
    if (!target.live) {
      this.#out.drop(target, DROP['port-down'], buffer, offset, length);
      return;
    }
    if (
      flow < 0 &&
      named &&
      !view.quoted &&
      view.fragment !== FRAGMENT.LATER &&
      !view.isRst &&
      !(this.#out.keepRefused && target.blocked)
    ) {
      flow = this.#senders.insert(service, true, buffer, ports, this.#out.nowMs);
      this.#out.isNewcomer = true;
    }
    if (flow >= 0 && port.isUplink) service.recorder?.packet(flow, buffer, view, this.#out.nowMs);
    this.#out.captureIngress(port, buffer, offset, length, undefined);
    if (drain !== undefined) {
      const notice = drain.notice;
      if (this.#out.observer !== undefined) this.#out.remark(`steered to ${target.name}`);
      if (notice?.translate === true && notice.change.rewriteInbound(buffer, offset, length)) {
        if (this.#out.observer !== undefined) this.#out.remark(notice.change.describe('inbound'));
      }
    }
    if (port.isUplink && drain === undefined) {
      if (this.#isFor(target)) service.since.arrived++;
      else service.since.readdressed++;
    }
    this.#address(target, buffer);
    if (this.#out.emit(target, buffer, offset, length) && drain !== undefined) service.since.steered++;
    if (flow >= 0 && !view.quoted && !this.#out.refused) this.#senders.account(flow, false, this.#out.nowMs);
  }

  /** Whether a packet of this flow (-1: unknown) has to wait. */
  #waits(service: ServiceAddress, scope: HoldScope, flow: number, drain: DrainGroup | undefined): boolean {
    if (flow >= 0 && this.flows.isHeld(flow)) return true;
    if (scope === 'flows' || (drain !== undefined && drain.port !== service.path)) return false;
    return flow < 0 || (scope === 'all' && !this.flows.isExcept(flow));
  }

  /** An ARP request or neighbour solicitation for a service address: only the holder of the path may answer. */
  #toPath(service: ServiceAddress, port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const target = service.path;
    if (target === undefined) {
      this.#out.drop(port, DROP['no-path'], buffer, offset, length);
      return;
    }
    if (!target.live) {
      this.#out.drop(target, DROP['port-down'], buffer, offset, length);
      return;
    }
    if (target === port) {
      this.#out.drop(port, DROP['own-address'], buffer, offset, length);
      return;
    }
    this.#out.captureIngress(port, buffer, offset, length, undefined);
    if (!this.#view.isGroup) this.#address(target, buffer);
    this.#out.emit(target, buffer, offset, length);
  }

  /** A packet out of a hold. */
  #again(service: ServiceAddress, port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const view = this.#view;
    if (view.readLink(buffer, offset, length) !== FINE) return;
    if (view.kind === KIND.ARP) {
      if (view.readArp(buffer) === FINE) this.#toPath(service, port, buffer, offset, length);
    } else if ((view.kind === KIND.IPV6 ? view.readIpv6(buffer) : view.readIpv4(buffer)) === FINE) {
      if (view.isNdp) this.#toPath(service, port, buffer, offset, length);
      else this.#inbound(service, port, buffer, offset, length, false);
    }
  }

  #hold(service: ServiceAddress, port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const hold = service.hold!;
    if (!hold.queue.push(buffer, offset, length, port.index, this.#out.nowMs)) {
      service.since.heldDropped++;
      this.#out.drop(port, DROP['hold-full'], buffer, offset, length);
      return;
    }
    service.since.held++;
    this.#out.captureIngress(
      port,
      buffer,
      offset,
      length,
      this.#out.observer === undefined ? undefined : 'held',
    );
  }

  // ---- by MAC

  /** `toPartition`: FINE, or the reason why partitions do not get this kind of frame. */
  #byMac(port: MuxPort, buffer: Uint8Array, offset: number, length: number, toPartition: number): void {
    const view = this.#view;
    if (view.isGroup) {
      this.#flood(port, buffer, offset, length, toPartition, true);
      return;
    }
    const index = portBehind(port, this.ports, view, this.macs, this.#out.nowMs);
    const target = index < 0 ? undefined : this.ports[index];
    if (target === undefined) {
      this.#flood(port, buffer, offset, length, toPartition, false);
      return;
    }
    if (target === port) {
      this.#out.drop(port, DROP['own-address'], buffer, offset, length);
      return;
    }
    if (!target.isUplink && toPartition !== FINE) {
      this.#out.drop(port, toPartition, buffer, offset, length);
      return;
    }
    if (!target.attached) {
      this.#out.drop(port, DROP['isolated'], buffer, offset, length);
      return;
    }
    if (!target.connected) {
      this.#out.drop(target, DROP['port-down'], buffer, offset, length);
      return;
    }
    this.#out.captureIngress(port, buffer, offset, length, undefined);
    const passed = this.#out.emit(target, buffer, offset, length);
    if (passed && toPartition === FINE && view.kind !== KIND.ARP)
      this.#shortcuts.learn(port, target, buffer, offset, length);
  }

  /**
   * Group frames go to everybody else behind the same uplink; a unicast frame for nobody known to that uplink and those that
   * join it only, since partitions are known.
   */
  #flood(
    port: MuxPort,
    buffer: Uint8Array,
    offset: number,
    length: number,
    toPartition: number,
    group: boolean,
  ): void {
    const view = this.#view;
    const announced =
      view.kind === KIND.ARP
        ? this.services.get(view.arpSender)
        : view.kind === KIND.IPV6 && this.services.size > 0 && view.isNdp
          ? this.services.get(view.ndpTarget)
          : undefined;
    const asked = view.kind === KIND.ARP && view.arpAsks ? this.services.get(view.arpTarget) : announced;
    let sent = false;
    for (let i = 0; i < this.ports.length; i++) {
      const target = this.ports[i];
      if (target === undefined || target === port || !target.live) continue;
      if (target.segment !== port.segment && target.role !== 'probe') continue;
      if (!target.isUplink) {
        if (!group || toPartition !== FINE || target.peer !== undefined) {
          if (target.role === 'probe' || !group || toPartition !== FINE) continue;
        }
        // Who has the address without the path must not take its holder for an intruder.
        if (announced !== undefined && announced.path !== target && target.has(announced.address)) continue;
        // Nor answer for it, where it had the address before it was switched to another uplink.
        if (asked !== undefined && asked.path !== target && target.has(asked.address)) continue;
      }
      this.#out.captureIngress(port, buffer, offset, length, undefined);
      this.#out.emit(target, buffer, offset, length);
      sent = true;
    }
    if (sent) return;
    if (!group) this.#out.drop(port, DROP['unknown-unicast'], buffer, offset, length);
    else this.#out.captureIngress(port, buffer, offset, length, undefined);
  }

  // ---- out

  /** "Packets to it go to the port, whatever their destination MAC says." */
  #address(target: MuxPort, buffer: Uint8Array): void {
    const view = this.#view;
    if (target.isUplink || (view.toLow === target.macLow && view.toHigh === target.macHigh)) return;
    writeU16(buffer, view.frame, target.macHigh);
    writeU32(buffer, view.frame + 2, target.macLow);
  }
}
