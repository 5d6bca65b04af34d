/** Partitions with two network devices, each behind an uplink of its own: their addresses move in one operation. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ipv4Address, macAddress } from '../../../src/netstack/index.ts';
import { within } from '../../support/index.ts';
import {
  bench,
  dropsOf,
  established,
  FLAG,
  fromClient,
  SECOND,
  SERVICE,
  TestDevice,
  tcp,
  toClient,
} from './harness.ts';

const test = suite('hypervisor/mux/several-devices');

const SERVICE2 = '10.88.0.11';
const SECOND2 = '10.88.0.12';
const CLIENT2 = '10.88.0.50';
const MAC2 = { a: '02:00:00:00:01:0a', b: '02:00:00:00:01:0b', client: '02:00:00:00:01:01' } as const;

function scene() {
  const b = bench();
  const up2 = new TestDevice('up2');
  const a2 = new TestDevice('a2');
  const b2 = new TestDevice('b2');
  b.mux.addPort({ name: 'up2', kind: 'tap', role: 'uplink', device: up2 });
  for (const [name, device, mac] of [
    ['a2', a2, MAC2.a],
    ['b2', b2, MAC2.b],
  ] as const) {
    b.mux.addPort({
      name,
      kind: 'stream',
      role: 'partition',
      device,
      mac: macAddress(mac),
      addresses: [SERVICE2, SECOND2].map(ipv4Address),
      uplink: 'up2',
    });
  }
  b.mux.portState('a2', 'attached');
  b.mux.pathSet({ address: SERVICE2, port: 'a2', uplink: 'up2' });
  return { ...b, up2, a2, b2 };
}

function fromClient2(port: number, flags: number): Uint8Array {
  const ends = { from: CLIENT2, to: SERVICE2, fromMac: MAC2.client, toMac: MAC2.a };
  return tcp({ ...ends, sport: port, dport: 80, flags });
}

function toClient2(port: number, flags: number, from: 'a' | 'b' = 'a', address = SERVICE2): Uint8Array {
  const ends = { from: address, to: CLIENT2, fromMac: MAC2[from], toMac: MAC2.client };
  return tcp({ ...ends, sport: 80, dport: port, flags });
}

function established2(s: ReturnType<typeof scene>, port: number): void {
  s.up2.deliver(fromClient2(port, FLAG.SYN));
  s.a2.deliver(toClient2(port, FLAG.SYN | FLAG.ACK));
  s.up2.deliver(fromClient2(port, FLAG.ACK));
  s.up2.take();
  s.a2.take();
}

const CUT = { address: SERVICE, from: 'a', to: 'b' } as const;

test(
  'both addresses move between ports of their own; old flows stay with the old devices, new ones reach the new ones',
  within(() => {
    const s = scene();
    established(s, 4000);
    established2(s, 5000);
    const command = { ...CUT, also: [{ address: SERVICE2, from: 'a2', to: 'b2', uplink: 'up2' }] };
    const answer = s.mux.switch(command);
    assert.equal(answer, { steered: 1, also: [{ address: SERVICE2, steered: 1 }] });
    assert.equal(s.mux.switch(command), answer, 'repeated: the first answer');
    assert.equal(
      s.mux
        .ports()
        .filter(({ name }) => /^b2?$/.test(name))
        .map(({ state }) => state),
      ['attached', 'attached'],
    );
    s.up.deliver(fromClient(4000, FLAG.ACK), fromClient(4001, FLAG.SYN));
    s.up2.deliver(fromClient2(5000, FLAG.ACK), fromClient2(5001, FLAG.SYN));
    assert.equal(
      [s.a, s.b, s.a2, s.b2].map((device) => device.take().length),
      [1, 1, 1, 1],
    );
    // Each flow's own port may answer, the other may not.
    s.a2.deliver(toClient2(5000, FLAG.ACK));
    s.b2.deliver(toClient2(5001, FLAG.SYN | FLAG.ACK, 'b'), toClient2(5000, FLAG.RST, 'b'));
    assert.is(s.up2.take().length, 2);
    assert.is(dropsOf(s, 'b2')['rst-suppressed'], 1);
    assert.equal(s.up.take().length, 0, 'nothing crosses to the other uplink');
  }),
);

test(
  'each change notice is for the port that the address came from',
  within(() => {
    const s = scene();
    established(s, 4000);
    established2(s, 5000);
    s.mux.switch({
      ...CUT,
      notice: { second: SECOND },
      also: [{ address: SERVICE2, from: 'a2', to: 'b2', notice: { second: SECOND2 } }],
    });
    s.a2.deliver(toClient2(5000, FLAG.ACK, 'a', SECOND2));
    s.a.deliver(toClient(4000, FLAG.ACK, 'a', { from: SECOND }));
    assert.equal(s.up2.texts(), [`tcp ${SERVICE2}:80 > ${CLIENT2}:5000 A`]);
    assert.is(s.up.take().length, 1);
  }),
);

test(
  'a switch that is wrong for one of the ports changes none',
  within(() => {
    const s = scene();
    for (const [also, why] of [
      [{ address: SERVICE2, from: 'a', to: 'b2' }, /is at a2, not at a/],
      [{ address: SERVICE2 }, /is at a2, not at a/],
      [{ address: SERVICE2, from: 'a2', to: 'a2' }, /to itself/],
      [{ address: SERVICE2, from: 'a2', to: 'b3' }, /b3/],
      [{ address: SERVICE2, from: 'a2', to: 'b2', uplink: 'up' }, /up/],
    ] as const) {
      assert.throws(() => s.mux.switch({ ...CUT, also: [also] }), why);
    }
    s.up.deliver(fromClient(4001, FLAG.SYN));
    s.up2.deliver(fromClient2(5001, FLAG.SYN));
    assert.equal(
      [s.a, s.b, s.a2, s.b2].map((device) => device.take().length),
      [1, 0, 1, 0],
    );
  }),
);

test.run();
