import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { SeededRandom } from '../../../src/common/index.ts';
import { ChangeNotice, ChangeNoticeError, cidr, ipAddress } from '../../../src/netstack/index.ts';
import { seeded, within } from '../../support/index.ts';
import {
  arp,
  checksumsRight,
  hex,
  icmp,
  ipv4,
  packet,
  plainChecksum,
  pseudo4,
  tcp,
  u16,
  udp,
} from '../packets.ts';

const FIRST = '10.77.0.11';
const SECOND = '10.77.0.12';
const CLIENT = '10.77.0.1';
const NAMED = { first: ipAddress(FIRST), second: ipAddress(SECOND) };

const change = suite('netstack/send/change-notice');

function makeTransport(
  random: SeededRandom,
  source: string,
  destination: string,
): { protocol: number; bytes: Buffer } {
  const payload = Buffer.from(random.fill(new Uint8Array(random.below(200))));
  const ports = {
    source,
    destination,
    sourcePort: random.below(65536),
    destinationPort: random.below(65536),
    payload,
  };
  switch (random.below(4)) {
    case 0:
      return { protocol: 17, bytes: udp(ports) };
    case 1:
      return { protocol: 17, bytes: udp({ ...ports, noChecksum: true }) };
    case 2:
      return { protocol: 1, bytes: icmp(8, 0, random.u32(), payload) };
    default:
      return {
        protocol: 6,
        bytes: tcp({ ...ports, seq: random.u32(), options: hex('0101080a0000000100000002') }),
      };
  }
}

change('2501: source second becomes first, every checksum stays right, twenty thousand random packets', () =>
  seeded((random) => {
    const notice = new ChangeNotice(NAMED);
    const back = new ChangeNotice({ first: NAMED.second, second: NAMED.first });
    for (let i = 0; i < 20_000; i++) {
      const { protocol, bytes } = makeTransport(random, SECOND, CLIENT);
      const options = random.below(3) === 0 ? hex('94040000 01010100') : Buffer.alloc(0);
      const tags = random.below(4) === 0 ? [7] : [];
      const fields = { source: SECOND, destination: CLIENT, protocol, payload: bytes, options };
      const before = packet(ipv4(fields), { padTo: 60, tags });
      const shift = random.below(5);
      const held = Buffer.concat([Buffer.alloc(shift), before]);
      assert.ok(notice.rewriteOutbound(held, shift, before.length));
      const after = held.subarray(shift);
      const untagged = tags.length === 0 ? after : Buffer.concat([after.subarray(0, 22), after.subarray(26)]);
      assert.ok(checksumsRight(untagged), `packet ${i}`);
      assert.is(untagged.subarray(36, 40).join('.'), FIRST);
      // The reverse notice restores it, except for the one ambiguity of ones' complement: 0000 and ffff.
      assert.ok(back.rewriteOutbound(held, shift, before.length));
      assert.equal(after, before, `packet ${i} restored`);
    }
    assert.is(notice.counters.rewritten, 20_000);
  }),
);

change('every value of a checksum field, 0000 and ffff included, stays right', () => {
  const notice = new ChangeNotice(NAMED);
  for (let word = 0; word <= 0xffff; word++) {
    const payload = u16(word);
    const bytes = udp({ source: SECOND, destination: CLIENT, sourcePort: 7, destinationPort: 9, payload });
    const it = packet(ipv4({ source: SECOND, destination: CLIENT, protocol: 17, payload: bytes }));
    notice.rewriteOutbound(it, 0, it.length);
    if (!checksumsRight(it)) assert.unreachable(`payload ${word.toString(16)}`);
    if (it.readUInt16BE(24 + 20 + 6) === 0)
      assert.unreachable(`payload ${word.toString(16)} lost its checksum`);
  }
});

change('a damaged packet stays damaged', () => {
  const notice = new ChangeNotice(NAMED);
  const segment = tcp({ source: SECOND, destination: CLIENT, sourcePort: 80, destinationPort: 4000 });
  segment[4]! ^= 1;
  const it = packet(ipv4({ source: SECOND, destination: CLIENT, protocol: 6, payload: segment }));
  assert.ok(notice.rewriteOutbound(it, 0, it.length));
  assert.not.ok(checksumsRight(it));
});

change('claims 5 and 10: exactly the packets whose source is the second address', () =>
  seeded((random) => {
    const notice = new ChangeNotice(NAMED);
    for (const source of [FIRST, CLIENT, '10.77.0.13', '10.77.1.12', '0.0.0.0']) {
      const { protocol, bytes } = makeTransport(random, source, SECOND);
      const it = packet(ipv4({ source, destination: SECOND, protocol, payload: bytes }));
      const before = Buffer.from(it);
      assert.not.ok(notice.rewriteOutbound(it, 0, it.length), source);
      assert.equal(it, before);
    }
    assert.is(notice.counters.rewritten, 0);
  }),
);

change('a zero UDP checksum is untouched', () => {
  const notice = new ChangeNotice(NAMED);
  const bytes = udp({
    source: SECOND,
    destination: CLIENT,
    sourcePort: 1,
    destinationPort: 2,
    noChecksum: true,
  });
  const it = packet(ipv4({ source: SECOND, destination: CLIENT, protocol: 17, payload: bytes }), {
    padTo: 60,
  });
  assert.ok(notice.rewriteOutbound(it, 0, it.length));
  assert.is(it.readUInt16BE(24 + 20 + 6), 0);
});

change('NEEDS_CSUM: the field is a pseudo-header sum and the link completes it to a right checksum', () =>
  seeded((random) => {
    const notice = new ChangeNotice(NAMED);
    for (let i = 0; i < 2_000; i++) {
      const isTcp = random.below(2) === 0;
      const ports = {
        source: SECOND,
        destination: CLIENT,
        sourcePort: random.below(65536),
        destinationPort: 80,
        payload: Buffer.from(random.fill(new Uint8Array(random.below(100)))),
      };
      const bytes = isTcp ? tcp(ports) : udp(ports);
      const protocol = isTcp ? 6 : 17;
      const field = isTcp ? 16 : 6;
      bytes.writeUInt16BE(~plainChecksum(pseudo4(SECOND, CLIENT, protocol, bytes.length)) & 0xffff, field);
      const it = packet(ipv4({ source: SECOND, destination: CLIENT, protocol, payload: bytes }));
      it[0] = 1;
      it.writeUInt16LE(34, 6);
      it.writeUInt16LE(field, 8);
      if (isTcp) {
        it[1] = 1;
        it.writeUInt16LE(54, 2);
        it.writeUInt16LE(40, 4);
      }
      const offload = Buffer.from(it.subarray(0, 10));
      assert.ok(notice.rewriteOutbound(it, 0, it.length));
      assert.equal(it.subarray(0, 10), offload);
      // What the link does: sum from csum_start to the end, the field included.
      it.writeUInt16BE(plainChecksum(it.subarray(10 + 34)), 10 + 34 + field);
      assert.ok(checksumsRight(it), `packet ${i}`);
    }
  }),
);

change('a fragment that is not the first keeps its payload; the first has its UDP checksum changed', () => {
  const notice = new ChangeNotice(NAMED);
  const payload = Buffer.alloc(400, 0x5a);
  const ports = { source: SECOND, destination: CLIENT, sourcePort: 5, destinationPort: 6, payload };
  const whole = udp(ports);
  const fields = { source: SECOND, destination: CLIENT, protocol: 17 };
  const head = packet(ipv4({ ...fields, payload: whole.subarray(0, 200), fragment: 0x2000 }));
  const tail = packet(ipv4({ ...fields, payload: whole.subarray(200), fragment: 25 }));
  assert.ok(notice.rewriteOutbound(head, 0, head.length));
  assert.ok(notice.rewriteOutbound(tail, 0, tail.length));
  assert.equal(tail.subarray(44), whole.subarray(200));
  const joined = ipv4({
    source: FIRST,
    destination: CLIENT,
    protocol: 17,
    payload: Buffer.concat([head.subarray(44), tail.subarray(44)]),
  });
  assert.ok(checksumsRight(packet(joined)));
});

/** What the client's router quotes: a packet that left with source first. */
function quoted(source: string, destination: string, bytes: number): Buffer {
  const segment = tcp({
    source,
    destination,
    sourcePort: 80,
    destinationPort: 4000,
    payload: Buffer.alloc(30, 3),
  });
  return ipv4({ source, destination, protocol: 6, payload: segment }).subarray(0, bytes);
}

change('inbound ICMP errors that quote rewritten packets are undone, short and long quotes', () => {
  for (const bytes of [28, 36, 38, 40, 60]) {
    const notice = new ChangeNotice(NAMED);
    const message = icmp(3, 4, 1400, quoted(FIRST, CLIENT, bytes));
    const it = packet(ipv4({ source: '10.0.0.254', destination: FIRST, protocol: 1, payload: message }));
    assert.ok(notice.rewriteInbound(it, 0, it.length));
    assert.ok(checksumsRight(it), `quote of ${bytes}`);
    assert.equal(it.subarray(52), quoted(SECOND, CLIENT, bytes), `quote of ${bytes}`);
    assert.equal([notice.counters.undone, notice.counters.quotesUndone], [1, 1]);
  }
});

change('outbound ICMP errors quote what the client sent: to the first address', () => {
  const notice = new ChangeNotice(NAMED);
  const message = icmp(3, 3, 0, quoted(CLIENT, SECOND, 48));
  const it = packet(ipv4({ source: SECOND, destination: CLIENT, protocol: 1, payload: message }));
  assert.ok(notice.rewriteOutbound(it, 0, it.length));
  assert.ok(checksumsRight(it));
  assert.equal(it.subarray(52), quoted(CLIENT, FIRST, 48));
  assert.equal([notice.counters.rewritten, notice.counters.quotesRewritten], [1, 1]);
});

change('ARP: left alone from the second address, recognised when it would announce the first', () => {
  const notice = new ChangeNotice(NAMED);
  const question = packet(arp(1, '020000000002', SECOND, '000000000000', CLIENT), {
    type: 0x0806,
    padTo: 60,
  });
  const before = Buffer.from(question);
  assert.not.ok(notice.rewriteOutbound(question, 0, question.length));
  assert.equal(question, before);
  assert.not.ok(notice.announcesFirst(question, 0, question.length));
  for (const operation of [1, 2]) {
    const claim = packet(arp(operation, '020000000002', FIRST, '000000000000', FIRST), { type: 0x0806 });
    assert.ok(notice.announcesFirst(claim, 0, claim.length));
  }
});

change('inbound: destination first becomes second; out and back is the identity', () =>
  seeded((random) => {
    const notice = new ChangeNotice(NAMED);
    for (let i = 0; i < 2_000; i++) {
      const { protocol, bytes } = makeTransport(random, CLIENT, FIRST);
      const it = packet(ipv4({ source: CLIENT, destination: FIRST, protocol, payload: bytes }));
      const before = Buffer.from(it);
      assert.ok(notice.rewriteInbound(it, 0, it.length));
      assert.is(it.subarray(40, 44).join('.'), SECOND);
      assert.ok(checksumsRight(it));
      const reverse = new ChangeNotice({ first: NAMED.second, second: NAMED.first });
      assert.ok(reverse.rewriteInbound(it, 0, it.length));
      assert.equal(it, before);
    }
  }),
);

change('IPv6: TCP, ICMPv6 echo and quoted packets, by full recomputation', () => {
  const first = ipAddress('fd00:77::11');
  const second = ipAddress('fd00:77::12');
  const client = 'fd007700000000000000000000000001';
  const notice = new ChangeNotice({ first, second });
  const header = (source: string, destination: string, next: number, length: number) =>
    Buffer.concat([hex('60000000'), u16(length), Buffer.from([next, 64]), hex(source), hex(destination)]);
  const pseudo = (source: string, destination: string, next: number, length: number) =>
    Buffer.concat([hex(source), hex(destination), u16(0), u16(length), u16(0), Buffer.from([0, next])]);
  const make = (source: string, destination: string, next: number, body: Buffer, field: number) => {
    const bytes = Buffer.from(body);
    bytes.writeUInt16BE(0, field);
    bytes.writeUInt16BE(plainChecksum(pseudo(source, destination, next, bytes.length), bytes), field);
    return Buffer.concat([header(source, destination, next, bytes.length), bytes]);
  };
  const segment = tcp({ source: CLIENT, destination: FIRST, sourcePort: 80, destinationPort: 9 });
  const echo = hex('8100000012340001aabbcc');
  for (const [next, body, field] of [
    [6, segment, 16],
    [58, echo, 2],
  ] as const) {
    const it = packet(make(String(second), client, next, body, field), { type: 0x86dd });
    assert.ok(notice.rewriteOutbound(it, 0, it.length));
    assert.equal(it, packet(make(String(first), client, next, body, field), { type: 0x86dd }));
  }
  const error = (quoteSource: string, to: string) =>
    make(
      client,
      to,
      58,
      Buffer.concat([hex('0200000000000500'), make(quoteSource, client, 6, segment, 16)]),
      2,
    );
  const it = packet(error(String(first), String(first)), { type: 0x86dd });
  assert.ok(notice.rewriteInbound(it, 0, it.length));
  assert.equal(it, packet(error(String(second), String(second)), { type: 0x86dd }));
});

change('neighbour advertisements are left alone and recognised', () => {
  const first = ipAddress('fd00:77::11');
  const notice = new ChangeNotice({ first, second: ipAddress('fd00:77::12') });
  const advertise = (target: string) => {
    const body = Buffer.concat([hex('88000000 20000000'), hex(target)]);
    const ip = Buffer.concat([
      hex('60000000 0018 3aff'),
      hex(String(notice.second)),
      hex('ff02'),
      Buffer.alloc(14),
      body,
    ]);
    return packet(ip, { type: 0x86dd });
  };
  const about = advertise(String(first));
  assert.not.ok(notice.rewriteOutbound(about, 0, about.length));
  assert.ok(notice.announcesFirst(about, 0, about.length));
  const own = advertise(String(notice.second));
  assert.not.ok(notice.announcesFirst(own, 0, own.length));
});

change(
  'truncated at every byte and mutated at random: never throws, never writes outside its range',
  within(() =>
    seeded((random) => {
      const notice = new ChangeNotice(NAMED);
      const message = icmp(3, 3, 0, quoted(CLIENT, SECOND, 48));
      const whole = packet(ipv4({ source: SECOND, destination: CLIENT, protocol: 1, payload: message }), {
        tags: [1],
      });
      for (let length = 0; length <= whole.length; length++) {
        const held = Buffer.alloc(whole.length + 64, 0xee);
        whole.copy(held, 0, 0, length);
        notice.rewriteOutbound(held, 0, length);
        notice.announcesFirst(held, 0, length);
        assert.ok(
          held.subarray(length).every((byte) => byte === 0xee),
          `length ${length}`,
        );
      }
      for (let i = 0; i < 20_000; i++) {
        const { protocol, bytes } = makeTransport(random, SECOND, CLIENT);
        const it = packet(ipv4({ source: SECOND, destination: CLIENT, protocol, payload: bytes }));
        for (let k = random.below(6); k >= 0; k--) it[random.below(it.length)] = random.below(256);
        const held = Buffer.concat([it, Buffer.alloc(64, 0xee)]);
        const length = random.below(it.length + 1);
        const beyond = Buffer.from(held.subarray(length));
        notice.rewriteOutbound(held, 0, length);
        notice.rewriteInbound(held, 0, length);
        assert.equal(held.subarray(length), beyond);
      }
    }),
  ),
);

change(
  'IPv6, mutated at random with chains of extension headers: never throws, never writes outside its range',
  within(() =>
    seeded((random) => {
      const notice = new ChangeNotice({ first: ipAddress('fd00::11'), second: ipAddress('fd00::12') });
      const kinds = [0, 43, 44, 60, 51, 6, 17, 58, 59];
      for (let i = 0; i < 20_000; i++) {
        const body = Buffer.from(random.fill(new Uint8Array(random.below(160))));
        for (let at = 0; at + 8 <= body.length; at += 8) {
          body[at] = kinds[random.below(kinds.length)]!;
          body[at + 1] = random.below(3);
        }
        const header = Buffer.concat([
          hex('60000000'),
          u16(random.below(200)),
          Buffer.from([kinds[i % 9]!, 64]),
        ]);
        const addresses = Buffer.concat([hex(String(notice.second)), hex(String(notice.first))]);
        const it = packet(Buffer.concat([header, addresses, body]), { type: 0x86dd });
        if (random.below(2) === 0) it[0] = 1;
        const held = Buffer.concat([it, Buffer.alloc(64, 0xee)]);
        const length = random.below(2) === 0 ? it.length : random.below(it.length + 1);
        const beyond = Buffer.from(held.subarray(length));
        notice.announcesFirst(held, 0, length);
        notice.rewriteOutbound(held, 0, length);
        notice.rewriteInbound(held, 0, length);
        assert.equal(held.subarray(length), beyond);
      }
      assert.ok(notice.counters.rewritten > 5_000 && notice.counters.undone > 5_000);
    }),
  ),
);

change('a notice needs two different addresses of one family', () => {
  const first = ipAddress(FIRST);
  const wrong = (second: string) => () => new ChangeNotice({ first, second: cidr(second).address });
  assert.throws(wrong(FIRST), (error: unknown) => error instanceof ChangeNoticeError);
  assert.throws(
    wrong('fd00::1'),
    (error: unknown) => (error as ChangeNoticeError).code === 'CHANGE_NOTICE_INVALID',
  );
});

change.run();
