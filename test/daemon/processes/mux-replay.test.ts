/** A mux that was killed and told again, against the real mux of src/hypervisor/mux with ports in memory. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { FlowName } from '../../../src/channel/index.ts';
import { VirtualClock } from '../../../src/common/index.ts';
import type { RememberedCommand } from '../../../src/daemon/processes/desired-state.ts';
import { DesiredState, rememberMux } from '../../../src/daemon/processes/desired-state.ts';
import { replayMux } from '../../../src/daemon/processes/mux-replay.ts';
import { MuxServer } from '../../../src/hypervisor/index.ts';
import { within } from '../../support/index.ts';

const replay = suite('daemon/processes/mux-replay');
const ADDRESS = '10.77.0.11';

function flow(remotePort: number, localAddress = ADDRESS): FlowName {
  return { protocol: 'tcp', localAddress, localPort: 80, remoteAddress: '10.77.0.1', remotePort };
}

type Handlers = Record<string, (args: object) => Promise<unknown>>;

/** A mux process without the process, what it was told kept beside it. */
class Killable {
  readonly directory = mkdtempSync(join(tmpdir(), 'changeover-replay-'));
  readonly desired = new DesiredState(join(this.directory, 'mux.json'), rememberMux);
  #generation = 0;
  #server = this.#fresh();

  #fresh(): MuxServer {
    this.#generation++;
    return new MuxServer({ clock: new VirtualClock() });
  }

  async execute<T>(name: string, args: object): Promise<T> {
    const result = await this.#handler(name)(this.#here(args));
    this.desired.executed(name, args);
    return result as T;
  }

  /** Sockets of the mux that is gone are somebody else's business. */
  #here(args: object): object {
    const { socket } = args as { socket?: string };
    return socket === undefined ? args : { ...args, socket: `${socket}.${this.#generation}` };
  }

  #handler(name: string) {
    return (this.#server.handlers() as unknown as Handlers)[name]!;
  }

  async kill(flowsOf: (port: string) => Promise<readonly FlowName[]>): Promise<RememberedCommand[]> {
    await this.#server.close();
    this.#server = this.#fresh();
    const told: RememberedCommand[] = [];
    await replayMux(
      async (command) => {
        told.push(command);
        return await this.#handler(command.name)(this.#here(command.args));
      },
      this.desired.commands(),
      flowsOf,
    );
    return told;
  }

  async close(): Promise<void> {
    await this.#server.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function pair(): Promise<Killable> {
  const mux = new Killable();
  for (const [name, mac] of [
    ['A', '02:00:00:00:00:0a'],
    ['B', '02:00:00:00:00:0b'],
  ] as const) {
    const socket = join(mux.directory, `${name}.sock`);
    await mux.execute('port-add', { name, socket, mac, addresses: [ADDRESS] });
  }
  await mux.execute('port-state', { name: 'A', state: 'attached' });
  await mux.execute('path-set', { address: ADDRESS, port: 'A' });
  return mux;
}

type Listed = { flow: FlowName; port: string; steered: boolean }[];

async function steered(mux: Killable): Promise<Record<number, string>> {
  const list = await mux.execute<Listed>('flows', { address: ADDRESS });
  return Object.fromEntries(
    list.map((one) => [one.flow.remotePort, `${one.port}${one.steered ? ' steered' : ''}`]),
  );
}

replay(
  'after a switch the flows that the old partition still has are steered to it, and no others',
  within(async () => {
    const mux = await pair();
    try {
      await mux.execute('flows-known', { address: ADDRESS, flows: [flow(1001), flow(1002), flow(1003)] });
      await mux.execute('switch', {
        address: ADDRESS,
        from: 'A',
        to: 'B',
        moved: [flow(1003)],
        notice: { second: '10.77.0.12' },
        addresses: { A: ['10.77.0.12'], B: [ADDRESS] },
      });
      assert.equal(await steered(mux), { 1001: 'A steered', 1002: 'A steered', 1003: 'B' });
      // 1002 has ended or moved since; A names what it has by the address that it altered to.
      const asked: string[] = [];
      await mux.kill(async (port) => {
        asked.push(port);
        return [flow(1001, '10.77.0.12')];
      });
      assert.equal(asked, ['A']);
      assert.equal(await steered(mux), { 1001: 'A steered' });
      const notice = await mux.execute<{ abandoned: FlowName[] }>('notice-cancel', {
        address: ADDRESS,
        force: true,
      });
      assert.is(notice.abandoned.length, 1);
      await mux.kill(async () => [flow(1001)]);
      assert.equal(await steered(mux), { 1001: 'B' }, 'nothing is steered any more');
      await mux.execute('announce', { address: ADDRESS, port: 'B' });
    } finally {
      await mux.close();
    }
  }),
);

replay(
  'holds come up again with everything they hold, in one operation with paths and port states',
  within(async () => {
    const mux = await pair();
    try {
      await mux.execute('hold-start', { address: ADDRESS, scope: 'new-flows' });
      await mux.execute('hold-start', { address: ADDRESS, scope: 'all', except: [flow(1001)], barrier: 5 });
      const told = await mux.kill(async () => [flow(1001), flow(1002)]);
      assert.equal(
        told.map(({ name }) => name),
        ['port-add', 'port-add', 'restore'],
      );
      const restored = told.at(-1)?.args['commands'] as RememberedCommand[];
      assert.equal(
        restored.map(({ name }) => name),
        ['port-state', 'path-set', 'flows-known', 'hold-start'],
      );
      assert.equal(await steered(mux), { 1001: 'A', 1002: 'A' });
      const again = await mux.execute<{ held: number }>('hold-start', { address: ADDRESS, scope: 'all' });
      assert.is(again.held, 0);
      await mux.execute('hold-release', { address: ADDRESS });
      assert.equal((await mux.kill(async () => [])).at(-1)?.args['commands'], [
        { name: 'port-state', args: { name: 'A', state: 'attached' } },
        { name: 'path-set', args: { address: ADDRESS, port: 'A' } },
      ]);
    } finally {
      await mux.close();
    }
  }),
);

replay(
  'a command that cannot be restored is named and the others are carried out; one that waits is refused',
  within(async () => {
    const mux = await pair();
    try {
      const { failed } = await mux.execute<{ failed: { name: string; reason: string }[] }>('restore', {
        commands: [
          { name: 'path-set', args: { address: '10.77.0.20', port: 'nobody' } },
          { name: 'path-set', args: { address: '10.77.0.21', port: 'A' } },
        ],
      });
      assert.is(failed.length, 1);
      assert.match(failed[0]!.reason, 'nobody');
      await mux.execute('announce', { address: '10.77.0.21', port: 'A' });
      const refused = await mux
        .execute('restore', { commands: [{ name: 'port-add', args: {} }] })
        .catch((error: { code: string }) => error.code);
      assert.is(refused, 'bad-argument');
    } finally {
      await mux.close();
    }
  }),
);

replay(
  'a mux that cannot have one of its ports is no mux: it is started again',
  within(async () => {
    const told: string[] = [];
    const refused = await replayMux(
      async ({ name }) => {
        told.push(name);
        return undefined;
      },
      [
        { name: 'uplink-add', args: { name: 'co0' } },
        { name: 'path-set', args: {} },
      ],
      async () => [],
    ).catch((error: { code: string }) => error.code);
    assert.is(refused, 'start-failed');
    assert.equal(told, ['uplink-add']);
  }),
);

replay.run();
