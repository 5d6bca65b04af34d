/** One request of a rehearsal: to the active as a client's would be, to the standby over the private path. */
import { PatchError } from '../errors.ts';
import type { RehearsalRequest, RehearsalSpec } from '../policy.ts';
import { addressPairs, bareAddress } from '../policy.ts';
import type { ProbeExchange, RunEnvironment } from '../run/environment.ts';
import type { RunRecord } from '../run/record.ts';
import type { HttpAnswer, RehearsalDifference } from './compare.ts';
import { differences, isSafe, nameOf } from './compare.ts';

export function askActive(
  env: RunEnvironment,
  record: RunRecord,
  spec: RehearsalSpec,
  request: RehearsalRequest,
): Promise<ProbeExchange> {
  const address = bareAddress(addressPairs(record)[0]!.address);
  return env.probe.exchange(address, exchangeOf(spec, request, address));
}

/** Throws `unhealthy` when it was not the standby that answered. */
export async function askStandby(
  env: RunEnvironment,
  record: RunRecord,
  spec: RehearsalSpec,
  request: RehearsalRequest,
): Promise<ProbeExchange> {
  const { mux, probe } = env;
  const [pair] = addressPairs(record);
  const address = bareAddress(pair!.address);
  const apart = record.procedure !== 'H6' && record.procedure !== undefined;
  const standbyAddress = bareAddress(apart ? (pair!.second ?? pair!.address) : pair!.address);
  const port = env.hypervisor.partitionConfig(record.to).network[0]!.name;
  return probe.privately(async () => {
    await mux.execute('private-path', { probe: probe.port, port });
    try {
      const sent = async () =>
        (await mux.execute('ports', {})).find((one) => one.name === port)?.transmitted ?? 0;
      const before = await sent();
      const standby = await probe.exchange(standbyAddress, exchangeOf(spec, request, address));
      const flows = await mux.execute('flows', { address });
      const strayed = flows.find(
        ({ flow }) => probe.addresses.includes(flow.remoteAddress) && flow.remotePort === standby.localPort,
      );
      if (strayed !== undefined || (await sent()) === before) {
        throw new PatchError('unhealthy', `the rehearsal was not answered by standby ${record.to}`, {
          remedy: 'the active partition goes on; see the capture of the mux',
        });
      }
      return standby;
    } finally {
      await mux.execute('private-path', { probe: probe.port, port: null });
    }
  });
}

/** Both are asked, the active only what must not write. */
export async function rehearse(
  env: RunEnvironment,
  record: RunRecord,
  spec: RehearsalSpec,
  request: RehearsalRequest,
): Promise<RehearsalDifference[]> {
  const active = isSafe(request) ? await askActive(env, record, spec, request) : undefined;
  if (active !== undefined && active.answer === undefined)
    return noAnswer(request, `none: ${active.detail}`, 'not asked');
  return compared(spec, request, active?.answer, await askStandby(env, record, spec, request));
}

/** `active` is undefined where it was not asked. */
export function compared(
  spec: RehearsalSpec,
  request: RehearsalRequest,
  active: HttpAnswer | undefined,
  standby: ProbeExchange,
): RehearsalDifference[] {
  if (standby.answer !== undefined) return differences(request, spec, active, standby.answer);
  return noAnswer(request, active === undefined ? 'one' : String(active.status), standby.detail);
}

function noAnswer(request: RehearsalRequest, active: string, standby: string): RehearsalDifference[] {
  return [{ request: nameOf(request), what: 'answer', active, standby }];
}

function exchangeOf(spec: RehearsalSpec, request: RehearsalRequest, host: string) {
  return { ...request, host, port: spec.port, timeoutMs: spec.timeoutMs };
}
