import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { AddressKeys, ipv4Key, isIpv6Key, NOBODY } from '../../../src/hypervisor/mux/address-keys.ts';
import { FlowTable } from '../../../src/hypervisor/mux/flow-table.ts';
import { formatIpAddress, ipAddress } from '../../../src/netstack/index.ts';
import { ip6 } from '../../netstack/packets6.ts';
import { seeded, within } from '../../support/index.ts';

const test = suite('hypervisor/mux/address-keys');

test(
  'an IPv4 address is its own key and never one of an IPv6 address',
  within(() => {
    const keys = new AddressKeys();
    const six = keys.keep(ipAddress('fd00::11'));
    assert.ok(isIpv6Key(six));
    assert.is(keys.keep(ipAddress('10.77.0.11')), 0x0a4d000b);
    assert.is(formatIpAddress(keys.addressOf(six)), 'fd00::11');
    assert.is(formatIpAddress(keys.addressOf(keys.keep(ipAddress('200.1.2.3')))), '200.1.2.3');
    for (let last = 1; last < 256; last++) assert.not(isIpv6Key(ipv4Key(Uint8Array.of(0, 0, 0, last), 0)));
    assert.is(ipv4Key(new Uint8Array(4), 0), NOBODY);
  }),
);

test(
  'looking up leaves nothing behind; a kept address stays, a flow’s goes with its last flow',
  within(() =>
    seeded((random) => {
      const keys = new AddressKeys(random.u32());
      const flows = new FlowTable({ addresses: keys, capacity: 512 });
      const service = keys.keep(ipAddress('fd00::11'));
      const text = (i: number) => `fd00::1:${i.toString(16)}`;
      /** Addresses by number of flows, as a model. */
      const model = new Map<string, number[]>();
      for (let step = 0; step < 20_000; step++) {
        const name = text(random.below(900));
        const list = model.get(name) ?? [];
        if (random.below(2) === 0 && flows.size < 512) {
          const key = keys.add(ip6(name), 0);
          const flow = flows.insert(service, key, step, 6, false, 0);
          list.push(flow);
          model.set(name, list);
        } else if (list.length > 0) {
          const flow = list.splice(random.below(list.length), 1)[0]!;
          assert.is(formatIpAddress(keys.addressOf(flows.remote[flow]!)), name);
          flows.remove(flow);
        }
        const key = keys.find(ip6(name), 0);
        assert.is(key !== NOBODY, list.length > 0, name);
        if (list[0] !== undefined) assert.is(flows.remote[list[0]], key);
      }
      const used = [...model.values()].filter((list) => list.length > 0).length;
      assert.is(keys.size, used + 1);
    }),
  ),
);

test(
  'a flow that makes room for another one of the same address does not take its key along',
  within(() => {
    const keys = new AddressKeys();
    const flows = new FlowTable({ addresses: keys, capacity: 1 });
    const service = keys.keep(ipAddress('fd00::11'));
    const remote = keys.add(ip6('fd00::50'), 0);
    flows.insert(service, remote, 1, 17, false, 0);
    const flow = flows.insert(service, keys.find(ip6('fd00::50'), 0), 2, 17, false, 0);
    assert.is(keys.find(ip6('fd00::50'), 0), flows.remote[flow]);
    flows.remove(flow);
    assert.is(keys.find(ip6('fd00::50'), 0), NOBODY);
  }),
);

test.run();
