/** The stack seen by programs that share nothing with it: `raw-socket` asks, libpcap (`cap`) watches the TAP. */
import { createRequire } from 'node:module';
import * as assert from 'uvu/assert';
import { systemClock, systemRandom } from '../../src/common/index.ts';
import { checksumOf, cidr, macAddress, Stack, TapLink } from '../../src/netstack/index.ts';
import { eventually, liveSuite, within } from '../support/index.ts';

const HOST = '10.92.0.1';
const OURS = '10.92.0.2';
const ICMP_ECHO = 8;
const ICMP_ECHO_REPLY = 0;
const IP_AT = 14;

interface RawSocket {
  on(event: 'message', listener: (packet: Buffer, source: string) => void): void;
  send(packet: Buffer, at: number, length: number, to: string, done: (error: Error | null) => void): void;
  close(): void;
}
interface RawSocketModule {
  createSocket(options: { protocol: number }): RawSocket;
  writeChecksum(buffer: Buffer, at: number, sum: number): void;
  createChecksum(buffer: Buffer): number;
  readonly Protocol: { readonly ICMP: number };
}
interface Capture {
  open(device: string, filter: string, bufferBytes: number, buffer: Buffer): string;
  on(event: 'packet', listener: (length: number, truncated: boolean) => void): void;
  close(): void;
}

const load = createRequire(import.meta.url);
const probe = liveSuite('live/independent-probe');

probe(
  'an echo request of raw-socket is answered, and libpcap sees a reply whose checksums are right',
  within(async () => {
    const raw = load('raw-socket') as RawSocketModule;
    const { Cap } = load('cap') as { Cap: new () => Capture };
    const link = new TapLink({ name: 'probe0', ipv4: `${HOST}/24` });
    const stack = new Stack({
      clock: systemClock,
      random: systemRandom,
      link,
      mac: macAddress('02:00:00:00:92:02'),
      addresses: [cidr(`${OURS}/24`)],
    });
    const watcher = new Cap();
    const frame = Buffer.alloc(65_536);
    const replies: Buffer[] = [];
    watcher.on('packet', (length) => {
      const ip = Buffer.from(frame.subarray(IP_AT, length));
      const header = (ip[0]! & 0xf) * 4;
      if (ip[header] === ICMP_ECHO_REPLY) replies.push(ip.subarray(0, ip.readUInt16BE(2)));
    });
    watcher.open('probe0', 'icmp', 1024 * 1024, frame);
    const socket = raw.createSocket({ protocol: raw.Protocol.ICMP });
    try {
      const request = Buffer.alloc(8 + 100, 0x5a);
      request.writeUInt8(ICMP_ECHO, 0);
      request.writeUInt8(0, 1);
      request.writeUInt16BE(0, 2);
      request.writeUInt16BE(0x4711, 4);
      request.writeUInt16BE(1, 6);
      raw.writeChecksum(request, 2, raw.createChecksum(request));
      const answers: Buffer[] = [];
      socket.on('message', (packet, source) => {
        if (source === OURS) answers.push(packet);
      });
      socket.send(request, 0, request.length, OURS, (error) => {
        if (error !== null) throw error;
      });
      await eventually('the answer', () => answers.length > 0 && replies.length > 0, 5_000);
      const seen = replies[0]!;
      const header = (seen[0]! & 0xf) * 4;
      assert.is(checksumOf(seen, 0, header), 0, 'IP header checksum');
      assert.is(checksumOf(seen, header, seen.length - header), 0, 'ICMP checksum');
      assert.is(seen.readUInt16BE(header + 4), 0x4711);
      assert.equal(seen.subarray(header + 8), request.subarray(8));
      assert.ok(stack.ip.accepted > 0, 'the stack counted what it answered');
    } finally {
      socket.close();
      watcher.close();
      link.close();
    }
  }, 15_000),
);

probe.run();
