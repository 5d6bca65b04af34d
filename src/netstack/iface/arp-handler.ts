/**
 * ARP packets in and out (RFC 826). Requests for an address that is answered get a unicast reply; senders are remembered when
 * they ask for us, and updated whenever known. Announcements follow RFC 5227 section 2.3: a broadcast request with our address
 * as sender and target; probes (section 2.1.1) have no sender. A conflict (another sender with our address) is counted and not defended: around a changeover the
 * other one may be the rightful owner.
 */
import type { Clock, Timer } from '../../common/index.ts';
import type { PacketSendProgram } from '../send/index.ts';
import type { DropReason, IpAddress, Ipv4Address, MacAddress } from '../wire/index.ts';
import {
  ARP,
  ARP_OPERATION,
  arpIsValid,
  clearVnet,
  ETHERNET,
  ETHERTYPE,
  emitArp,
  emitEthernet,
  IPV4_ANY,
  MAC_BROADCAST,
  MAC_NONE,
  readIpv4,
  readMac,
  readU16,
  VNET,
} from '../wire/index.ts';
import type { AddressTable } from './address-table.ts';
import type { ArpCache } from './arp-cache.ts';

const PACKET = VNET.LENGTH + ETHERNET.MIN_FRAME;

export interface ArpContext {
  readonly clock: Clock;
  readonly mac: MacAddress;
  readonly addresses: AddressTable;
  readonly cache: ArpCache;
  readonly send: PacketSendProgram;
}

interface Probe {
  readonly result: Promise<MacAddress | undefined>;
  end(holder: MacAddress | undefined): void;
}

export class ArpHandler {
  readonly #context: ArpContext;
  /** Addresses being probed, and whom to tell that one is taken. */
  readonly #probes = new Map<Ipv4Address, Probe>();
  /** Padded with zeros to the shortest frame. */
  readonly #scratch = new Uint8Array(PACKET);

  constructor(context: ArpContext) {
    this.#context = context;
  }

  input(buffer: Uint8Array, at: number, length: number): DropReason | undefined {
    if (!arpIsValid(buffer, at, length)) return 'arp-malformed';
    const { addresses, cache, mac } = this.#context;
    const senderMac = readMac(buffer, at + ARP.SENDER_MAC);
    const senderIp = readIpv4(buffer, at + ARP.SENDER_IP);
    const targetIp = readIpv4(buffer, at + ARP.TARGET_IP);
    if (this.#probes.size > 0 && senderMac !== mac) {
      const taken = this.#probes.get(senderIp === 0 ? targetIp : senderIp);
      if (taken !== undefined) {
        taken.end(senderMac);
        return undefined;
      }
    }
    if (addresses.isAnswered(senderIp)) return senderMac === mac ? 'arp-not-for-us' : 'arp-conflict';
    const forUs = addresses.isAnswered(targetIp);
    // A probe (RFC 5227) has no sender address yet; addresses from elsewhere have no place in the cache.
    const usable = senderIp !== 0 && addresses.isOnLink(senderIp) && !addresses.isBroadcast(senderIp);
    const learned = usable && cache.learn(senderIp, senderMac, forUs);
    if (!forUs) return learned ? undefined : 'arp-not-for-us';
    if (readU16(buffer, at + ARP.OPERATION) === ARP_OPERATION.REQUEST) {
      this.#emit(senderMac, ARP_OPERATION.REPLY, targetIp, senderMac, senderIp);
    }
    return undefined;
  }

  /** Asks who has `address`; `to` is the neighbour that had it, or everybody. */
  request(address: Ipv4Address, to: MacAddress | undefined): void {
    const source = this.#context.addresses.sourceFor(address);
    if (typeof source !== 'number') return;
    this.#emit(to ?? MAC_BROADCAST, ARP_OPERATION.REQUEST, source, MAC_NONE, address);
    this.#context.send.flush();
  }

  /**
   * Asks `count` times whether somebody has `address`, or is about to take it; the holder's hardware address, or undefined
   * when nobody answered until `intervalMs` after the last probe.
   */
  probe(address: Ipv4Address, count: number, intervalMs: number): Promise<MacAddress | undefined> {
    const { clock, send } = this.#context;
    const running = this.#probes.get(address);
    if (running !== undefined) return running.result;
    const { promise, resolve } = Promise.withResolvers<MacAddress | undefined>();
    let timer: Timer | undefined;
    const end = (holder: MacAddress | undefined) => {
      timer?.cancel();
      this.#probes.delete(address);
      resolve(holder);
    };
    const ask = (left: number) => {
      if (left === 0) {
        end(undefined);
        return;
      }
      this.#emit(MAC_BROADCAST, ARP_OPERATION.REQUEST, IPV4_ANY, MAC_NONE, address);
      send.flush();
      timer = clock.after(intervalMs, () => ask(left - 1));
    };
    this.#probes.set(address, { result: promise, end });
    ask(count);
    return promise;
  }

  announce(address: IpAddress, count: number, intervalMs: number): void {
    const { addresses, clock } = this.#context;
    if (typeof address !== 'number' || count <= 0 || addresses.stateOf(address) !== 'own') return;
    this.#emit(MAC_BROADCAST, ARP_OPERATION.REQUEST, address, MAC_NONE, address);
    this.#context.send.flush();
    if (count > 1) clock.after(intervalMs, () => this.announce(address, count - 1, intervalMs));
  }

  #emit(
    to: MacAddress,
    operation: number,
    senderIp: Ipv4Address,
    targetMac: MacAddress,
    targetIp: Ipv4Address,
  ): void {
    const { mac, send } = this.#context;
    clearVnet(this.#scratch, 0);
    emitEthernet(this.#scratch, VNET.LENGTH, to, mac, ETHERTYPE.ARP);
    emitArp(this.#scratch, VNET.LENGTH + ETHERNET.HEADER, operation, mac, senderIp, targetMac, targetIp);
    send.send(this.#scratch, 0, PACKET);
  }
}
