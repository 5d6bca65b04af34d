/**
 * How long new requests would wait if the service were moved by `hold` now. Every part is measured at that moment, with the
 * same words that the cut will use: a rehearsal round of the last delta, a health check, round trips to mux and guests. To their
 * sum comes what earlier cuts of this daemon took beside theirs.
 */
import { diskId } from '../../hypervisor/index.ts';
import type { HealthCheck } from '../policy.ts';
import { addressPairs, bareAddress } from '../policy.ts';
import type { PauseForecast } from './calibration.ts';
import type { RunEnvironment } from './environment.ts';
import type { RunRecord } from './record.ts';

/** Commands that the cut waits for, one after the other. */
const MUX_COMMANDS = 7;
const GUEST_COMMANDS = 4;
const BLOCK_COMMANDS = 4;
/** Import of one idle connection, measured; its export goes on while the last delta is reflected. */
const HAND_OVER_MS = 0.15;
const SAMPLES = 5;
/** What takes longer is not asked again: the service may be slow, and a rollback waiting. */
const SAMPLING_MS = 100;

/** `from` serves now; `copy` is the group whose last delta the cut reflects. */
export async function forecastPause(
  env: RunEnvironment,
  record: RunRecord,
  way: { readonly from: string; readonly to: string; readonly copy: string },
): Promise<PauseForecast> {
  const service = env.services.find((s) => s.name === record.service);
  const round = record.hasApplicationDisk
    ? await env.disks.execute('copy-round', { copy: way.copy }, { timeoutMs: 60_000 })
    : undefined;
  const guest = (await env.hypervisor.partitionStatus(way.from)).guest;
  const checkMs = service === undefined ? 0 : await median(() => checkEach(env, record, service.health), env);
  const muxMs = await median(
    () => env.mux.execute('counters', { address: bareAddress(record.address) }),
    env,
  );
  const fromMs = await median(() => env.hypervisor.control(way.from).ping(), env);
  const blockMs = await median(
    () => env.disks.execute('disk-status', { id: diskId(way.from, 'system') }),
    env,
  );
  const parts = {
    delta: round?.roundMs ?? 0,
    applicationStart: guest?.applicationStartMs ?? 0,
    check: checkMs,
    connections: HAND_OVER_MS * (guest?.connections ?? 0),
    commands:
      MUX_COMMANDS * addressPairs(record).length * muxMs + GUEST_COMMANDS * fromMs + BLOCK_COMMANDS * blockMs,
  };
  return { pauseMs: env.calibration.forecastMs(parts), parts };
}

/** As the cut does it: each address in turn. */
async function checkEach(env: RunEnvironment, record: RunRecord, health: HealthCheck): Promise<void> {
  for (const { address } of addressPairs(record)) await env.probe.check(bareAddress(address), health);
}

async function median(call: () => Promise<unknown>, env: RunEnvironment): Promise<number> {
  const times: number[] = [];
  const untilMs = env.clock.nowMs() + SAMPLING_MS;
  while (times.length < SAMPLES && (times.length === 0 || env.clock.nowMs() < untilMs)) {
    const startMs = env.clock.nowMs();
    await call();
    times.push(env.clock.nowMs() - startMs);
  }
  return times.sort((a, b) => a - b)[times.length >> 1] ?? 0;
}
