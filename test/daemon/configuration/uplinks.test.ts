import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { ConfigurationError, parseConfiguration } from '../../../src/daemon/configuration/index.ts';
import { partitionConfig } from '../../../src/daemon/control/mapping.ts';
import { within } from '../../support/index.ts';

const test = suite('daemon/configuration/uplinks');

/** `uplinks` and the network devices of A and B as flow mappings. */
function text(uplinks: string, a = '', b = ''): string {
  const partition = (id: string, last: string, more: string) =>
    `  - {id: ${id}, processor: {cpu: 0, sharePercent: 50}, memoryMiB: 64, disks: [{role: system, path: ${id}.img}], ` +
    `network: [{name: net0, mac: "02:00:00:00:00:0${last}"${more}}]}\n`;
  return `network:
  uplinks: ${uplinks}
  probe: {address: 10.0.0.9/24}
services: [{name: s, address: 10.0.0.1/24, active: A, health: {http: {port: 80}}}]
partitions:
${partition('A', 'a', a)}${partition('B', 'b', b)}`;
}

function problems(source: string): string[] {
  try {
    parseConfiguration(source, '/x/c.yaml', 'c.yaml');
  } catch (error) {
    if (!(error instanceof ConfigurationError)) throw error;
    return error.problems.map((problem) => problem.message);
  }
  return [];
}

test(
  'a network device names its uplink, an uplink the one that it joins; both reach the resource table and the mux',
  within(() => {
    const c = parseConfiguration(
      text('[{name: co0}, {name: co1}, {name: co2, joins: co1}]', '', ', uplink: co1'),
      '/x/c.yaml',
    );
    assert.equal(
      c.network.uplinks.map((uplink) => uplink.joins),
      [undefined, undefined, 'co1'],
    );
    assert.equal(
      c.partitions.map((partition) => partitionConfig(c, partition).network[0]?.uplink),
      [undefined, 'co1'],
    );
  }),
);

test(
  'names of uplinks that do not exist, or come later, are refused with those that do',
  within(() => {
    assert.equal(problems(text('[{name: co0}, {name: co1}]', ', uplink: co2')), [
      'partitions[0].network[0].uplink is co2, no uplink has this name, allowed: co0, co1',
    ]);
    assert.equal(problems(text('[{name: co0, joins: co1}, {name: co1, joins: co1}]')), [
      'network.uplinks[0].joins is co1, no uplink listed before has this name, allowed: none, it is the first',
      'network.uplinks[1].joins is co1, no uplink listed before has this name, allowed: co0',
    ]);
  }),
);

test(
  'limits of a network device reach the resource table; what they leave out stays out',
  within(() => {
    const given = ', limits: {send: {bytesPerSecond: 12500000}, queueBytes: 262144}';
    const c = parseConfiguration(text('[{name: co0}]', given), '/x/c.yaml');
    assert.equal(partitionConfig(c, c.partitions[0]!).network[0]?.limits, {
      send: { bytesPerSecond: 12_500_000 },
      queueBytes: 262_144,
    });
    assert.is(partitionConfig(c, c.partitions[1]!).network[0]?.limits, undefined);
    assert.equal(problems(text('[{name: co0}]', ', limits: {send: {bytesPerSecond: 5}}')), [
      'partitions[0].network[0].limits.send.bytesPerSecond is 5, allowed: 1000 to 1000000000000',
    ]);
  }),
);

test(
  'a nic has no address of ours for the host',
  within(() => {
    assert.equal(problems(text('[{name: eth0, kind: nic, hostAddress: 10.0.0.5/24}]')), [
      "network.uplinks[0].hostAddress is 10.0.0.5/24, but uplink eth0 is a nic, whose addresses are the host's own affair; leave it out",
    ]);
    const c = parseConfiguration(text('[{name: eth0, kind: nic}]'), '/x/c.yaml');
    assert.is(c.network.uplinks[0]?.kind, 'nic');
  }),
);

test.run();
