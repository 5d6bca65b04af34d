/** Is it healthy, and is it the right one that answers? */
import { PatchError } from '../errors.ts';
import type { Facts, Step } from '../run/step.ts';
import type { Move } from './move.ts';

/** Where nobody waits for the new active, it is asked so often: its first answers are its slowest, and those should not be for clients. */
export const WARM = 10;

export interface PrivateCheck {
  readonly figure?: string;
  /** How often each address is asked. Default once. */
  readonly times?: number;
}

/** The standby's application answers over the private path, at each of these addresses, before any client reaches it. */
export function checkThroughPrivatePath(
  move: Move,
  addresses: readonly string[],
  { figure = '1304', times = 1 }: PrivateCheck = {},
): Step {
  const { env, to } = move;
  const probe = env.probe.port;
  return {
    name: 'check-standby-service',
    figure,
    do: (): Promise<Facts> =>
      env.probe.privately(async () => {
        try {
          const details = new Set<string>();
          let ms = 0;
          let led: string | undefined;
          for (const address of addresses) {
            const port = move.port(to, address);
            if (port !== led) await env.mux.execute('private-path', { probe, port });
            led = port;
            for (let n = 0; n < times; n++) {
              const answer = await env.probe.check(address, move.service.health);
              ms += answer.durationMs;
              details.add(answer.detail);
              if (answer.ok) continue;
              const what = `the service on standby ${to} is not healthy at ${address}: ${answer.detail}`;
              throw new PatchError('unhealthy', what, {
                remedy: 'the active partition keeps serving; see the console of the standby',
              });
            }
          }
          return { answer: [...details].join(', '), ms };
        } finally {
          await env.mux.execute('private-path', { probe, port: null });
        }
      }),
    undo: async () => {
      await env.mux.execute('private-path', { probe, port: null });
    },
  };
}

/** As a client on the uplink would ask, and the mux says that it was the new active that answered (1304, 1506, 2205). */
export async function checkThroughUplink(move: Move): Promise<{ ok: boolean; detail: string; ms: number }> {
  let last = { ok: true, detail: '', ms: 0 };
  for (const address of move.addresses) {
    const result = await checkAddress(move, address);
    last = { ...result, ms: last.ms + result.ms };
    if (!result.ok) break;
  }
  return last;
}

async function checkAddress(
  move: Move,
  address: string,
): Promise<{ ok: boolean; detail: string; ms: number }> {
  const { env, to } = move;
  const answer = await env.probe.check(address, move.service.health);
  if (!answer.ok) return { ok: false, detail: `${address}: ${answer.detail}`, ms: answer.durationMs };
  const flows = await env.mux.execute('flows', { address });
  const own = flows.find(
    (f) => env.probe.addresses.includes(f.flow.remoteAddress) && f.flow.remotePort === answer.localPort,
  );
  const expected = move.port(to, address);
  if (own !== undefined && own.port !== expected) {
    return {
      ok: false,
      detail: `answered by port ${own.port} instead of ${expected}`,
      ms: answer.durationMs,
    };
  }
  return { ok: true, detail: answer.detail, ms: answer.durationMs };
}

const VERIFY_FIGURE = { H6: '1304', H7: '1506', H8: '2205' } as const;

/** Several tries, as 1304/1506/2205 stand at the end of a switch. Throws `unhealthy` after the last. */
export function verifyStep(move: Move, tries: number): Step {
  return {
    name: 'verify-service',
    figure: VERIFY_FIGURE[move.procedure],
    do: async () => {
      const failures: string[] = [];
      for (let attempt = 0; attempt < Math.max(1, tries); attempt++) {
        const result = await checkThroughUplink(move);
        if (result.ok) return { answer: result.detail, ms: result.ms, tries: attempt + 1 };
        failures.push(result.detail);
      }
      throw new PatchError(
        'unhealthy',
        `the service on ${move.to} is not healthy after the switch: ${failures.join('; ')}`,
      );
    },
  };
}
