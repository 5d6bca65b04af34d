/** Partitions as live interfaces of Wireshark: tshark captures by our extcap program while requests pass. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { eventually, liveSuite, run, within } from '../support/index.ts';
import { ask, ROOT, Site } from './support/site.ts';

const extcap = liveSuite('live/extcap');

extcap(
  'tshark lists the ports, captures at one of them, survives kill -9 of the mux process, and leaves nothing behind',
  within(async () => {
    const site = await Site.open({
      configure: (text) => text.replace('network:', 'network:\n  historyMiB: 1'),
    });
    const folder = join(site.scene.directory, 'extcap');
    mkdirSync(folder);
    symlinkSync(join(ROOT, 'tools/extcap/changeover'), join(folder, 'changeover'));
    const env = { ...process.env, CHANGEOVER_RUN_DIRECTORY: site.scene.runDirectory };
    const { stdout: folders } = await run('tshark', ['-G', 'folders']);
    const theirs = /^Extcap path:\s*(\S+)/m.exec(folders)?.[1];
    // In a mount namespace of its own: the host's folder stays as it is.
    const ours = [
      '--mount',
      'sh',
      '-c',
      'mount --bind "$0" "$1" && shift && exec tshark "$@"',
      folder,
      theirs!,
    ];
    const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith('changeover-extcap-'));
    const before = leftovers();
    try {
      await site.up();
      const { stdout: listed } = await run('unshare', [...ours, '-D'], { env });
      for (const name of ['changeover ', 'changeover-A-net1', 'changeover-co0', 'changeover-probe'])
        assert.ok(listed.includes(name), `${name} is not among:\n${listed}`);
      const fields = ['-T', 'fields', '-e', 'frame.interface_name', '-e', 'http.request.uri'];
      const argv = [
        '-i',
        'changeover-A-net1',
        '-l',
        '-Y',
        'http.request.uri contains "/version?"',
        ...fields,
      ];
      const tshark = spawn('unshare', [...ours, ...argv], { env, stdio: ['ignore', 'pipe', 'pipe'] });
      let lines = '';
      let said = '';
      tshark.stdout.on('data', (part) => (lines += part));
      tshark.stderr.on('data', (part) => (said += part));
      const exited = once(tshark, 'exit');
      let n = 0;
      const seen = (marker: string) =>
        eventually(
          `${marker} to be captured: ${said}`,
          async () => {
            await ask(`/version?${marker}-${n++}`).catch(() => {});
            return lines.includes(`/version?${marker}`);
          },
          30_000,
        );
      await seen('first');
      assert.match(lines.split('\n')[0]!, /^A-net1\t\/version\?first/);
      const processes = await run('pgrep', [
        '-f',
        `mux.* --control ${join(site.scene.runDirectory, 'mux.sock')}`,
      ]);
      process.kill(Number(processes.stdout.trim().split('\n')[0]), 'SIGKILL');
      await seen('again');
      tshark.kill('SIGINT');
      await exited;
      await eventually('the extcap program to end', () => leftovers().length === before.length, 10_000);
      const file = join(site.scene.directory, 'history.pcapng');
      const kept = await site.api.post<{ packets: number }>('/captures/history', { file, ports: ['co0'] });
      const { stdout: frames } = await run('tshark', [
        '-r',
        file,
        '-T',
        'fields',
        '-e',
        'frame.interface_name',
      ]);
      assert.equal([...new Set(frames.trim().split('\n'))], ['co0']);
      assert.is(frames.trim().split('\n').length, kept.packets);
      // The mux forgets it with the next packets; it is in no list, and the service goes on.
      assert.equal((await site.api.get<{ captures: string[] }>('/captures')).captures, []);
      assert.is((await ask('/version')).status, 200);
    } catch (error) {
      throw new Error(`${(error as Error).stack}\n${site.output}`);
    } finally {
      await site.close();
    }
    assert.equal(site.leftBehind(), []);
  }, 90_000),
);

extcap.run();
