/** Datagrams as a kernel hands them over, and two joined pairs of devices to send them through. */
import * as assert from 'uvu/assert';
import { eventually, pseudoHeaderSum, segmentedUdp } from '../../test/support/index.ts';
import { PacketDevice, type ShortcutTerms } from '../src/index.ts';

export const VNET = 10;
export const TERMS: ShortcutTerms = { longest: 1518, checksum: true, tso4: true, tso6: true, uso: true };

interface Datagram {
  readonly ipv4?: boolean;
  readonly id?: number;
  readonly dontFragment?: boolean;
  readonly port?: number;
  readonly payload: Uint8Array;
}

/** As a kernel hands it over: its checksum left to the receiver. */
export function datagram({
  ipv4 = true,
  id = 0,
  dontFragment = false,
  port = 9,
  payload,
}: Datagram): Uint8Array {
  const udp = VNET + 14 + (ipv4 ? 20 : 40);
  const length = 8 + payload.length;
  const packet = Buffer.alloc(udp + length);
  packet[0] = 1;
  packet.writeUInt16LE(udp - VNET, 6);
  packet.writeUInt16LE(6, 8);
  packet.set([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, ipv4 ? 0x08 : 0x86, ipv4 ? 0 : 0xdd], VNET);
  if (ipv4) {
    packet.set([0x45, 0, (20 + length) >> 8, (20 + length) & 0xff, id >> 8, id & 0xff], VNET + 14);
    packet.set([dontFragment ? 0x40 : 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2], VNET + 20);
    setIpv4Checksum(packet);
  } else {
    packet.set([0x60, 0, 0, 0, length >> 8, length & 0xff, 17, 64, 0xfd, 0], VNET + 14);
    packet.set([1, 0xfd, 0], VNET + 37);
    packet[VNET + 53] = 2;
  }
  packet.set([0, 7, port >> 8, port & 0xff, length >> 8, length & 0xff], udp);
  packet.writeUInt16BE(pseudoHeaderSum(packet, ipv4, length), udp + 6);
  packet.set(payload, udp + 8);
  return new Uint8Array(packet);
}

export function setIpv4Checksum(packet: Buffer): void {
  let sum = 0;
  packet.writeUInt16BE(0, VNET + 24);
  for (let at = VNET + 14; at < VNET + 34; at += 2) sum += packet.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  packet.writeUInt16BE(0xffff - sum, VNET + 24);
}

/** Another byte of the IPv4 header, under a good checksum. */
export function setByte(packet: Buffer, value: number, at: number): void {
  packet[at] = value;
  setIpv4Checksum(packet);
}

/** host → [from … JavaScript or shortcut … to] → peer. Nothing is read before `listen`. */
export function joined(terms = TERMS) {
  const [host, from] = PacketDevice.pair();
  const [to, peer] = PacketDevice.pair();
  const received: Uint8Array[] = [];
  const arrived: Uint8Array[] = [];
  const into = (list: Uint8Array[]) => (buffer: Uint8Array, index: Uint32Array, count: number) => {
    for (let i = 0; i < count; i++) list.push(buffer.slice(index[2 * i]!, index[2 * i]! + index[2 * i + 1]!));
  };
  for (const ipv4 of [true, false]) {
    const packet = datagram({ ipv4, payload: Uint8Array.of(1) });
    assert.ok(from.addShortcut(to, packet, 0, packet.length, terms));
  }
  const close = () => {
    for (const device of [host, from, to, peer]) device.close();
  };
  return {
    host,
    from,
    to,
    received,
    arrived,
    close,
    listen: (frames?: number) => from.start(into(received), frames === undefined ? {} : { frames }),
    hear: () => peer.start(into(arrived)),
  };
}

export const hex = (packets: readonly Uint8Array[]) =>
  packets.map((packet) => Buffer.from(packet).toString('hex'));

/** What comes out of `packets` that stand in the queue together, and in how many pieces it arrived. */
export async function through(
  packets: readonly Uint8Array[],
  terms = TERMS,
): Promise<{ out: string[]; pieces: number[] }> {
  const j = joined(terms);
  j.hear();
  for (const packet of packets) assert.ok(j.host.writeOne(packet));
  j.listen();
  const all = () => j.arrived.flatMap(segmentedUdp).length + j.received.length >= packets.length;
  await eventually('every datagram', all);
  const pieces = j.arrived.map((packet) => segmentedUdp(packet).length);
  const cut = j.arrived.flatMap(segmentedUdp);
  const { rxFrames, rxShortcut, rxShortcutBytes } = j.from.counters();
  const { txFrames, txShortcut, txShortcutBytes } = j.to.counters();
  const bytes = cut.reduce((sum, packet) => sum + packet.length, 0);
  assert.equal([rxFrames, rxShortcut, rxShortcutBytes], [packets.length, cut.length, bytes]);
  assert.equal([txFrames, txShortcut, txShortcutBytes], [cut.length, cut.length, bytes]);
  j.close();
  return { out: hex([...cut, ...j.received]), pieces };
}
