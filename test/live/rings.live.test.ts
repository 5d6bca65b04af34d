/** Bulk through TAP, mux process and a partition's rings, while the mux is killed and comes back. */
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ChannelClient } from '../../src/channel/index.ts';
import type { MuxCommands, MuxEvents } from '../../src/hypervisor/mux/index.ts';
import { eventually, liveSuite, within } from '../support/index.ts';
import { children, endChildren, node } from './support/children.ts';
import { pattern, request, sha } from './support/transfer.ts';
import type { TransferProcess } from './support/transfer-process.ts';

const live = liveSuite('live/rings');
const BYTES = 64 * 1024 * 1024;
/** Of the download, when the mux is killed. */
const KILL_AT = 8 * 1024 * 1024;
const [TAP, HOST, ADDRESS, MAC] = ['ringtap0', '10.94.0.1', '10.94.0.2', '02:00:00:00:00:aa'];

const directory = mkdtempSync(join(tmpdir(), 'changeover-rings-'));
live.after(() => {
  endChildren();
  rmSync(directory, { recursive: true, force: true });
});

const socket = join(directory, 'port');

/** As the control process does it after a mux that died: everything again. */
async function mux() {
  const control = join(directory, `control${children.length}`);
  const child = node('src/daemon/processes/mux.ts', '--control', control, '--lifeline');
  const channel = await ChannelClient.connect<MuxCommands, MuxEvents>(control, 'the mux process', {
    waitMs: 30_000,
  });
  await channel.execute('uplink-add', { name: TAP });
  await channel.execute('port-add', { name: 'p', socket, mac: MAC, addresses: [ADDRESS], vnetHeader: true });
  await channel.execute('port-state', { name: 'p', state: 'attached' });
  await channel.execute('path-set', { address: ADDRESS, port: 'p' });
  const port = async () => (await channel.execute('ports', {})).find(({ name }) => name === 'p')!;
  return { child, channel, port };
}

function download(url: string, onBytes: (bytes: number) => void): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const asked = http.get(url, { agent: false }, (response) => {
      const parts: Buffer[] = [];
      let bytes = 0;
      response.on('data', (part: Buffer) => {
        parts.push(part);
        bytes += part.length;
        onBytes(bytes);
      });
      response.on('end', () => resolve(Buffer.concat(parts)));
      response.on('error', reject);
    });
    asked.on('error', reject);
  });
}

live(
  'bulk both ways at once is byte-exact although the mux is killed in the middle; rings before and after',
  within(async () => {
    // The interface outlives the mux, as a host's own does, and with it the kernel's connections.
    execFileSync('ip', ['tuntap', 'add', 'dev', TAP, 'mode', 'tap', 'vnet_hdr']);
    execFileSync('ip', ['addr', 'add', `${HOST}/24`, 'dev', TAP]);
    execFileSync('ip', ['link', 'set', TAP, 'up']);
    const first = await mux();
    const options: TransferProcess = { socket, rings: true, address: `${ADDRESS}/24`, port: 80 };
    const partition = node('test/live/support/transfer-process.ts', JSON.stringify(options));
    await once(partition.stdout!, 'data');
    const origin = `http://${ADDRESS}`;
    assert.is((await first.port()).carrier, 'ring');

    const body = pattern(BYTES);
    const expected = sha(body);
    let second: ReturnType<typeof mux> | undefined;
    let killedAt = 0;
    const down = download(`${origin}/send?bytes=${BYTES}`, (bytes) => {
      if (bytes < KILL_AT || second !== undefined) return;
      killedAt = bytes;
      first.child.kill('SIGKILL');
      second = once(first.child, 'exit').then(mux);
    });
    const up = request(`${origin}/put`, body);
    const [received, stored] = await Promise.all([down, up]);
    assert.ok(killedAt < BYTES, `killed after ${killedAt} bytes`);
    assert.is(sha(received), expected);
    assert.is(stored.toString(), expected);

    const { port, channel } = await second!;
    const status = await port();
    assert.is(status.carrier, 'ring');
    assert.ok(status.receivedBytes > 0);
    const counters = JSON.parse((await request(`${origin}/counters`)).toString());
    assert.equal([counters.carrier, counters.connections], ['ring', 2]);

    // The other way round: a partition that is killed leaves a port that says so, and its successor gets rings of its own.
    partition.kill('SIGKILL');
    await eventually('disconnected', async () => (await port()).state === 'disconnected');
    const successor = node('test/live/support/transfer-process.ts', JSON.stringify(options));
    await once(successor.stdout!, 'data');
    assert.is((await port()).carrier, 'ring');
    assert.is(sha(await request(`${origin}/send?bytes=${KILL_AT}`)), sha(pattern(KILL_AT)));
    assert.is((await port()).drops['framing-fault'], undefined);
    channel.close();
    first.channel.close();
  }, 60_000),
);

live.run();
