/**
 * The rehearsal: before any client is moved, the patched standby answers the requests of the configuration and those of clients that
 * the mux has recorded (recorded.ts), and its answers are compared with the active's.
 *
 *   rehearse            the application disk is copied as of one instant (the active's writes wait meanwhile: a reflink where the file
 *                       system can, else as long as budget.pauseMs allows), the standby starts the application on that copy, each
 *                       request goes to the active as a client's would and to the standby over the private path
 *   leave-rehearsal     the standby boots anew, the copy is thrown away: nothing that was rehearsed is on any disk that will serve
 *
 * The active is asked only what must not write. That it is the standby that answers is checked at the mux: its port was sent
 * packets, and no flow of the service has the probe's port.
 */
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { StartOptions } from '../../hypervisor/index.ts';
import { diskId } from '../../hypervisor/index.ts';
import { PatchError } from '../errors.ts';
import type { RehearsalSpec } from '../policy.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { RunRecord } from '../run/record.ts';
import type { Facts, Step } from '../run/step.ts';
import type { RehearsalDifference, RehearsalReport } from './compare.ts';
import { rehearse } from './exchange.ts';
import { Recorded } from './recorded.ts';

const run = promisify(execFile);
const START_TIMEOUT_MS = 15_000;
const COPY_TIMEOUT_MS = 60_000;
/** What a copy without reflink is expected to do at least, bytes per ms. */
const COPY_BYTES_PER_MS = 200_000;
const TOLD = 5;

interface Rehearsed {
  readonly notices: string[];
  rehearsal?: RehearsalReport;
}

/** No steps where the service has no rehearsal. */
export function rehearsalSteps(
  env: RunEnvironment,
  record: RunRecord,
  bootOptions: StartOptions,
  result: Rehearsed,
): Step[] {
  const spec = env.services.find((service) => service.name === record.service)?.rehearsal;
  if (spec === undefined || (spec.requests.length === 0 && spec.recording === undefined)) return [];
  const { to } = record;
  const copy = {
    id: `${to}-rehearsal`,
    path: join(env.stateDirectory, 'write-log', `${record.id}-rehearsal.img`),
  };
  const dispose = async () => {
    await env.disks.execute('disk-remove', { id: copy.id }).catch(() => {});
    rmSync(copy.path, { force: true });
  };
  return [
    {
      name: 'rehearse',
      figure: '',
      do: async (tools): Promise<Facts> => {
        const recorded = await Recorded.take(env, record, spec);
        await recorded.askActive('before', tools.checkCancelled);
        const frozenMs = record.hasApplicationDisk ? await copyData(env, record, copy) : undefined;
        if (frozenMs === undefined && record.hasApplicationDisk) {
          const why = `the application disk of ${record.from} cannot be copied within budget.pauseMs`;
          result.rehearsal = { requests: 0, same: 0, differences: [], notRehearsed: why };
          return decide(spec, result);
        }
        await recorded.askActive('after', tools.checkCancelled);
        await env.hypervisor.control(to).startApplication(START_TIMEOUT_MS);
        const found: RehearsalDifference[] = [];
        let same = 0;
        const total = spec.requests.length + recorded.size;
        for (const [i, request] of spec.requests.entries()) {
          tools.checkCancelled();
          tools.progress({ done: i, total, unit: 'items' });
          const one = await rehearse(env, record, spec, request);
          if (one.length === 0) same++;
          found.push(...one);
        }
        found.push(
          ...(await recorded.askStandby((done) => {
            tools.checkCancelled();
            tools.progress({ done: spec.requests.length + done, total, unit: 'items' });
          })),
        );
        const outcomes = recorded.outcomes();
        result.rehearsal = {
          requests: spec.requests.length + recorded.size,
          same: same + outcomes.filter(({ outcome }) => outcome === 'same').length,
          differences: found,
          ...(spec.recording === undefined ? {} : { recorded: outcomes }),
          ...(frozenMs === undefined ? {} : { frozenMs }),
        };
        return decide(spec, result);
      },
      undo: async () => {
        await env.mux.execute('private-path', { probe: env.probe.port, port: null });
        await env.hypervisor.stopPartition(to);
        await dispose();
      },
    },
    {
      name: 'leave-rehearsal',
      figure: '708',
      do: async () => {
        const status = await env.hypervisor.restartPartition(to, bootOptions);
        await dispose();
        return { bootMs: status.guest?.bootMs };
      },
    },
  ];
}

function decide(spec: RehearsalSpec, result: Rehearsed): Facts {
  const { rehearsal, notices } = result;
  if (rehearsal === undefined) return {};
  const { requests, same, differences: found, recorded, notRehearsed } = rehearsal;
  const facts = {
    requests,
    same,
    differences: found.length,
    ...(recorded === undefined ? {} : { recorded: recorded.length }),
  };
  if (found.length === 0 && notRehearsed === undefined) return facts;
  const lines = found
    .slice(0, TOLD)
    .map(({ request, what, active, standby }) => `${request}: ${what} is ${standby}, not ${active}`);
  if (found.length > TOLD) lines.push(`${found.length - TOLD} more`);
  const sentence = notRehearsed ?? `the patched standby answers otherwise: ${lines.join('; ')}`;
  if (spec.onDifference === 'refuse') {
    throw new PatchError('rehearsal-differs', sentence, {
      remedy: 'correct the patch, or name what may differ in services[].rehearsal',
    });
  }
  notices.push(sentence);
  return facts;
}

/** How long the active's writes waited; undefined: it would have taken too long. */
async function copyData(
  env: RunEnvironment,
  record: RunRecord,
  copy: { id: string; path: string },
): Promise<number | undefined> {
  const { disks, hypervisor, clock, policy } = env;
  const { from, to } = record;
  const source = hypervisor.partitionConfig(to).disks.find((disk) => disk.role === 'application');
  if (source === undefined) throw new PatchError('no-standby', `${to} has no application disk`);
  const duplicate = (reflink: 'always' | 'never') =>
    run('cp', [`--reflink=${reflink}`, '--sparse=always', '--', source.path, copy.path], {
      timeout: COPY_TIMEOUT_MS,
    });
  const group = `${record.id}-copy`;
  await disks.execute('copy-round', { copy: group }, { timeoutMs: COPY_TIMEOUT_MS });
  const [status] = await disks.execute('disk-status', { id: diskId(from, 'application') });
  const plain = Number(status?.allocated ?? 0) / COPY_BYTES_PER_MS <= policy.budget.pauseMs;
  const control = hypervisor.control(from);
  const startMs = clock.nowMs();
  await control.freezeFileSystems();
  try {
    await disks.execute('copy-round', { copy: group }, { timeoutMs: COPY_TIMEOUT_MS });
    await duplicate('always').catch(async () => {
      rmSync(copy.path, { force: true });
      if (plain) await duplicate('never');
    });
  } finally {
    await control.thawFileSystems();
  }
  const frozenMs = clock.nowMs() - startMs;
  const made = await disks
    .execute('disk-add', { id: copy.id, path: copy.path })
    .catch((error: { code?: string }) => {
      if (error.code === 'ENOENT' && !plain) return undefined;
      throw error;
    });
  if (made === undefined) return undefined;
  await disks.execute('serve', {
    socket: hypervisor.paths.nbd(to),
    exports: { system: diskId(to, 'system'), application: copy.id },
  });
  return frozenMs;
}
