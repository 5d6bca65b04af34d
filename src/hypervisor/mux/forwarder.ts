/**
 * The path of every packet through the mux.
 *
 * receive → link checks → private path? → source checks of partitions (anti-spoof) → ARP or IPv4 → one of
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
import {
  ARP_OPERATION,
  PROTOCOL,
  VNET_GSO,
  vnetGsoType,
  vnetNeedsChecksum,
  writeU16,
  writeU32,
} from '../../netstack/index.ts';
import { DROP, MUX_DROPS } from './drops.ts';
import type { FlowTableOptions } from './flow-table.ts';
import { FlowTable, MAX_GROUPS } from './flow-table.ts';
import { FragmentTable } from './fragment-table.ts';
import { HoldQueue } from './hold-queue.ts';
import type { MacTableOptions } from './mac-table.ts';
import { LEARNED, MacTable } from './mac-table.ts';
import type { PacketObserver } from './packet-observer.ts';
import { FINE, FRAGMENT, KIND, PacketView } from './packet-view.ts';
import { completeChecksum, TcpSegmenter } from './segmentation.ts';
import type { DrainGroup, HoldScope, MuxPort, Notice, ServiceAddress } from './state.ts';

const DHCP_SERVER_PORT = 67;
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
  readonly flows: FlowTable;
  readonly macs: MacTable;
  observer: PacketObserver | undefined;

  readonly #clock: Clock;
  readonly #fragments = new FragmentTable();
  readonly #view = new PacketView();
  readonly #segmenter = new TcpSegmenter();
  readonly #reentry = new HoldQueue(REENTRY_LIMITS);
  #busy = false;
  #nowMs = 0;
  #stale = true;
  #dirty: MuxPort[] = [];
  /** The packet at hand has not been captured where it came from. */
  #ingressDue = false;
  #comment: string | undefined;
  /** A refused packet is kept by the caller: do not count it. */
  #keepRefused = false;
  #refused = false;
  /** Index of the port that the packet at hand came from. */
  #sender = -1;
  /** Target of the segments being cut. */
  #segmentTarget: MuxPort | undefined;

  constructor(options: ForwarderOptions) {
    this.#clock = options.clock;
    this.macs = new MacTable(options.macs);
    this.flows = new FlowTable(
      {
        ...options.flows,
        onDrained: (id) => {
          const group = this.groups[id];
          if (group !== undefined) options.onDrained(group);
        },
      },
      options.random.u32(),
    );
  }

  get nowMs(): number {
    if (this.#stale) {
      this.#nowMs = this.#clock.nowMs();
      this.#stale = false;
    }
    return this.#nowMs;
  }

  /** Time has passed: the next packet or command reads the clock. */
  refresh(): void {
    this.#stale = true;
  }

  /** One packet from a port's device. */
  receive(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    if (this.#busy) {
      if (!this.#reentry.push(buffer, offset, length, port.index, this.#nowMs)) {
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
    this.flush();
  }

  /** Sends what the devices have collected. */
  flush(): void {
    for (;;) {
      const port = this.#dirty.pop();
      if (port === undefined) return;
      port.dirty = false;
      port.device.flush();
    }
  }

  /** A frame of the mux itself (barrier, announcement); false when the port has no room. */
  originate(port: MuxPort, buffer: Uint8Array, length: number, comment: string): boolean {
    this.#ingressDue = false;
    this.#comment = this.observer === undefined ? undefined : comment;
    this.#keepRefused = true;
    const taken = this.#emit(port, buffer, 0, length);
    this.#keepRefused = false;
    return taken;
  }

  /**
   * Takes packets out of a hold until none is left or the port a packet goes to has no room; false in the latter case.
   * `onPacket` hears how long each of them waited.
   */
  release(service: ServiceAddress, queue: HoldQueue, onPacket: (waitedMs: number) => void): boolean {
    this.#busy = true;
    this.#keepRefused = true;
    try {
      queue.drain((buffer, offset, length, index, atMs) => {
        const port = this.ports[index];
        if (port === undefined) return true;
        const waitedMs = this.nowMs - atMs;
        this.#refused = false;
        this.#ingressDue = false;
        this.#comment = this.observer === undefined ? undefined : `held ${waitedMs.toFixed(1)} ms`;
        this.#again(service, port, buffer, offset, length);
        if (this.#refused) return false;
        onPacket(waitedMs);
        return true;
      });
    } finally {
      this.#keepRefused = false;
      this.#busy = false;
    }
    return queue.count === 0;
  }

  /** A free group number; undefined when every one is in use. */
  freeGroup(): number | undefined {
    for (let id = 1; id < MAX_GROUPS; id++) if (this.groups[id] === undefined) return id;
    return undefined;
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
    this.#sender = port.index;
    if (this.#stale) {
      this.#nowMs = this.#clock.nowMs();
      this.#stale = false;
    }
    this.#ingressDue = this.observer !== undefined;
    this.#comment = undefined;
    const view = this.#view;
    const fault = view.readLink(buffer, offset, length);
    if (fault !== FINE) {
      this.#drop(port, fault, buffer, offset, length);
      return;
    }
    const peer = port.peer;
    if (peer !== undefined || !port.attached) {
      if (peer === undefined) {
        this.#drop(port, DROP['isolated'], buffer, offset, length);
        return;
      }
      if (port.role === 'probe' || !port.attached || view.isGroup || this.#isFor(peer)) {
        this.#captureIngress(port, buffer, offset, length, undefined);
        if (!peer.connected) this.#drop(peer, DROP['port-down'], buffer, offset, length);
        else this.#emit(peer, buffer, offset, length);
        if (port.role === 'probe' || !port.attached || !view.isGroup) return;
      }
    }
    if ((view.fromHigh & 0x100) !== 0 || (view.fromHigh === 0 && view.fromLow === 0)) {
      this.#drop(port, DROP['bad-source-mac'], buffer, offset, length);
      return;
    }
    if (port.isUplink) {
      const learned = this.macs.learn(port.index, view.fromHigh, view.fromLow, this.#nowMs);
      if (learned !== LEARNED.OK) {
        const why = learned === LEARNED.FIXED ? DROP['mac-of-a-port'] : DROP['mac-flapping'];
        this.#drop(port, why, buffer, offset, length);
        return;
      }
    } else if (view.fromLow !== port.macLow || view.fromHigh !== port.macHigh) {
      this.#drop(port, DROP['spoofed-mac'], buffer, offset, length);
      return;
    }
    if (
      view.toHigh === LINK_LOCAL_HIGH &&
      (view.toLow & ~15) === LINK_LOCAL_LOW &&
      !(port.isUplink && view.toLow === LINK_LOCAL_LOW)
    ) {
      this.#drop(port, DROP['link-local-group'], buffer, offset, length);
      return;
    }
    switch (view.kind) {
      case KIND.IPV4:
        this.#ipv4(port, buffer, offset, length);
        break;
      case KIND.ARP:
        this.#arp(port, buffer, offset, length);
        break;
      default:
        this.#other(port, buffer, offset, length);
    }
  }

  /** Not IPv4, not ARP: passes between uplinks; partitions neither send nor get it. */
  #other(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const kind = this.#view.kind;
    const why =
      kind === KIND.IPV6
        ? DROP['ipv6-not-checked']
        : kind === KIND.VLAN
          ? DROP['vlan-from-partition']
          : DROP['ethertype'];
    if (!port.isUplink) {
      this.#drop(port, why, buffer, offset, length);
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
      this.#drop(port, fault, buffer, offset, length);
      return;
    }
    if (!port.isUplink) {
      const why = this.#arpSource(port, buffer);
      if (why !== FINE) {
        this.#drop(port, why, buffer, offset, length);
        return;
      }
    }
    const asked = view.arpAsks ? this.services.get(view.arpTarget) : undefined;
    if (asked === undefined || asked.path === port) {
      this.#byMac(port, buffer, offset, length, FINE);
      return;
    }
    const hold = asked.hold;
    if (hold !== undefined && hold.scope === 'all') {
      this.#hold(asked, port, buffer, offset, length);
      return;
    }
    this.#toPath(asked, port, buffer, offset, length);
  }

  /** Sender fields of a partition's ARP packet: its own MAC, an address it may announce. */
  #arpSource(port: MuxPort, buffer: Uint8Array): number {
    const view = this.#view;
    const at = view.l3 + 8;
    for (let i = 0; i < 6; i++) {
      if (buffer[at + i] !== buffer[view.frame + 6 + i]) return DROP['spoofed-arp'];
    }
    const sender = view.arpSender;
    if (sender === 0) return view.arpOperation === ARP_OPERATION.REQUEST ? FINE : DROP['spoofed-arp'];
    const notice = port.noticeFor(sender);
    if (notice !== undefined) {
      notice.translate = true;
      return FINE;
    }
    const service = this.services.get(sender);
    if (service !== undefined) {
      if (service.path === port) {
        this.#backAtFirst(port, service);
        return FINE;
      }
      // Who finishes flows of the address may still ask for its neighbours.
      return view.arpAsks && this.#drains(port, service) ? FINE : DROP['arp-not-path-holder'];
    }
    if (port.has(sender) || (port.role === 'probe' && port.addresses.length === 0)) return FINE;
    return DROP['spoofed-arp'];
  }

  #drains(port: MuxPort, service: ServiceAddress): boolean {
    for (const group of service.groups) {
      if (group.port === port && this.flows.live(group.id) > 0) return true;
    }
    return false;
  }

  /** The port uses the service address itself (again): packets of its flows need no translation. */
  #backAtFirst(port: MuxPort, service: ServiceAddress): void {
    for (let i = 0; i < port.notices.length; i++) {
      const notice = port.notices[i]!;
      if (notice.service === service) notice.translate = false;
    }
  }

  // ---- IPv4

  #ipv4(port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    if (port.isUplink && this.services.size === 0) {
      this.#byMac(port, buffer, offset, length, FINE);
      return;
    }
    const view = this.#view;
    const fault = view.readIpv4(buffer);
    if (fault !== FINE) {
      this.#drop(port, fault, buffer, offset, length);
      return;
    }
    let notice: Notice | undefined;
    if (!port.isUplink) {
      const source = view.source;
      notice = port.notices.length > 0 ? port.noticeFor(source) : undefined;
      const service = notice !== undefined ? notice.service : this.services.get(source);
      if (service !== undefined) {
        const why = this.#outbound(port, service, notice);
        if (why !== FINE) {
          this.#drop(port, why, buffer, offset, length);
          return;
        }
      } else if (!port.has(source) && !(port.role === 'probe' && port.addresses.length === 0)) {
        this.#drop(port, DROP['spoofed-source'], buffer, offset, length);
        return;
      }
      if (
        view.protocol === PROTOCOL.UDP &&
        view.hasFlow &&
        view.sourcePort === DHCP_SERVER_PORT &&
        port.role === 'partition'
      ) {
        this.#drop(port, DROP['dhcp-server'], buffer, offset, length);
        return;
      }
      if (notice !== undefined && view.destination !== notice.service.address) {
        this.#captureIngress(port, buffer, offset, length, undefined);
        if (notice.change.rewriteOutbound(buffer, offset, length)) {
          notice.service.since.rewritten++;
          if (this.observer !== undefined) this.#remark(notice.change.describe('outbound'));
        }
      }
    }
    const service = this.services.get(view.destination);
    if (service === undefined) {
      this.#byMac(port, buffer, offset, length, FINE);
      return;
    }
    this.#inbound(service, port, buffer, offset, length, true);
  }

  /**
   * A partition's packet with a service address (or the second address of a notice) as source: may it send it? Keeps the
   * flow's state. "Never a RST out for a flow the mux has seen, unless sent by the flow's own port."
   */
  #outbound(port: MuxPort, service: ServiceAddress, notice: Notice | undefined): number {
    const view = this.#view;
    const flows = this.flows;
    const path = service.path;
    let flow = -1;
    let ports = 0;
    let named = view.hasFlow;
    if (view.fragment === FRAGMENT.LATER) {
      named = this.#fragments.find(
        view.source,
        view.destination,
        view.protocol,
        view.identification,
        this.#nowMs,
      );
      ports = this.#fragments.ports;
    } else if (named) {
      ports = (view.sourcePort << 16) | view.destinationPort;
    }
    if (named) flow = flows.find(service.address, view.flowDestination, ports, view.flowProtocol);
    if (flow >= 0 && view.isSyn && !view.quoted && flows.hasEnded(flow)) {
      flows.remove(flow);
      flow = -1;
    }
    if (flow < 0) {
      if (path !== port && notice === undefined) return DROP['not-path-holder'];
      if (named && !view.quoted && view.fragment !== FRAGMENT.LATER && !view.isRst) {
        flow = flows.insert(
          service.address,
          view.flowDestination,
          ports,
          view.flowProtocol,
          true,
          this.#nowMs,
        );
        if (flow >= 0 && path !== port) {
          const group = this.#groupOf(notice!);
          if (group !== undefined) flows.setGroup(flow, group.id);
        }
      }
    } else {
      const group = flows.group(flow);
      const owner = group === 0 ? path : this.groups[group]!.port;
      if (owner !== port) {
        if (!view.isRst) return group === 0 ? DROP['not-path-holder'] : DROP['not-flow-owner'];
        service.since.rstSuppressed++;
        return DROP['rst-suppressed'];
      }
    }
    if (notice !== undefined) notice.translate = true;
    else if (port.notices.length > 0) this.#backAtFirst(port, service);
    if (flow >= 0 && !view.quoted) {
      if (view.fragment === FRAGMENT.FIRST) {
        this.#fragments.record(
          view.source,
          view.destination,
          view.protocol,
          view.identification,
          ports,
          this.#nowMs,
        );
      }
      this.#account(flow, true);
    }
    return FINE;
  }

  #groupOf(notice: Notice): DrainGroup | undefined {
    return notice.service.groups.find((group) => group.notice === notice);
  }

  #account(flow: number, fromLocal: boolean): void {
    const view = this.#view;
    if (view.fragment === FRAGMENT.LATER) return;
    if (view.protocol === PROTOCOL.TCP) {
      this.flows.sawSegment(
        flow,
        fromLocal,
        view.tcpFlags,
        view.tcpSequence,
        view.tcpAcknowledgment,
        view.tcpPayload,
        this.#nowMs,
      );
    } else this.flows.sawDatagram(flow, fromLocal, this.#nowMs);
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
      named = this.#fragments.find(
        view.source,
        service.address,
        view.protocol,
        view.identification,
        this.#nowMs,
      );
      ports = this.#fragments.ports;
    } else if (named) {
      ports = (view.destinationPort << 16) | view.sourcePort;
      if (view.fragment === FRAGMENT.FIRST) {
        this.#fragments.record(
          view.source,
          service.address,
          view.protocol,
          view.identification,
          ports,
          this.#nowMs,
        );
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
      this.#drop(port, DROP['no-path'], buffer, offset, length);
      return;
    }
    if (target === port) {
      this.#drop(port, DROP['own-address'], buffer, offset, length);
      return;
    }
    if (!target.live) {
      this.#drop(target, DROP['port-down'], buffer, offset, length);
      return;
    }
    if (
      flow < 0 &&
      named &&
      !view.quoted &&
      view.fragment !== FRAGMENT.LATER &&
      !view.isRst &&
      !(this.#keepRefused && target.blocked)
    ) {
      flow = flows.insert(service.address, view.flowSource, ports, view.flowProtocol, false, this.#nowMs);
    }
    this.#captureIngress(port, buffer, offset, length, undefined);
    if (drain !== undefined) {
      const notice = drain.notice;
      if (this.observer !== undefined) this.#remark(`steered to ${target.name}`);
      if (notice?.translate === true && notice.change.rewriteInbound(buffer, offset, length)) {
        if (this.observer !== undefined) this.#remark(notice.change.describe('inbound'));
      }
    }
    this.#address(target, buffer);
    if (this.#emit(target, buffer, offset, length) && drain !== undefined) service.since.steered++;
    if (flow >= 0 && !view.quoted && !this.#refused) this.#account(flow, false);
  }

  /** Whether a packet of this flow (-1: unknown) has to wait. */
  #waits(service: ServiceAddress, scope: HoldScope, flow: number, drain: DrainGroup | undefined): boolean {
    if (flow >= 0 && this.flows.isHeld(flow)) return true;
    if (scope === 'flows' || (drain !== undefined && drain.port !== service.path)) return false;
    return flow < 0 || (scope === 'all' && !this.flows.isExcept(flow));
  }

  /** An ARP request for a service address: only the holder of the path may answer. */
  #toPath(service: ServiceAddress, port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const target = service.path;
    if (target === undefined) {
      this.#drop(port, DROP['no-path'], buffer, offset, length);
      return;
    }
    if (!target.live) {
      this.#drop(target, DROP['port-down'], buffer, offset, length);
      return;
    }
    if (target === port) {
      this.#drop(port, DROP['own-address'], buffer, offset, length);
      return;
    }
    this.#captureIngress(port, buffer, offset, length, undefined);
    if (!this.#view.isGroup) this.#address(target, buffer);
    this.#emit(target, buffer, offset, length);
  }

  /** A packet out of a hold. */
  #again(service: ServiceAddress, port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const view = this.#view;
    if (view.readLink(buffer, offset, length) !== FINE) return;
    if (view.kind === KIND.ARP) {
      if (view.readArp(buffer) === FINE) this.#toPath(service, port, buffer, offset, length);
    } else if (view.readIpv4(buffer) === FINE) {
      this.#inbound(service, port, buffer, offset, length, false);
    }
  }

  #hold(service: ServiceAddress, port: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    const hold = service.hold!;
    if (!hold.queue.push(buffer, offset, length, port.index, this.#nowMs)) {
      service.since.heldDropped++;
      this.#drop(port, DROP['hold-full'], buffer, offset, length);
      return;
    }
    service.since.held++;
    this.#captureIngress(port, buffer, offset, length, this.observer === undefined ? undefined : 'held');
  }

  // ---- by MAC

  /** `toPartition`: FINE, or the reason why partitions do not get this kind of frame. */
  #byMac(port: MuxPort, buffer: Uint8Array, offset: number, length: number, toPartition: number): void {
    const view = this.#view;
    if (view.isGroup) {
      this.#flood(port, buffer, offset, length, toPartition, true);
      return;
    }
    const index = this.macs.find(view.toHigh, view.toLow, this.#nowMs);
    const target = index < 0 ? undefined : this.ports[index];
    if (target === undefined) {
      this.#flood(port, buffer, offset, length, toPartition, false);
      return;
    }
    if (target === port) {
      this.#drop(port, DROP['own-address'], buffer, offset, length);
      return;
    }
    if (!target.isUplink && toPartition !== FINE) {
      this.#drop(port, toPartition, buffer, offset, length);
      return;
    }
    if (!target.attached) {
      this.#drop(port, DROP['isolated'], buffer, offset, length);
      return;
    }
    if (!target.connected) {
      this.#drop(target, DROP['port-down'], buffer, offset, length);
      return;
    }
    this.#captureIngress(port, buffer, offset, length, undefined);
    this.#emit(target, buffer, offset, length);
  }

  /** Group frames go everywhere else; a unicast frame for nobody known to the uplinks only, since partitions are known. */
  #flood(
    port: MuxPort,
    buffer: Uint8Array,
    offset: number,
    length: number,
    toPartition: number,
    group: boolean,
  ): void {
    const view = this.#view;
    const announced = view.kind === KIND.ARP ? this.services.get(view.arpSender) : undefined;
    let sent = false;
    for (let i = 0; i < this.ports.length; i++) {
      const target = this.ports[i];
      if (target === undefined || target === port || !target.live) continue;
      if (!target.isUplink) {
        if (!group || toPartition !== FINE || target.peer !== undefined) {
          if (target.role === 'probe' || !group || toPartition !== FINE) continue;
        }
        // Who has the address without the path must not take its holder for an intruder.
        if (announced !== undefined && announced.path !== target && target.has(announced.address)) continue;
      }
      this.#captureIngress(port, buffer, offset, length, undefined);
      this.#emit(target, buffer, offset, length);
      sent = true;
    }
    if (sent) return;
    if (!group) this.#drop(port, DROP['unknown-unicast'], buffer, offset, length);
    else this.#captureIngress(port, buffer, offset, length, undefined);
  }

  // ---- out

  /** "Packets to it go to the port, whatever their destination MAC says." */
  #address(target: MuxPort, buffer: Uint8Array): void {
    const view = this.#view;
    if (target.isUplink || (view.toLow === target.macLow && view.toHigh === target.macHigh)) return;
    writeU16(buffer, view.frame, target.macHigh);
    writeU32(buffer, view.frame + 2, target.macLow);
  }

  #emit(target: MuxPort, buffer: Uint8Array, offset: number, length: number): boolean {
    let taken: boolean;
    if (target.shares !== undefined && this.#sender >= 0 && !this.#keepRefused) {
      if (!target.admits(this.#sender)) {
        this.#captureEgress(target, buffer, offset, length, DROP['queue-full']);
        target.drops[DROP['queue-full']]!++;
        return false;
      }
      target.shares.add(this.#sender, length, this.#nowMs);
    }
    if (buffer[offset] === 0 && buffer[offset + 1] === 0) {
      if (length - 10 > target.maxFrame) {
        this.#captureEgress(target, buffer, offset, length, DROP['too-big']);
        target.drops[DROP['too-big']]!++;
        return false;
      }
      this.#captureEgress(target, buffer, offset, length, FINE);
      taken = target.device.transmit(buffer, offset, length);
    } else taken = this.#emitOffloaded(target, buffer, offset, length);
    if (!taken) {
      target.blocked = true;
      if (this.#keepRefused) this.#refused = true;
      else target.drops[DROP['queue-full']]!++;
      return false;
    }
    target.transmitted++;
    if (!target.dirty) {
      target.dirty = true;
      this.#dirty.push(target);
    }
    return true;
  }

  /** The packet has an offload header that says something. True also when it was dropped here. */
  #emitOffloaded(target: MuxPort, buffer: Uint8Array, offset: number, length: number): boolean {
    const gso = vnetGsoType(buffer, offset);
    const carried =
      gso === VNET_GSO.NONE ||
      (gso === VNET_GSO.TCPV4 && target.tcp4) ||
      (gso === VNET_GSO.TCPV6 && target.tcp6);
    if (gso === VNET_GSO.NONE && length - 10 > target.maxFrame) {
      this.#captureEgress(target, buffer, offset, length, DROP['too-big']);
      target.drops[DROP['too-big']]!++;
      return true;
    }
    this.#captureEgress(target, buffer, offset, length, FINE);
    if (carried) {
      if (!target.checksum && vnetNeedsChecksum(buffer, offset)) completeChecksum(buffer, offset, length);
      return target.device.transmit(buffer, offset, length);
    }
    this.#segmentTarget = target;
    const cuttable = gso === VNET_GSO.TCPV4 || gso === VNET_GSO.TCPV6;
    if (!cuttable || !this.#segmenter.segment(buffer, offset, length, this.#giveSegment)) {
      target.drops[DROP['segmentation']]!++;
    }
    return true;
  }

  readonly #giveSegment = (segment: Uint8Array, offset: number, length: number): void => {
    const target = this.#segmentTarget!;
    if (target.device.transmit(segment, offset, length)) return;
    target.blocked = true;
    target.drops[DROP['queue-full']]!++;
  };

  #drop(port: MuxPort, reason: number, buffer: Uint8Array, offset: number, length: number): void {
    port.drops[reason]!++;
    if (this.observer === undefined) return;
    const comment = `dropped: ${MUX_DROPS[reason]}`;
    if (this.#ingressDue) {
      this.#ingressDue = false;
      const from = this.ports[this.#sender] ?? port;
      this.observer.packet(from.name, true, buffer, offset, length, comment);
    } else this.observer.packet(port.name, false, buffer, offset, length, comment);
  }

  // ---- capture

  #remark(text: string): void {
    this.#comment = this.#comment === undefined ? text : `${this.#comment}; ${text}`;
  }

  #captureIngress(
    port: MuxPort,
    buffer: Uint8Array,
    offset: number,
    length: number,
    comment: string | undefined,
  ): void {
    if (!this.#ingressDue) return;
    this.#ingressDue = false;
    this.observer?.packet(port.name, true, buffer, offset, length, comment);
  }

  #captureEgress(target: MuxPort, buffer: Uint8Array, offset: number, length: number, why: number): void {
    if (this.observer === undefined) return;
    const comment = why === FINE ? this.#comment : `dropped: ${MUX_DROPS[why]}`;
    this.observer.packet(target.name, false, buffer, offset, length, comment);
  }
}
