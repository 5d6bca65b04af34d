import http from 'node:http';
import * as assert from 'uvu/assert';
import type { RunView } from '../../src/daemon/index.ts';
import { liveSuite, run, within } from '../support/index.ts';
import { askExperts } from './support/experts.ts';
import { Site, version } from './support/site.ts';

const changeover = liveSuite('live/changeover-ipv6');

const HOSTS = ['10.77.0.11', 'fd00:77::11'] as const;

/** The demo's configuration with a second family; a busy machine may take its time, as this is about failures and not about the pause. */
function bothFamilies(text: string): string {
  return text
    .replace('pauseMs: 1000', 'pauseMs: 8000')
    .replace('quiesceMs: 500', 'quiesceMs: 2000')
    .replace('hostAddress: 10.77.0.1/24', 'hostAddress: 10.77.0.1/24, hostAddress6: "fd00:77::1/64"')
    .replace('probe: {address: 10.77.0.254/24', 'probe: {address: 10.77.0.254/24, address6: "fd00:77::fe/64"')
    .replace(
      '    active: A',
      '    address6: "fd00:77::11/64"\n    second6: "fd00:77::12/64"\n    gateway6: "fd00:77::1"\n    active: A',
    );
}

interface Answer {
  readonly status: number;
  readonly body: string;
  readonly reused: boolean;
}

function request(host: string, agent: http.Agent | false, path: string, body?: string): Promise<Answer> {
  return new Promise((done, fail) => {
    const asked = http.request(
      { host, port: 80, path, method: body === undefined ? 'GET' : 'POST', agent, timeout: 10_000 },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          text += part;
        });
        response.on('end', () =>
          done({ status: response.statusCode ?? 0, body: text, reused: asked.reusedSocket }),
        );
        response.on('error', fail);
      },
    );
    asked.on('timeout', () => asked.destroy(new Error(`no answer from ${host} to ${path}`)));
    asked.on('error', fail);
    asked.end(body);
  });
}

/** Keep-alive clients of both families, each with one connection, until told to stop. */
class Clients {
  readonly failures: string[] = [];
  /** Answers by host. */
  readonly answered = new Map<string, number>();
  /** Connections that had to be made anew, by host. */
  readonly reconnected = new Map<string, number>();
  #stopped = false;
  readonly #tasks: Promise<void>[];

  constructor(each: number, body: (i: number) => string | undefined) {
    this.#tasks = HOSTS.flatMap((host) => Array.from({ length: each }, () => this.#client(host, body)));
  }

  async #client(host: string, body: (i: number) => string | undefined): Promise<void> {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; !this.#stopped && this.failures.length < 20; i++) {
      const text = body(i);
      try {
        const answer = await request(host, agent, text === undefined ? '/version' : '/entries', text);
        if (answer.status !== (text === undefined ? 200 : 201))
          this.failures.push(`${host}: ${answer.status}`);
        this.answered.set(host, (this.answered.get(host) ?? 0) + 1);
        if (i > 0 && !answer.reused) this.reconnected.set(host, (this.reconnected.get(host) ?? 0) + 1);
      } catch (error) {
        this.failures.push(`${host}: ${String(error)}`);
      }
    }
    agent.destroy();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#tasks);
  }
}

async function withSite(body: (site: Site) => Promise<void>): Promise<void> {
  const site = await Site.open({ configure: bothFamilies });
  try {
    await body(await site.up());
    await askExperts(site, 1);
  } catch (error) {
    console.error(site.output);
    throw error;
  } finally {
    await site.close();
    assert.equal(site.leftBehind(), [], 'something was left behind');
  }
}

async function versions(): Promise<string[]> {
  const answers = await Promise.all(HOSTS.map((host) => request(host, false, '/version')));
  return answers.map(({ body }) => (JSON.parse(body) as { version: string }).version);
}

changeover(
  'hold: writers on IPv4 and IPv6 keep their connections and see no failure, there and back',
  within(
    () =>
      withSite(async (site) => {
        assert.is(await version(), '1.0.0');
        await site.flagPatch();
        const clients = new Clients(2, (i) => `entry ${i}`);
        try {
          const { id } = await site.api.post<RunView>('/runs', { strategy: 'hold' });
          await site.reached(id, 'probation');
          assert.equal(await versions(), ['1.0.1', '1.0.1']);
          await site.api.post(`/runs/${id}/rollback`);
          await site.reached(id, 'rolled-back');
          assert.equal(await versions(), ['1.0.0', '1.0.0']);
        } finally {
          await clients.stop();
        }
        assert.equal(clients.failures, []);
        for (const host of HOSTS)
          assert.ok((clients.answered.get(host) ?? 0) > 20, `${host} was hardly asked`);
        assert.equal([...clients.reconnected], [], 'connections were lost');
      }),
    150_000,
  ),
);

changeover(
  'overlap: readers and streams of both families; the capture shows the change notices of both',
  within(
    () =>
      withSite(async (site) => {
        await site.flagPatch();
        const { id } = await site.api.post<RunView>('/runs', { strategy: 'overlap', prepareOnly: true });
        await site.reached(id, 'ready');
        const streams = HOSTS.map((host) => request(host, false, '/slow'));
        const clients = new Clients(2, () => undefined);
        try {
          await new Promise((resolve) => setTimeout(resolve, 300));
          await site.api.post(`/runs/${id}/cut`);
          await site.reached(id, 'probation');
          assert.equal(await versions(), ['1.0.1', '1.0.1']);
          for (const { body } of await Promise.all(streams)) assert.match(body, /line 20 of 20/);
        } finally {
          await clients.stop();
        }
        assert.equal(clients.failures, []);
        await site.api.post(`/runs/${id}/commit`);
        const report = await site.reached(id, 'committed');
        const fields = async (filter: string, field: string) => {
          const args = ['-r', report.capture ?? '', '-Y', filter, '-T', 'fields', '-e', field];
          const { stdout } = await run('tshark', args);
          return [...new Set(stdout.split(/\s+/).filter((text) => text !== ''))].sort();
        };
        const rewritten = 'frame.comment matches "change notice .*source" && frame.interface_name == "co0"';
        assert.equal(await fields(`${rewritten} && ip`, 'ip.src'), ['10.77.0.11']);
        assert.equal(await fields(`${rewritten} && ipv6`, 'ipv6.src'), ['fd00:77::11']);
        const sent = await fields(
          'frame.interface_name == "A-net1" && tcp.srcport == 80 && ipv6',
          'ipv6.src',
        );
        assert.ok(sent.includes('fd00:77::12'), 'the old partition never sent from its second address');
        const left = 'frame.interface_name == "co0" && tcp.srcport == 80 && ipv6';
        assert.equal(await fields(left, 'ipv6.src'), ['fd00:77::11'], 'the second address left');
        const override =
          'icmpv6.type == 136 && icmpv6.nd.na.flag.o == 1 && frame.comment contains "announces"';
        assert.ok((await fields(override, 'icmpv6.nd.na.target_address')).includes('fd00:77::11'));
      }),
    150_000,
  ),
);

changeover.run();
