/** UDP requests and ICMP in flight at the cut, by every procedure, A → B → A → B → A: answered once, by whom they reached. */
import { spawn } from 'node:child_process';
import dgram from 'node:dgram';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import type { Scene } from '../../src/cli/demo/scene.ts';
import type { RunView } from '../../src/daemon/index.ts';
import { eventually, liveSuite, run, within } from '../support/index.ts';
import { otherProgram } from './support/scenes.ts';
import { Site } from './support/site.ts';

const datagrams = liveSuite('live/datagrams');

const SERVICE = '10.77.0.11';
const ANSWER_LIMIT_MS = 15_000;
const MOVES = [
  { strategy: 'overlap', procedure: 'H8' },
  { strategy: 'hold', procedure: 'H7' },
  { strategy: 'drain', procedure: 'H6' },
  { strategy: 'hold', procedure: 'H6' },
] as const;

interface Answer {
  readonly id: number;
  readonly who: string;
}

/** Asks one request after the other on one socket; every request has to be answered exactly once. */
class Resolver {
  readonly problems: string[] = [];
  readonly who: string[] = [];
  #stopped = false;
  readonly #done: Promise<void>;

  constructor(seed: number, ownSocketEach: boolean) {
    this.#done = this.#ask(seed, ownSocketEach);
  }

  async #ask(seed: number, ownSocketEach: boolean): Promise<void> {
    let socket = dgram.createSocket('udp4');
    let waiting: { id: number; done: (answer: Answer) => void } | undefined;
    const listen = () =>
      socket.on('message', (message, peer) => {
        const answer = JSON.parse(message.toString()) as Answer;
        if (peer.address !== SERVICE || peer.port !== 53)
          this.problems.push(`an answer came from ${peer.address}`);
        if (waiting?.id !== answer.id)
          this.problems.push(`${answer.id} was answered again, by ${answer.who}`);
        else waiting.done(answer);
      });
    listen();
    for (let i = 0; !this.#stopped && this.problems.length < 10; i++) {
      const id = seed * 1_000_000 + i;
      const answered = new Promise<Answer | undefined>((done) => {
        waiting = { id, done };
        setTimeout(() => done(undefined), ANSWER_LIMIT_MS).unref();
      });
      // Between none and 0.4 s: some are in flight at any time.
      socket.send(JSON.stringify({ id, delayMs: (seed * 37 + i * 101) % 400 }), 53, SERVICE);
      const answer = await answered;
      waiting = undefined;
      if (answer === undefined) this.problems.push(`${id} was not answered`);
      else this.who.push(answer.who);
      if (ownSocketEach) {
        socket.close();
        socket = dgram.createSocket('udp4');
        listen();
      }
    }
    socket.close();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#done;
  }
}

/** Sequence numbers that were not answered, or twice; the newest ones may still be on their way. */
function pingFaults(text: string): string[] {
  const seen = [...text.matchAll(/icmp_seq=(\d+)(?=.*time=)/g)].map((match) => Number(match[1]));
  const last = Math.max(...seen);
  const missing = Array.from({ length: Math.max(0, last - 5) }, (_v, i) => i + 1).filter(
    (n) => !seen.includes(n),
  );
  const faults =
    missing.length === 0 ? [] : [`echo requests without answer: ${missing.join(' ')} of ${last}`];
  if (text.includes('DUP!')) faults.push('an echo request was answered twice');
  return faults;
}

/** A request whose client is gone when its answer comes: the host's kernel says so by ICMP. */
async function leaveUnheard(delayMs: number): Promise<void> {
  const socket = dgram.createSocket('udp4');
  await new Promise<void>((done) => {
    socket.send(JSON.stringify({ id: 1, delayMs }), 53, SERVICE, () => done());
  });
  await new Promise((resolve) => setTimeout(resolve, 100));
  socket.close();
}

datagrams(
  'four moves one after the other: no request lost or answered twice, echo without loss, errors go to who is meant',
  within(async () => {
    const program = readFileSync(join(import.meta.dirname, 'applications/datagrams.mjs'), 'utf8');
    const site = await Site.open({
      arrange: (scene: Scene) => otherProgram(scene.image('A', 'system'), program),
      configure: (text) =>
        text
          .replace('pauseMs: 5000', 'pauseMs: 20000')
          .replace('quiesceMs: 500', 'quiesceMs: 5000, oldFlowsMs: 20000'),
    });
    const resolvers: Resolver[] = [];
    const ping = { text: '' };
    try {
      await site.up();
      const pinging = spawn('ping', ['-n', '-i', '0.05', SERVICE]);
      pinging.stdout.on('data', (part: Buffer) => {
        ping.text += part.toString();
      });
      for (let i = 0; i < 8; i++) resolvers.push(new Resolver(i + 1, i >= 4));
      try {
        await eventually('the first answers', () => resolvers.every(({ who }) => who.length > 1));
        for (const { strategy, procedure } of MOVES) {
          const begun = { strategy, procedure, withoutPatches: true, prepareOnly: true };
          const { id } = await site.api.post<RunView>('/runs', begun);
          await site.reached(id, 'ready');
          const isOverlap = strategy === 'overlap';
          if (isOverlap) await leaveUnheard(4_000);
          await site.api.post(`/runs/${id}/cut`);
          const cut = await site.reached(id, 'probation');
          const counts = resolvers.map(({ who }) => who.length);
          await eventually(
            `answers of ${cut.to}`,
            () =>
              resolvers.every(
                ({ who, problems }, i) => problems.length > 0 || who.slice(counts[i]).includes(cut.to),
              ),
            20_000,
          );
          if (isOverlap) await new Promise((resolve) => setTimeout(resolve, 4_000));
          await site.api.post(`/runs/${id}/commit`);
          const done = await site.reached(id, 'committed');
          assert.is(done.procedure, procedure);
          assert.equal(done.cut?.abandoned, [], `${strategy} by ${procedure}`);
          if (isOverlap) {
            const errors = async (port: string) => {
              const filter = `icmp.type == 3 && icmp.code == 3 && frame.interface_name == "${port}-net1"`;
              const { stdout } = await run('tshark', ['-r', done.capture ?? '', '-Y', filter]);
              return stdout.split('\n').filter((line) => line !== '').length;
            };
            assert.ok(
              (await errors(done.from)) > 0,
              'the ICMP error did not reach the partition that had answered',
            );
            assert.is(await errors(done.to), 0, 'the ICMP error reached the other partition');
          }
        }
      } finally {
        for (const resolver of resolvers) await resolver.stop();
        pinging.kill('SIGINT');
        await new Promise((resolve) => pinging.once('close', resolve));
      }
      assert.equal(
        resolvers.flatMap(({ problems }) => problems),
        [],
      );
      assert.equal(pingFaults(ping.text), []);
      const answered = resolvers.reduce((sum, { who }) => sum + who.length, 0);
      console.error(
        `live/datagrams: ${answered} UDP requests, ${ping.text.match(/time=/g)?.length} echo requests`,
      );
      assert.ok(answered > 200, `only ${answered} requests`);
    } catch (error) {
      console.error(site.output);
      throw error;
    } finally {
      await site.close();
    }
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }, 180_000),
);

datagrams.run();
