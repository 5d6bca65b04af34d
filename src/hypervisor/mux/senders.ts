/**
 * What a partition may send, and what its packets tell about the flows of a service address.
 */
import { ARP_OPERATION, PROTOCOL } from '../../netstack/index.ts';
import { type AddressKeys, NOBODY } from './address-keys.ts';
import { DROP } from './drops.ts';
import type { FlowTable } from './flow-table.ts';
import type { FragmentTable } from './fragment-table.ts';
import { FINE, FRAGMENT, KIND, type PacketView } from './packet-view.ts';
import type { DrainGroup, MuxPort, Notice, ServiceAddress } from './state.ts';

const DHCP_SERVER_PORT = 67;
/** Bytes; the destination follows the source. */
const IPV6_ADDRESS = 16;

export interface SendersState {
  readonly flows: FlowTable;
  readonly addresses: AddressKeys;
  readonly services: ReadonlyMap<number, ServiceAddress>;
  readonly groups: readonly (DrainGroup | undefined)[];
}

/** Judges the packet that `view` has read; answers FINE or a drop reason. */
export class Senders {
  readonly #state: SendersState;
  readonly #view: PacketView;
  readonly #fragments: FragmentTable;

  constructor(state: SendersState, view: PacketView, fragments: FragmentTable) {
    this.#state = state;
    this.#view = view;
    this.#fragments = fragments;
  }

  /** Sender fields of a partition's ARP packet: its own MAC, an address it may announce. */
  arp(port: MuxPort, buffer: Uint8Array): number {
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
    const service = this.#state.services.get(sender);
    if (service !== undefined) {
      if (service.path === port) {
        this.backAtFirst(port, service);
        return FINE;
      }
      // Who finishes flows of the address may still ask for its neighbours.
      return view.arpAsks && this.drains(port, service) ? FINE : DROP['arp-not-path-holder'];
    }
    if (port.has(sender) || (port.role === 'probe' && port.addresses.length === 0)) return FINE;
    return DROP['spoofed-arp'];
  }

  /** The port finishes flows of the address. */
  drains(port: MuxPort, service: ServiceAddress): boolean {
    for (const group of service.groups) {
      if (group.port === port && this.#state.flows.live(group.id) > 0) return true;
    }
    return false;
  }

  /** The source of an IPv4 packet that is from no service address. */
  ipv4(port: MuxPort): number {
    if (port.has(this.#view.source) || (port.role === 'probe' && port.addresses.length === 0)) return FINE;
    return DROP['spoofed-source'];
  }

  isDhcpServer(port: MuxPort): boolean {
    const view = this.#view;
    return (
      view.protocol === PROTOCOL.UDP &&
      view.hasFlow &&
      view.sourcePort === DHCP_SERVER_PORT &&
      port.role === 'partition'
    );
  }

  /** The port uses the service address itself (again): packets of its flows need no translation. */
  backAtFirst(port: MuxPort, service: ServiceAddress): void {
    for (let i = 0; i < port.notices.length; i++) {
      const notice = port.notices[i]!;
      if (notice.service === service) notice.translate = false;
    }
  }

  /**
   * A partition's packet with a service address (or the second address of a notice) as source: may it send it? Keeps the
   * flow's state. "Never a RST out for a flow the mux has seen, unless sent by the flow's own port."
   */
  ip(
    port: MuxPort,
    service: ServiceAddress,
    notice: Notice | undefined,
    buffer: Uint8Array,
    nowMs: number,
  ): number {
    const view = this.#view;
    const flows = this.#state.flows;
    const path = service.path;
    let flow = -1;
    let ports = 0;
    let named = view.hasFlow;
    if (view.fragment === FRAGMENT.LATER) {
      named = this.fragmentKnown(view.destination, nowMs);
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
        flow = this.insert(service, false, buffer, ports, nowMs);
        if (flow >= 0 && path !== port) {
          const group = this.#groupOf(notice!);
          if (group !== undefined) flows.setGroup(flow, group.id);
        }
      }
    } else {
      const group = flows.group(flow);
      const owner = group === 0 ? path : this.#state.groups[group]!.port;
      if (owner !== port) {
        if (!view.isRst) return group === 0 ? DROP['not-path-holder'] : DROP['not-flow-owner'];
        service.since.rstSuppressed++;
        return DROP['rst-suppressed'];
      }
    }
    if (notice !== undefined) notice.translate = true;
    else if (port.notices.length > 0) this.backAtFirst(port, service);
    if (flow >= 0 && !view.quoted) {
      if (view.fragment === FRAGMENT.FIRST) {
        this.recordFragment(flows.remote[flow]!, ports, nowMs);
      }
      this.account(flow, true, nowMs);
    }
    return FINE;
  }

  /** A new flow of the packet, which came from its remote side or goes there; -1 when it cannot be recorded. */
  insert(
    service: ServiceAddress,
    fromRemote: boolean,
    buffer: Uint8Array,
    ports: number,
    nowMs: number,
  ): number {
    const view = this.#view;
    let remote = fromRemote ? view.flowSource : view.flowDestination;
    if (view.kind === KIND.IPV6) {
      const at = fromRemote ? view.sourceAt : view.sourceAt + IPV6_ADDRESS;
      remote = this.#state.addresses.add(buffer, at);
      if (remote === NOBODY) return -1;
    }
    return this.#state.flows.insert(service.address, remote, ports, view.flowProtocol, !fromRemote, nowMs);
  }

  /** A later fragment: whether the first one of its datagram has been seen; its ports are then in the fragment table. */
  fragmentKnown(destination: number, nowMs: number): boolean {
    const view = this.#view;
    return this.#fragments.find(
      view.fragmentSource,
      destination,
      view.fragmentProtocol,
      view.identification,
      nowMs,
    );
  }

  recordFragment(destination: number, ports: number, nowMs: number): void {
    const view = this.#view;
    this.#fragments.record(
      view.fragmentSource,
      destination,
      view.fragmentProtocol,
      view.identification,
      ports,
      nowMs,
    );
  }

  #groupOf(notice: Notice): DrainGroup | undefined {
    return notice.service.groups.find((group) => group.notice === notice);
  }

  /** Keeps the state of a packet's flow. */
  account(flow: number, fromLocal: boolean, nowMs: number): void {
    const view = this.#view;
    if (view.fragment === FRAGMENT.LATER) return;
    if (view.protocol === PROTOCOL.TCP) {
      this.#state.flows.sawSegment(
        flow,
        fromLocal,
        view.tcpFlags,
        view.tcpSequence,
        view.tcpAcknowledgment,
        view.tcpPayload,
        nowMs,
      );
    } else this.#state.flows.sawDatagram(flow, fromLocal, nowMs);
  }
}
