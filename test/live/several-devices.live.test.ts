/**
 * A service with addresses on two network devices of its partitions: one behind a TAP, one behind a NIC, in networks of their own and in
 * both families. It moves there and back by every way, each move committed, while clients of all addresses ask.
 */
import { statSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk } from '../../src/cli/demo/proof.ts';
import type { NetworkView } from '../../src/daemon/control/network.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { liveSuite, run, within } from '../support/index.ts';
import { KeepAlive } from './support/keep-alive.ts';
import { Site } from './support/site.ts';

const devices = liveSuite('live/several-devices');

const HOSTS = ['10.77.0.11', '10.88.0.11', 'fd00:88::11'];
const WAYS = [
  { strategy: 'hold', procedure: 'H6' },
  { strategy: 'overlap', procedure: 'H8' },
  { strategy: 'drain', procedure: 'H6' },
  { strategy: 'hold', procedure: 'H7' },
] as const;

function twoDevices(text: string): string {
  return text
    .replace('pauseMs: 5000', 'pauseMs: 20000')
    .replace('quiesceMs: 500', 'quiesceMs: 5000, drainMs: 8000')
    .replace('network:', 'network:\n  historyMiB: 2')
    .replace(/(uplinks:\n.*)/, '$1\n    - {name: nic1, kind: nic, mtu: 1400}')
    .replace(
      'probe: {address: 10.77.0.254/24',
      'probe: {address: 10.77.0.254/24, also: [10.88.0.254/24, "fd00:88::fe/64"]',
    )
    .replace(
      '    active: A',
      `    also:
      - {address: 10.88.0.11/24, second: 10.88.0.12/24, device: net2, gateway: 10.88.0.1}
      - {address: "fd00:88::11/64", second: "fd00:88::12/64", device: net2}
    active: A`,
    )
    .replace(
      /(- \{name: net1, mac: "02:00:00:00:00:)(0[ab])"\}/g,
      '$1$2"}\n      - {name: net2, uplink: nic1, mac: "02:00:00:00:01:$2"}',
    )
    .replace('stabilityMs: 5000', 'stabilityMs: 60000');
}

/** A veth pair stands for the NIC and the network behind it. */
async function wire(): Promise<void> {
  await run('ip', ['link', 'add', 'nic1', 'type', 'veth', 'peer', 'name', 'net88']);
  await run('ip', ['addr', 'add', '10.88.0.1/24', 'dev', 'net88']);
  await run('ip', ['addr', 'add', 'fd00:88::1/64', 'dev', 'net88', 'nodad']);
  for (const end of ['nic1', 'net88']) await run('ip', ['link', 'set', end, 'up']);
}

devices(
  'hold, overlap, drain and H7 move addresses of two devices together: no request fails, no connection is lost, nothing written is missing',
  within(async () => {
    const site = await Site.open({ configure: twoDevices, arrange: wire });
    let writing = true;
    try {
      await site.up();
      const clients = new KeepAlive(HOSTS, 5, (i) =>
        writing && i % 3 === 0 ? { path: '/entries', body: `entry ${i}` } : { path: '/version' },
      );
      try {
        for (const way of WAYS) {
          writing = way.strategy !== 'overlap';
          await clients.answered(30);
          const { id } = await site.api.post<RunView>('/runs', {
            ...way,
            withoutPatches: true,
            prepareOnly: true,
          });
          await site.reached(id, 'ready');
          const stream = clients.once(HOSTS[1]!, '/slow');
          // Its first line is out, so it is in flight on the second device.
          await clients.answered(60);
          await site.api.post(`/runs/${id}/cut`);
          const cut = await site.reached(id, 'probation');
          // At once: what is still connected to the old partition must not write to its disk.
          writing = true;
          assert.is(`${cut.strategy} ${cut.procedure}`, `${way.strategy} ${way.procedure}`);
          for (const file of ['before-cut.pcapng', 'cut.pcapng'])
            assert.ok(statSync(join(cut.evidence, file)).size > 1000, file);
          assert.match((await stream).body, /line 20 of 20/);
          await clients.answered(60);
          await site.api.post(`/runs/${id}/commit`);
          await site.reached(id, 'committed');
          assert.equal(clients.failures, [], JSON.stringify(way));
        }
        // And back, with what was written since.
        writing = true;
        const { id } = await site.api.post<RunView>('/runs', { ...WAYS[0], withoutPatches: true });
        await site.reached(id, 'probation');
        await clients.answered(60);
        await site.api.post(`/runs/${id}/rollback`);
        await site.reached(id, 'rolled-back');
        await clients.answered(60);
      } finally {
        await clients.stop();
      }
      assert.equal(clients.failures, []);
      assert.equal([...clients.reconnected], [], 'connections were lost');
      for (const host of HOSTS) {
        assert.ok(
          clients.answers.filter((got) => got.host === host).length > 100,
          `${host} was asked too little`,
        );
      }
      const { ports } = await site.api.get<NetworkView>('/network');
      for (const name of ['A-net1', 'A-net2', 'B-net1', 'B-net2']) {
        const passed = ports.find((port) => port.name === name);
        assert.ok(
          (passed?.received ?? 0) > 100 && (passed?.transmitted ?? 0) > 100,
          `${name} was hardly used`,
        );
      }
      const status = await site.api.get<{ services: { active: 'A' | 'B' }[] }>('/status');
      const written = clients.answers.flatMap(({ body, sent }): [number, string][] =>
        sent === undefined ? [] : [[(JSON.parse(body) as { n: number }).n, sent]],
      );
      const found = await entriesOnDisk(site.scene.image(status.services[0]!.active, 'application'));
      assert.is(countMissing(written, found), 0);
    } catch (error) {
      throw new Error(`${(error as Error).stack}\n${site.output}\n${site.logs}`);
    } finally {
      await site.close();
      await run('ip', ['link', 'del', 'nic1']).catch(() => {});
    }
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }, 150_000),
);

devices.run();
