/** The application disk's part of a move: last delta and fence (904, 905), the log for the way back, mount and start. */
import { join } from 'node:path';
import { messageOf, reach } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import { ensureStopped } from '../execution/index.ts';
import type { Facts, Step } from '../run/step.ts';
import { collectGarbage } from './collect.ts';
import type { Move } from './move.ts';

const CUT_TIMEOUT_MS = 30_000;
/** A program that is not done loading by then goes on loading within the pause. */
const LOAD_MS = 5_000;

/** A fence of an earlier cut, in which this disk was the old one. */
export async function lowerTargetFence(move: Move): Promise<void> {
  if (!move.record.hasApplicationDisk || move.isTargetOpen) return;
  await move.env.disks.execute('fence', { id: move.applicationDisk(move.to), mode: 'none' });
  move.isTargetOpen = true;
}

/** At one instant: writes stop, the last delta is reflected, the old disk is fenced. */
export function cutApplicationDisk(move: Move): Step {
  const { env, from } = move;
  return {
    name: 'cut-application-disk',
    figure: '904, 905',
    do: async (): Promise<Facts | undefined> => {
      if (!move.record.hasApplicationDisk) return { skipped: 'no application disk' };
      const control = move.fromIsDead ? undefined : env.hypervisor.control(from);
      const freezing = move.isFrozen ? undefined : control?.freezeFileSystems();
      const source = move.applicationDisk(from);
      await Promise.all([freezing, lowerTargetFence(move)]);
      // Nothing waits for the thaw: what the old partition writes then meets the fence.
      const thaw = () => {
        control?.thawFileSystems().catch((error) => {
          env.log.warn('file systems were not thawed', { partition: from, reason: messageOf(error) });
        });
      };
      try {
        reach('disk-cut.frozen');
        const cut = await env.disks.execute(
          'copy-cut',
          // What was read back before counts: nobody waits for more than the last delta.
          { copy: move.copy, from: [source], fence: env.policy.lateWrites, verify: 'bounded' },
          { timeoutMs: CUT_TIMEOUT_MS },
        );
        reach('disk-cut.fenced');
        move.deltaBytes = cut.disks.map((d) => d.deltaBytes)[0] ?? '0';
        return {
          deltaBytes: move.deltaBytes,
          cutMs: cut.durationMs,
          fence: env.policy.lateWrites,
          ...cut.disks[0]?.proof,
        };
      } finally {
        thaw();
      }
    },
    undo: async () => {
      if (!move.record.hasApplicationDisk) return;
      await env.disks.execute('fence', { id: move.applicationDisk(from), mode: 'none' });
      reach('disk-cut.unfenced');
      if (!move.fromIsDead) await env.hypervisor.control(from).thawFileSystems();
    },
  };
}

/** From here on every write of the new active is logged, so that the way back loses none. */
export function startReverseLog(move: Move): Step {
  const { env, from, to, reverse } = move;
  return {
    name: 'start-reverse-log',
    figure: '',
    do: async () => {
      if (reverse === undefined || !move.record.hasApplicationDisk)
        return { skipped: 'nothing to carry back' };
      await env.disks.execute('reverse-start', {
        copy: reverse,
        pairs: [{ from: move.applicationDisk(to), to: move.applicationDisk(from) }],
        logDirectory: join(env.stateDirectory, 'write-log', `${move.record.id}-reverse`),
      });
      return undefined;
    },
    undo: async () => {
      if (reverse === undefined || !move.record.hasApplicationDisk) return;
      await env.disks.execute('copy-cancel', { copy: reverse });
    },
  };
}

const MAX_CARRIED_FILES = 256;
const MAX_CARRIED_BYTES = 16 * 1024 * 1024;

/**
 * What the old partition wrote to its system disk since that was cut is not on the new one's. Files that the configuration
 * names are carried; everything else is listed in the report. No step where nothing is named.
 */
export function carrySystemFiles(move: Move): Step[] {
  const { env, from, to } = move;
  const { carry = [] } = env.policy;
  if (carry.length === 0 || move.fromIsDead) return [];
  return [
    {
      name: 'carry-system-files',
      figure: '',
      do: async () => {
        const old = env.hypervisor.control(from);
        const { files, more } = await old.changedFiles(move.systemCutMs, MAX_CARRIED_FILES, [...carry]);
        const large = files.find(({ size }) => size > MAX_CARRIED_BYTES);
        if (more || large !== undefined) {
          const what =
            large === undefined
              ? `more than ${MAX_CARRIED_FILES} files`
              : `${large.path}, ${large.size} bytes`;
          throw new PatchError('over-budget', `too much was written where patching.carry points: ${what}`, {
            remedy: 'name fewer files, or keep such data on the application disk',
          });
        }
        for (const { path, size } of files) {
          await env.hypervisor.control(to).writeFile(path, await old.readFile(path, size + 1));
        }
        move.carried = files.map(({ path }) => path);
        return { files: move.carried };
      },
    },
  ];
}

/**
 * The new active's program is run as far as it comes without its disk, before anybody waits: what does not load is found here.
 * Its port is isolated. Files that are carried to its system disk come later than that, so with them nothing is loaded early.
 */
export function loadApplication(move: Move, figure = '1304'): Step[] {
  const { env, to } = move;
  const { carry = [] } = env.policy;
  if (carry.length > 0) return [];
  return [
    {
      name: 'load-application',
      figure,
      do: async () => {
        const { state, durationMs } = await env.hypervisor.control(to).loadApplication(LOAD_MS);
        await collectGarbage(move, 'all');
        return { state, loadMs: durationMs };
      },
      undo: () => ensureStopped(env, to),
    },
  ];
}

/** Attaches the application disk to the new active and starts the application on it. */
export function startApplication(move: Move, timeoutMs: number, figure = '1304'): Step {
  const { env, to } = move;
  return {
    name: 'start-application',
    figure,
    do: async () => {
      if (move.record.hasApplicationDisk) await env.hypervisor.exportApplicationDisk(to, true);
      reach('start-application.exported');
      const started = await env.hypervisor.control(to).startApplication(timeoutMs);
      return { startMs: started.durationMs, listening: started.listening };
    },
    undo: () => ensureStopped(env, to),
  };
}
