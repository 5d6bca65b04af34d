import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { countMissing, entriesOnDisk, fileSystemFault } from '../../src/cli/demo/proof.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, run, within } from '../support/index.ts';
import { allOnDisk } from './support/entries.ts';
import { ask, Site, version } from './support/site.ts';

const changeover = liveSuite('live/changeover');

async function withSite(body: (site: Site) => Promise<void>, options = {}): Promise<void> {
  const site = await Site.open(options);
  try {
    await body(await site.up());
  } catch (error) {
    console.error(site.output);
    throw error;
  } finally {
    await site.close();
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }
}

/** Numbered entries by one keep-alive client each until told to stop; what was acknowledged. */
function writers(count: number) {
  let stopped = false;
  const acknowledged: [number, string][] = [];
  const failures: string[] = [];
  const tasks = Array.from({ length: count }, async (_value, writer) => {
    for (let i = 0; !stopped; i++) {
      const text = `w${writer}-${i}`;
      try {
        const answer = await ask('/entries', text);
        if (answer.status === 201) acknowledged.push([(JSON.parse(answer.body) as { n: number }).n, text]);
        else failures.push(`${answer.status} ${answer.body}`);
      } catch (error) {
        failures.push(String(error));
        stopped ||= failures.length > 20;
      }
    }
  });
  const load = {
    acknowledged,
    failures,
    stop: async () => {
      stopped = true;
      await Promise.all(tasks);
    },
  };
  open.add(load);
  return load;
}

/** Writers that a failed test left running. */
const open = new Set<{ stop(): Promise<void> }>();
changeover.after.each(async () => {
  for (const load of open) await load.stop();
  open.clear();
});

changeover(
  'hold: wrk and writers see no failure, entries are on the disk that serves, again after the rollback',
  within(
    () =>
      withSite(async (site) => {
        await site.flagPatch();
        const load = writers(3);
        const wrk = run('wrk', ['-t1', '-c16', '-d12s', '--latency', 'http://10.77.0.11/version']);
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
        await site.reached(id, 'probation');
        assert.is(await version(), '1.0.1');
        assert.is((await ask('/reports/..%2F..%2F..%2Fetc%2Fledger.secret')).status, 400);
        const onNew = [...load.acknowledged];
        await allOnDisk(onNew, site.scene.image('B', 'application'));
        await site.api.post(`/runs/${id}/rollback`);
        const report = await site.reached(id, 'rolled-back');
        assert.is(await version(), '1.0.0');
        await load.stop();
        const { stdout } = await wrk;
        assert.not.match(stdout, /Socket errors|Non-2xx/, stdout);
        assert.equal(load.failures, []);
        assert.ok(load.acknowledged.length > onNew.length, 'nothing was written after the cut');
        assert.is(
          countMissing(load.acknowledged, await entriesOnDisk(site.scene.image('A', 'application'))),
          0,
        );
        assert.ok(existsSync(report.capture ?? ''), 'no capture');
      }),
    90_000,
  ),
);

changeover(
  'overlap: readers and a stream in flight are finished by the old partition, its packets rewritten',
  within(
    () =>
      withSite(async (site) => {
        await site.flagPatch();
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'overlap', prepareOnly: true });
        await site.reached(id, 'ready');
        const stream = ask('/slow');
        const wrk = run('wrk', ['-t1', '-c8', '-d4s', 'http://10.77.0.11/version']);
        await new Promise((resolve) => setTimeout(resolve, 300));
        await site.api.post(`/runs/${id}/cut`);
        await site.reached(id, 'probation');
        assert.is(await version(), '1.0.1');
        assert.match((await stream).body, /line 20 of 20/);
        const { stdout } = await wrk;
        assert.not.match(stdout, /Socket errors|Non-2xx/, stdout);
        await site.api.post(`/runs/${id}/commit`);
        const report = await site.reached(id, 'committed');
        assert.ok((report.cut?.packets.rewritten ?? 0) > 0, 'no packet was rewritten');
        const tshark = await run('tshark', [
          '-r',
          report.capture ?? '',
          '-Y',
          'frame.comment contains "change notice"',
        ]);
        assert.match(tshark.stdout, /10\.77\.0\.11/);
        // Fig 26: the old partition sends from its second address (B), the uplink carries the first one (C).
        const sources = async (filter: string) =>
          new Set(
            (
              await run('tshark', ['-r', report.capture ?? '', '-Y', filter, '-T', 'fields', '-e', 'ip.src'])
            ).stdout
              .split(/\s+/)
              .filter((text) => text !== ''),
          );
        const rewritten = 'frame.comment matches "change notice .*source"';
        assert.equal([...(await sources(`${rewritten} && frame.interface_name == "co0"`))], ['10.77.0.11']);
        const sent = await sources('frame.interface_name == "A-net1" && tcp.srcport == 80');
        assert.ok(sent.has('10.77.0.12'), 'the old partition never sent from its second address');
        const left = await sources('frame.interface_name == "co0" && tcp.srcport == 80');
        assert.equal([...left], ['10.77.0.11'], 'the second address left through the uplink');
        assert.is(tshark.stderr.replace(/Running as user.*\n/, ''), '');
      }),
    60_000,
  ),
);

changeover(
  'overlap on a disk that is being written is refused, the run stays ready and hold can be used',
  within(
    () =>
      withSite(async (site) => {
        await site.flagPatch();
        const load = writers(1);
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'overlap', prepareOnly: true });
        await site.reached(id, 'ready');
        await site.api.post(`/runs/${id}/cut`);
        const refused = await site.settled(id);
        assert.is(refused.error?.code, 'not-quiet');
        assert.is(refused.phase, 'ready');
        await load.stop();
        assert.equal(load.failures, []);
      }),
    60_000,
  ),
);

changeover(
  'a patch that does not apply: the run is undone with the reason, the active serves on, the standby is free',
  within(
    () =>
      withSite(async (site) => {
        const diff =
          '--- a/srv/ledger/server.mjs\n+++ b/srv/ledger/server.mjs\n@@ -1,1 +1,1 @@\n-not there\n+at all\n';
        putPatch(site, 'wrong.diff', diff);
        await site.flagPatch('wrong.diff');
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
        const undone = await site.settled(id);
        assert.is(undone.phase, 'undone');
        assert.is(undone.error?.code, 'patch-failed');
        assert.match(undone.reason ?? '', /wrong\.diff/);
        assert.is(await version(), '1.0.0');
        await site.flagPatch();
        await site.api.post('/patches/wrong.diff/unflag');
        const next = await site.api.post<RunView>('/runs', { strategy: 'hold' });
        await site.reached(next.id, 'probation');
        assert.is(await version(), '1.0.1');
      }),
    60_000,
  ),
);

changeover(
  'an application that does not come up on the standby: nobody was moved, no request failed',
  within(
    () =>
      withSite(async (site) => {
        const source = readFileSync(
          join(import.meta.dirname, '../../examples/ledger/server.mjs'),
          'utf8',
        ).split('\n');
        const at = source.findIndex((line) => line.startsWith('const VERSION'));
        const context = source.slice(at - 3, at + 4);
        const diff = [
          '--- a/srv/ledger/server.mjs',
          '+++ b/srv/ledger/server.mjs',
          `@@ -${at - 2},7 +${at - 2},7 @@`,
          ...context.slice(0, 3).map((line) => ` ${line}`),
          `-${context[3]}`,
          "+throw new Error('this patch is broken');",
          ...context.slice(4).map((line) => ` ${line}`),
          '',
        ].join('\n');
        putPatch(site, 'broken.diff', diff);
        await site.flagPatch('broken.diff');
        const load = writers(2);
        const wrk = run('wrk', ['-t1', '-c8', '-d8s', 'http://10.77.0.11/version']);
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
        const undone = await site.settled(id);
        assert.is(undone.phase, 'undone');
        assert.match(undone.reason ?? '', /this patch is broken/);
        const { stdout } = await wrk;
        await load.stop();
        assert.not.match(stdout, /Socket errors|Non-2xx/, stdout);
        assert.equal(load.failures, []);
        assert.is(await version(), '1.0.0');
        assert.is(
          countMissing(load.acknowledged, await entriesOnDisk(site.scene.image('A', 'application'))),
          0,
        );
      }),
    60_000,
  ),
);

changeover(
  'the disk of the standby is full: the copy is given up, the active serves and writes on',
  within(async () => {
    const mounts: string[] = [];
    try {
      await withSite(
        async (site) => {
          await site.flagPatch();
          const load = writers(2);
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          const undone = await site.settled(id);
          assert.is(undone.phase, 'undone');
          assert.match(undone.reason ?? '', /space|ENOSPC|full/i);
          await load.stop();
          assert.equal(load.failures, []);
          assert.is(await version(), '1.0.0');
          await run('umount', ['-l', mounts[0] ?? '']);
        },
        {
          configure: (text: string, scene: Site['scene']) =>
            text.replaceAll(join(scene.directory, 'images/B-'), join(scene.directory, 'small/B-')),
          arrange: async (scene: Site['scene']) => {
            const small = join(scene.directory, 'small');
            await run('mkdir', [small]);
            await run('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', small]);
            mounts.push(small);
          },
        },
      );
    } finally {
      for (const mount of mounts) await run('umount', ['-l', mount]).catch(() => {});
    }
  }, 60_000),
);

changeover(
  'a system disk that is no ext4: the daemon says so and what to do, and leaves nothing behind',
  within(async () => {
    const site = await Site.open({
      arrange: (scene) => writeFileSync(scene.image('A', 'system'), Buffer.alloc(32 * 1024 * 1024, 7)),
    });
    try {
      const complaint = await eventually(
        'a complaint',
        async () => {
          try {
            const { complaints } = await site.api.get<{ complaints: string[] }>('/status');
            return complaints.find((text) => text.includes('ext4'));
          } catch {
            return undefined;
          }
        },
        20_000,
      );
      assert.match(complaint, /partition A/);
    } finally {
      await site.close();
    }
    assert.equal(site.leftBehind(), []);
  }, 40_000),
);

changeover(
  'every disk is clean for e2fsck after a changeover and a rollback',
  within(async () => {
    const site = await Site.open();
    try {
      await site.up();
      await site.flagPatch();
      for (let i = 0; i < 20; i++) await ask('/entries', `entry ${i}`);
      const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
      await site.reached(id, 'probation');
      for (let i = 0; i < 20; i++) await ask('/entries', `later ${i}`);
      await site.api.post(`/runs/${id}/rollback`);
      await site.reached(id, 'rolled-back');
      const exited = new Promise((done) => site.daemon.once('exit', done));
      site.daemon.kill('SIGTERM');
      await exited;
      for (const partition of ['A', 'B'] as const) {
        for (const role of ['system', 'application'] as const) {
          assert.is(
            await fileSystemFault(site.scene.image(partition, role)),
            undefined,
            `${partition} ${role}`,
          );
        }
      }
    } finally {
      await site.close();
    }
    assert.equal(site.leftBehind(), []);
  }, 60_000),
);

function putPatch(site: Site, file: string, text: string): void {
  writeFileSync(join(site.scene.patchSource, file), text);
  writeFileSync(
    join(site.scene.patchSource, `${file}.json`),
    JSON.stringify({
      file,
      name: file,
      kind: 'diff',
      type: 'correction',
      sha256: createHash('sha256').update(text).digest('hex'),
    }),
  );
}
changeover.run();
