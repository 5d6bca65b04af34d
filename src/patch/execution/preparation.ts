/**
 * Steps 701 … 709 of Fig 7: everything up to the cut, while the active partition serves. The standby is chosen before
 * (the record names it); what happens here touches only the standby and the write log of the active's disks.
 */
import { join } from 'node:path';
import type { GuestPatchResult } from '../../channel/index.ts';
import { PATCH_PATHS } from '../../channel/index.ts';
import { messageOf } from '../../common/index.ts';
import type { CopyStatus } from '../../hypervisor/index.ts';
import { diskId } from '../../hypervisor/index.ts';
import { PatchError } from '../errors.ts';
import { tableForGuest } from '../patch-table.ts';
import { addressPairs } from '../policy.ts';
import type { RehearsalReport } from '../rehearsal/index.ts';
import { rehearsalSteps } from '../rehearsal/index.ts';
import type { RunEnvironment } from '../run/environment.ts';
import type { PlannedStep, RunRecord, SystemChanges } from '../run/record.ts';
import type { Facts, Step, StepTools } from '../run/step.ts';
import { scanSystemDisk } from './malware.ts';

/** A cut waits for the proof so long at most, and no longer than this while nothing more is proven. */
const PROOF_LIMIT_MS = 60_000;
const PROOF_QUIET_MS = 1000;
const POLL_MS = 25;
/** A copy's rate is believed after so long. */
const FORECAST_AFTER_MS = 2_000;
const BOOT_TIMEOUT_MS = 30_000;
/** The guests' self-check; the active serves meanwhile: three rounds of it made its clients wait for up to 0.2 s. */
const STANDBY_CHECK = { rounds: 8, connections: 16 };
const ACTIVE_CHECK = { rounds: 1, connections: 8 };

/** What the preparation finds out and the report shows. */
export interface PreparationResult {
  patchResults: GuestPatchResult[];
  readonly hashes: Record<string, string>;
  readonly notices: string[];
  rehearsal?: RehearsalReport;
  /** Found out later: steps of the cut of a dry run; what the old system disk got after its cut. */
  planned?: PlannedStep[];
  systemChanges?: SystemChanges;
}

/** The standby has an address of its own until the cut: by H7 and H8. */
function standsApart(record: RunRecord): boolean {
  return record.procedure === undefined ? record.strategy === 'overlap' : record.procedure !== 'H6';
}

export function copyName(record: RunRecord): string {
  return `${record.id}-copy`;
}

export function preparationSteps(env: RunEnvironment, record: RunRecord, result: PreparationResult): Step[] {
  const { hypervisor, disks } = env;
  const { from, to } = record;
  const copy = copyName(record);
  const bootOptions = {
    addresses: addressPairs(record).map(({ address, second }) =>
      standsApart(record) && second !== undefined ? second : address,
    ),
    isolated: true,
    applicationDisk: false,
    startApplication: false,
    timeoutMs: BOOT_TIMEOUT_MS,
  };

  return [
    {
      name: 'assign-standby',
      figure: '701',
      do: async () => {
        hypervisor.resources.setAssigned(to, true);
        await ensureStopped(env, to);
        return { standby: to };
      },
      undo: async () => hypervisor.resources.setAssigned(to, false),
    },
    {
      name: 'check-system-disk',
      figure: '702',
      do: async () => {
        const scan = await scanSystemDisk(env, from);
        if (scan.notice !== undefined) result.notices.push(scan.notice);
        return { scanned: scan.scanned, detail: scan.detail };
      },
    },
    {
      name: 'copy-disks',
      figure: '703, 704',
      do: (tools) => copyDisks(env, record, tools),
      undo: async () => {
        await ignoring('unknown-copy', disks.execute('copy-cancel', { copy }));
      },
    },
    {
      name: 'cut-system-disk',
      figure: '804, 805',
      do: () => cutSystemDisk(env, record, result),
      undo: async () => {
        await hypervisor.control(from).thawFileSystems();
      },
    },
    {
      name: 'copy-patch-files',
      figure: '705',
      do: async () => {
        const rows = env.patches.rows();
        const flagged = rows.filter((row) => record.patches.includes(row.file));
        const table = tableForGuest(
          rows.filter((row) => row.date !== null || record.patches.includes(row.file)),
        );
        await hypervisor.inject(to, 'system', [
          { path: PATCH_PATHS.table, data: Buffer.from(`${JSON.stringify(table, null, 2)}\n`) },
          ...flagged.map((row) => ({
            path: `${PATCH_PATHS.files}/${row.file}`,
            data: env.patches.readFile(row.file),
          })),
        ]);
        return { files: flagged.map((row) => row.file) };
      },
    },
    {
      name: 'copy-patch-script',
      figure: '706',
      do: async () => {
        await hypervisor.inject(to, 'system', [
          { path: PATCH_PATHS.script, data: Buffer.from(env.patchScript) },
        ]);
        return undefined;
      },
    },
    {
      name: 'boot-standby',
      figure: '707',
      do: async () => {
        const status = await hypervisor.startPartition(to, bootOptions);
        return { bootMs: status.guest?.bootMs, startUp: status.guest?.startUp };
      },
      undo: () => ensureStopped(env, to),
    },
    {
      name: 'hand-back-results',
      figure: '1207',
      do: async () => {
        const { results } = await hypervisor.control(to).patchResults();
        result.patchResults = results;
        storeResults(env, record, results);
        const bad = results.filter((r) => !r.ok);
        if (bad.length > 0) {
          throw new PatchError('patch-failed', bad.map((r) => `${r.file}: ${r.output}`).join('; '), {
            remedy: 'the active partition goes on unchanged; correct the patch or unflag it',
          });
        }
        const missing = record.patches.filter((file) => !results.some((r) => r.file === file));
        if (missing.length > 0) {
          throw new PatchError('patch-failed', `the standby reported no result for ${missing.join(', ')}`);
        }
        return { results };
      },
    },
    {
      name: 'restart-standby',
      figure: '708',
      do: async () => {
        const status = await hypervisor.restartPartition(to, bootOptions);
        return { bootMs: status.guest?.bootMs };
      },
    },
    {
      name: 'check-standby',
      figure: '709',
      do: async () => {
        // Both ends of the hand-over are proven, and their code is warm, before a client depends on them.
        const [theirs, ours] = [hypervisor.control(to), hypervisor.control(from)];
        const [standby] = await Promise.all([
          theirs.selfCheck(STANDBY_CHECK.rounds, STANDBY_CHECK.connections),
          ours.selfCheck(ACTIVE_CHECK.rounds, ACTIVE_CHECK.connections),
        ]);
        const status = await hypervisor.control(to).status();
        const failed = status.startUp.filter((script) => !script.ok);
        if (status.phase !== 'ready' || failed.length > 0) {
          const why = failed.map((script) => `${script.script}: ${script.output}`).join('; ');
          throw new PatchError(
            'standby-failed',
            `the restarted standby is ${status.phase} ${why || status.reason || ''}`,
          );
        }
        return { phase: status.phase, handOverMs: standby.lastRoundMs };
      },
    },
    ...rehearsalSteps(env, record, bootOptions, result),
  ];
}

async function copyDisks(env: RunEnvironment, record: RunRecord, tools: StepTools): Promise<Facts> {
  const { disks, policy } = env;
  const { from, to } = record;
  const roles = record.hasApplicationDisk ? (['system', 'application'] as const) : (['system'] as const);
  await ensureTargets(env, record, roles);
  const copy = copyName(record);
  const startedMs = env.clock.nowMs();
  const pairs = roles.map((role) => ({ from: diskId(from, role), to: diskId(to, role) }));
  const logDirectory = join(env.stateDirectory, 'write-log', record.id);
  const limit = { timeoutMs: 30_000 };
  // A mirror answers to the same commands as a copy.
  let status: CopyStatus = await (policy.copy === 'mirror'
    ? disks.execute('mirror-start', { mirror: copy, pairs }, limit)
    : disks.execute('copy-start', { copy, pairs, logDirectory }, limit));
  while (status.phase !== 'converged') {
    if (status.phase === 'failed' || status.phase === 'cancelled') {
      throw new PatchError(
        'copy-failed',
        `the copy ${from} → ${to} ended: ${status.reason ?? status.phase}`,
        {
          remedy: 'the active partition goes on; free space or mend the disk, then run again',
        },
      );
    }
    tools.checkCancelled();
    tools.progress({
      done: Number(status.copied),
      total: Number(status.total),
      unit: 'bytes',
      ratePerSecond: status.bytesPerSecond,
      ...(status.etaMs === undefined ? {} : { etaMs: status.etaMs }),
    });
    const elapsedMs = env.clock.nowMs() - startedMs;
    const forecastMs = elapsedMs + (elapsedMs < FORECAST_AFTER_MS ? 0 : (status.etaMs ?? 0));
    if (elapsedMs <= policy.budget.copyMs && forecastMs > policy.budget.copyMs) {
      throw new PatchError(
        'over-budget',
        `the copy is forecast to take ${Math.round(forecastMs)} ms, the budget is ${policy.budget.copyMs} ms: ${status.copied} of ${status.total} bytes copied at ${Math.round(status.bytesPerSecond)} bytes/s, written at ${Math.round(status.writeRate)} bytes/s`,
        { remedy: 'raise patching.budget.copyMs or run when less is written' },
      );
    }
    if (elapsedMs > policy.budget.copyMs) {
      throw new PatchError(
        'over-budget',
        `the copy has not converged after ${Math.round(elapsedMs)} ms: ${status.delta} bytes behind, written at ${Math.round(status.writeRate)} bytes/s`,
        { remedy: 'raise patching.budget.copyMs or run when less is written' },
      );
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    status = await disks.execute('copy-status', { copy });
  }
  return { bytes: status.copied, rounds: status.rounds, bytesPerSecond: status.bytesPerSecond };
}

/** The targets exist and are as large as their sources. */
async function ensureTargets(
  env: RunEnvironment,
  record: RunRecord,
  roles: readonly ('system' | 'application')[],
): Promise<void> {
  const sources = await env.disks.execute('disk-status', {});
  for (const role of roles) {
    const source = sources.find((disk) => disk.id === diskId(record.from, role));
    if (source === undefined) {
      throw new PatchError(
        'copy-failed',
        `the ${role} disk of ${record.from} is not served by the block process`,
      );
    }
    const target = env.hypervisor.partitionConfig(record.to).disks.find((disk) => disk.role === role);
    if (target === undefined) throw new PatchError('no-standby', `${record.to} has no ${role} disk`);
    await env.disks.execute('disk-add', {
      id: diskId(record.to, role),
      path: target.path,
      create: source.size,
    });
  }
}

async function cutSystemDisk(
  env: RunEnvironment,
  record: RunRecord,
  result: PreparationResult,
): Promise<Facts> {
  const control = env.hypervisor.control(record.from);
  const system = diskId(record.from, 'system');
  await untilProven(env, copyName(record));
  await control.freezeFileSystems();
  const cut = await env.disks
    .execute('copy-cut', { copy: copyName(record), from: [system], verify: 'bounded' }, { timeoutMs: 30_000 })
    .finally(() => control.thawFileSystems());
  const proof = cut.disks[0]?.proof;
  const isProven = proof?.unproven === '0';
  const target = diskId(record.to, 'system');
  const hash = (id: string, unchanged: boolean) =>
    env.disks.execute('hash', { id, unchanged }, { timeoutMs: 600_000 });
  try {
    const copied = await hash(target, false);
    // What was proven equal at the cut need not be read once more; the source is written on.
    const source = isProven ? copied : await hash(system, true);
    result.hashes[system] = source.sha256;
    result.hashes[target] = copied.sha256;
    if (source.sha256 !== copied.sha256) {
      throw new PatchError(
        'copy-failed',
        `the copy of ${system} differs from it: ${copied.sha256} instead of ${source.sha256}`,
      );
    }
  } catch (error) {
    if (error instanceof PatchError) throw error;
    result.notices.push(`the copy of ${system} was not proven by hash: ${messageOf(error)}`);
  }
  return {
    deltaBytes: cut.disks.map((d) => d.deltaBytes),
    sequence: cut.disks.map((d) => d.sequence),
    ...(proof === undefined
      ? {}
      : { proven: proof.proven, compared: proof.compared, unproven: proof.unproven }),
  };
}

/** The block process proves targets while it copies them; a cut that comes later has little left to prove. Not for ever. */
async function untilProven(env: RunEnvironment, copy: string): Promise<void> {
  const { disks, clock } = env;
  const untilMs = clock.nowMs() + PROOF_LIMIT_MS;
  let before = '';
  let changedMs = clock.nowMs();
  while (clock.nowMs() < untilMs) {
    const { unproven } = await disks.execute('copy-status', { copy });
    // A mirror proves nothing meanwhile.
    if (unproven === undefined || unproven === '0') return;
    if (unproven !== before) changedMs = clock.nowMs();
    before = unproven;
    // What is left then is what is written all the time.
    if (clock.nowMs() - changedMs > PROOF_QUIET_MS) return;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function storeResults(env: RunEnvironment, record: RunRecord, results: readonly GuestPatchResult[]): void {
  for (const row of env.patches.rows()) {
    const found = results.find((r) => r.file === row.file);
    if (found === undefined || !record.patches.includes(row.file)) continue;
    env.patches.put({ ...row, result: { ok: found.ok, at: found.at, output: found.output } });
  }
}

/**
 * Nothing of the partition runs, and none of its disks is served: also after a control process that died while it started
 * the partition. Safe to repeat.
 */
export async function ensureStopped(env: RunEnvironment, id: string): Promise<void> {
  await env.hypervisor.stopPartition(id);
}

/** For commands that find nothing left to do. */
async function ignoring(code: string, work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if ((error as { code?: string }).code !== code) throw error;
  }
}
