/** Clients of the ledger that ask all the time and never repeat a request by themselves. */
import http from 'node:http';
import { SERVICE_ADDRESS } from '../../../src/cli/demo/scene.ts';

export interface Clients {
  /** Number and text of every entry that was acknowledged. */
  readonly acknowledged: [number, string][];
  /** Requests that were refused, reset, answered with an error or not at all. */
  readonly failures: string[];
  stop(): Promise<void>;
}

const ANSWER_MS = 20_000;

/** `keepAlive`: one connection each for as long as it lasts; else one for each request. */
export function writingClients(count: Count, pauseMs = 20): Clients {
  return manyClients(count, pauseMs, post);
}

/** The same, with nothing written. */
export function readingClients(count: Count, pauseMs = 20): Clients {
  return manyClients(count, pauseMs, get);
}

type Count = { readonly keepAlive: number; readonly oneShot: number };
/** The number of the entry that was written, why there is none, or undefined: it was answered and nothing was written. */
type Ask = (agent: http.Agent, text: string) => Promise<number | string | undefined>;

function manyClients(count: Count, pauseMs: number, request: Ask): Clients {
  const acknowledged: [number, string][] = [];
  const failures: string[] = [];
  let stopped = false;
  const asking = async (name: string, keepAlive: boolean) => {
    const agent = new http.Agent({ keepAlive, maxSockets: 1 });
    for (let i = 0; !stopped; i++) {
      const text = `${name}-${i}`;
      const answer = await request(agent, text);
      if (typeof answer === 'number') acknowledged.push([answer, text]);
      else if (answer !== undefined) failures.push(`${text}: ${answer}`);
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
    agent.destroy();
  };
  const id = Math.random().toString(36).slice(2, 7);
  const tasks = [
    ...Array.from({ length: count.keepAlive }, (_one, i) => asking(`${id}k${i}`, true)),
    ...Array.from({ length: count.oneShot }, (_one, i) => asking(`${id}o${i}`, false)),
  ];
  return {
    acknowledged,
    failures,
    stop: async () => {
      stopped = true;
      await Promise.all(tasks);
    },
  };
}

async function post(agent: http.Agent, text: string): Promise<number | string> {
  const { status, body } = await exchange(agent, 'POST', '/entries', text);
  return status === 201 ? (JSON.parse(body) as { n: number }).n : `status ${status}: ${body}`;
}

async function get(agent: http.Agent): Promise<string | undefined> {
  const { status, body } = await exchange(agent, 'GET', '/version');
  return status === 200 ? undefined : `status ${status}: ${body}`;
}

/** Status 0: no answer, and the reason in its place. */
function exchange(
  agent: http.Agent,
  method: string,
  path: string,
  text?: string,
): Promise<{ status: number; body: string }> {
  return new Promise((resolve) => {
    const fail = (error: Error) => resolve({ status: 0, body: error.message });
    const options = { host: SERVICE_ADDRESS, port: 80, path, method, agent, timeout: ANSWER_MS };
    const request = http.request(options, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        body += part;
      });
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
      response.on('error', fail);
    });
    request.on('timeout', () => request.destroy(new Error(`no answer within ${ANSWER_MS} ms`)));
    request.on('error', fail);
    request.end(text);
  });
}
