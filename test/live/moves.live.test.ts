/**
 * F3: moves one after the other, A → B → A → B …, each committed so that the old partition is the next standby, under wrk, curl
 * and redis-benchmark: no failed request, no reset of a connection in use, no acknowledged change lost. SOAK=1: hundreds, with what
 * the processes take.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Scene } from '../../src/cli/demo/scene.ts';
import type { RunView, StatusView } from '../../src/daemon/index.ts';
import { limitMs, liveSuite, run, SOAK, Trials, within } from '../support/index.ts';
import { otherProgram, putFile } from './support/scenes.ts';
import { Site } from './support/site.ts';

const moves = liveSuite('live/moves');

const SERVICE = '10.77.0.11';
const WAYS = [
  { strategy: 'hold', procedure: 'H6' },
  { strategy: 'drain', procedure: 'H6' },
  { strategy: 'hold', procedure: 'H7' },
  { strategy: 'overlap', procedure: 'H8' },
] as const;
/** Of a partition that serves, with V8's young generation. */
const ACTIVE_MIB = 320;
const COUNTER = 'counter:__rand_int__';

/** Runs one program after the other until told to stop; what any of them complained about. */
class Repeated {
  readonly complaints: string[] = [];
  rounds = 0;
  #stopped = false;
  #paused = false;
  #idle = true;
  readonly #done: Promise<void>;

  constructor(argv: readonly string[], complaintOf: (out: string) => string | undefined) {
    this.#done = this.#loop(argv, complaintOf);
  }

  async #loop(argv: readonly string[], complaintOf: (out: string) => string | undefined): Promise<void> {
    while (!this.#stopped && this.complaints.length < 5) {
      if (this.#paused) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        continue;
      }
      this.#idle = false;
      try {
        const { stdout, stderr } = await run(argv[0]!, argv.slice(1), { timeout: 60_000 });
        const complaint = complaintOf(stdout + stderr);
        if (complaint === undefined) this.rounds++;
        else this.complaints.push(`${argv[0]}: ${complaint}`);
      } catch (error) {
        this.complaints.push(`${argv[0]}: ${String(error)}`);
      }
      this.#idle = true;
    }
  }

  async pause(): Promise<void> {
    this.#paused = true;
    while (!this.#idle) await new Promise((resolve) => setTimeout(resolve, 10));
  }

  resume(): void {
    this.#paused = false;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }
}

interface Usage {
  /** Of control, mux and block process and of the partition that serves, MiB. */
  readonly memoryMiB: Readonly<Record<'control' | 'mux' | 'block' | 'active', number>>;
  /** Of the first three. */
  readonly descriptors: number;
  /** Write logs and system disks. The application disks have the program's own file. */
  readonly diskMiB: number;
}

async function usage(site: Site): Promise<Usage> {
  const { pid, processes, partitions, services } = await site.api.get<StatusView>('/status');
  const active = partitions.find(({ id }) => id === services[0]?.active);
  const pids = { control: pid, mux: processes.mux.pid!, block: processes.block.pid! };
  const residentMiB = (one: number) =>
    Math.round(Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${one}/status`, 'utf8'))?.[1] ?? 0) / 1024);
  const { scene } = site;
  const folders = [
    join(scene.stateDirectory, 'write-log'),
    ...(['A', 'B'] as const).map((id) => scene.image(id, 'system')),
  ];
  const disk = execFileSync('du', ['-sk', '-c', ...folders], { encoding: 'utf8' })
    .trim()
    .split('\n')
    .at(-1)!;
  return {
    memoryMiB: {
      control: residentMiB(pids.control),
      mux: residentMiB(pids.mux),
      block: residentMiB(pids.block),
      active: residentMiB(active!.pid!),
    },
    descriptors: Object.values(pids).reduce((sum, one) => sum + readdirSync(`/proc/${one}/fd`).length, 0),
    diskMiB: Math.round(Number(disk.split('\t')[0]) / 1024),
  };
}

/** Resets from the service on connections that it had not ended itself: a client that still uses its connection would see them. */
async function resetsInUse(capture: string): Promise<string[]> {
  const filter = `ip.src == ${SERVICE} && frame.interface_name == "co0" && (tcp.flags.reset == 1 || tcp.flags.fin == 1)`;
  const fields = ['tcp.stream', 'tcp.flags.reset', 'frame.number'].flatMap((name) => ['-e', name]);
  const { stdout } = await run('tshark', ['-r', capture, '-Y', filter, '-T', 'fields', ...fields]);
  const ended = new Set<string>();
  const found: string[] = [];
  for (const line of stdout.split('\n')) {
    const [stream = '', reset = '', frame = ''] = line.split('\t');
    if (!/^(1|True)$/i.test(reset)) ended.add(stream);
    else if (!ended.has(stream)) found.push(`stream ${stream}, frame ${frame}`);
  }
  return found;
}

moves(
  'moves there and back again under curl, wrk and redis-benchmark: no failed request, no connection reset, nothing lost',
  within(async () => {
    const trials = new Trials('F3: moves under load', 5, 300);
    const program = readFileSync(join(import.meta.dirname, 'applications/resp.mjs'), 'utf8');
    const site = await Site.open({
      arrange: async (scene: Scene) => {
        const image = scene.image('A', 'system');
        await otherProgram(image, program);
        const guest = { application: '/srv/ledger/server.mjs', mountPoint: '/data', stateless: true };
        await putFile(image, '/etc/changeover/guest.json', JSON.stringify(guest));
      },
      configure: (text) =>
        text
          .replace('pauseMs: 5000', 'pauseMs: 30000')
          .replace('quiesceMs: 500', 'quiesceMs: 10000, drainMs: 10000')
          .replace('path: /version', 'path: /'),
    });
    const clients: Repeated[] = [];
    const used: Usage[] = [];
    const perRound = 300;
    try {
      await site.up();
      const redis = new Repeated(
        ['redis-benchmark', '-h', SERVICE, '-t', 'incr', '-n', String(perRound), '-c', '6', '-q'],
        (out) => (/error|reset|refused/i.test(out) ? out : undefined),
      );
      const wrk = new Repeated(['wrk', '-t1', '-c8', '-d2s', `http://${SERVICE}/`], (out) =>
        /Socket errors|Non-2xx/.test(out) ? out : undefined,
      );
      const curl = new Repeated(['curl', '-sS', '--fail', '--max-time', '30', `http://${SERVICE}/`], (out) =>
        out.includes('keys') ? undefined : out,
      );
      clients.push(redis, wrk, curl);
      while (trials.more && clients.every(({ complaints }) => complaints.length === 0)) {
        const way = WAYS[trials.count % WAYS.length]!;
        const from = trials.count % 2 === 0 ? 'A' : 'B';
        const begun = { ...way, withoutPatches: true, prepareOnly: true };
        const { id } = await site.api.post<RunView>('/runs', begun);
        await site.reached(id, 'ready');
        // Overlap is for services that do not write at the cut.
        if (way.strategy === 'overlap') {
          await redis.pause();
          await new Promise((resolve) => setTimeout(resolve, 400));
        }
        await site.api.post(`/runs/${id}/cut`);
        const cut = await site.reached(id, 'probation');
        redis.resume();
        await site.api.post(`/runs/${id}/commit`);
        const done = await site.reached(id, 'committed');
        assert.is(cut.from, from, 'the old partition was not the next standby');
        assert.equal(done.cut?.abandoned, [], `${way.strategy} by ${way.procedure}`);
        const resets = await resetsInUse(done.capture ?? '');
        assert.equal(resets, [], `resets left for clients, ${way.strategy} by ${way.procedure}`);
        trials.count++;
        used.push(await usage(site));
        if (SOAK && trials.count % 20 === 0)
          console.log(`after ${trials.count}: ${JSON.stringify(used.at(-1))}`);
      }
      for (const client of clients) await client.stop();
      assert.equal(
        clients.flatMap(({ complaints }) => complaints),
        [],
      );
      const { stdout } = await run('redis-cli', ['-h', SERVICE, 'get', COUNTER]);
      assert.is(Number(stdout), redis.rounds * perRound, 'an acknowledged change was lost, or made twice');
      assert.ok(redis.rounds > 2 && curl.rounds > 20, `redis ${redis.rounds}, curl ${curl.rounds}`);
      // V8's young generation grows for the first minutes, whatever is kept.
      const [first, last] = [used[SOAK ? used.length >> 2 : Math.min(4, used.length - 1)]!, used.at(-1)!];
      if (SOAK) {
        assert.ok(
          last.descriptors <= first.descriptors + 4,
          `descriptors ${first.descriptors} → ${last.descriptors}`,
        );
        for (const [name, before] of Object.entries(first.memoryMiB)) {
          const after = last.memoryMiB[name as keyof Usage['memoryMiB']];
          // The partition is another process after each move: nothing of it can come together.
          const most = name === 'active' ? ACTIVE_MIB : before * 1.25 + 16;
          assert.ok(after <= most, `memory of ${name} ${before} → ${after} MiB`);
        }
        assert.ok(last.diskMiB <= first.diskMiB * 1.5 + 16, `disk ${first.diskMiB} → ${last.diskMiB} MiB`);
      }
      trials.report(
        0,
        `${redis.rounds * perRound} changes by redis-benchmark, ${curl.rounds} by curl, ${wrk.rounds} rounds of wrk; memory ${JSON.stringify(used[0]!.memoryMiB)} → ${JSON.stringify(last.memoryMiB)} MiB, descriptors ${used[0]!.descriptors} → ${last.descriptors}, disk ${used[0]!.diskMiB} → ${last.diskMiB} MiB`,
      );
    } catch (error) {
      console.error(site.output);
      throw error;
    } finally {
      for (const client of clients) await client.stop();
      await site.close();
    }
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }, limitMs(180_000)),
);

moves.run();
