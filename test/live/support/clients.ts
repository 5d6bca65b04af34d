/** Clients of the ledger that write all the time and never repeat a request by themselves. */
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
export function writingClients(count: { keepAlive: number; oneShot: number }, pauseMs = 20): Clients {
  const acknowledged: [number, string][] = [];
  const failures: string[] = [];
  let stopped = false;
  const write = async (name: string, keepAlive: boolean) => {
    const agent = new http.Agent({ keepAlive, maxSockets: 1 });
    for (let i = 0; !stopped; i++) {
      const text = `${name}-${i}`;
      const answer = await post(agent, text);
      if (typeof answer === 'number') acknowledged.push([answer, text]);
      else failures.push(`${text}: ${answer}`);
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
    agent.destroy();
  };
  const id = Math.random().toString(36).slice(2, 7);
  const tasks = [
    ...Array.from({ length: count.keepAlive }, (_one, i) => write(`${id}k${i}`, true)),
    ...Array.from({ length: count.oneShot }, (_one, i) => write(`${id}o${i}`, false)),
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

/** The entry's number, or why there is none. */
function post(agent: http.Agent, text: string): Promise<number | string> {
  return new Promise((resolve) => {
    const options = {
      host: SERVICE_ADDRESS,
      port: 80,
      path: '/entries',
      method: 'POST',
      agent,
      timeout: ANSWER_MS,
    };
    const request = http.request(options, (response) => {
      let body = '';
      response.setEncoding('utf8');
      response.on('data', (part: string) => {
        body += part;
      });
      response.on('end', () => {
        if (response.statusCode === 201) resolve((JSON.parse(body) as { n: number }).n);
        else resolve(`status ${response.statusCode}: ${body}`);
      });
      response.on('error', (error) => resolve(error.message));
    });
    request.on('timeout', () => request.destroy(new Error(`no answer within ${ANSWER_MS} ms`)));
    request.on('error', (error) => resolve(error.message));
    request.end(text);
  });
}
