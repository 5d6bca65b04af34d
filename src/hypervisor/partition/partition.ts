/**
 * One partition at run time: its lifecycle, the guest that runs it, the channel to its agent. Who starts it has attached its
 * devices before. Rules: a guest that ends without having been asked has crashed (`failed`, with its last output); a guest
 * that reports the phase `failed` is given a moment to answer what was asked, then it is killed; one that is said to run and
 * does not answer, stopped or stuck, is killed, so that it cannot go on later beside whoever took its place; in `defined`, `stopped` and
 * `failed` no process of the partition runs.
 */
import type { GuestStatus } from '../../channel/index.ts';
import { isSilent } from '../../channel/index.ts';
import type { Log } from '../../common/index.ts';
import { CodedError, messageOf } from '../../common/index.ts';
import { ControlProgram } from '../control-program/index.ts';
import type { GuestExit, GuestKind, GuestSpec, RunningGuest } from '../guest-kind/guest-kind.ts';
import type { PartitionConfig } from './config.ts';
import { Lifecycle } from './lifecycle.ts';
import type { PartitionStatus, StartOptions } from './status.ts';

/** Codes: `start-failed`, `not-running`, `ended`. */
export class PartitionError extends CodedError {}

const DEFAULT_START_MS = 10_000;
const DEFAULT_STOP_MS = 5_000;
const KILL_MS = 2_000;
const FAILED_GRACE_MS = 250;
const STATUS_MS = 1_000;
const REASON_LINES = 5;

export class Partition {
  readonly config: PartitionConfig;
  readonly lifecycle: Lifecycle;
  readonly #kind: GuestKind;
  readonly #log: Log;
  #guest: RunningGuest | undefined;
  #control: ControlProgram | undefined;
  #ended: Promise<void> = Promise.resolve();
  #lastOutput: readonly string[] = [];
  options: StartOptions | undefined;
  readonly #answerMs: number | undefined;

  /** `answerMs`: a running guest that does not answer for so long is killed; undefined: nobody looks. */
  constructor(config: PartitionConfig, kind: GuestKind, log: Log, answerMs?: number) {
    this.#answerMs = answerMs;
    this.config = config;
    this.lifecycle = new Lifecycle(config.id);
    this.#kind = kind;
    this.#log = log.with({ partition: config.id });
  }

  get id(): string {
    return this.config.id;
  }

  /** Starts the guest and waits for `ready` (and `serving` when asked). Throws PartitionError `start-failed`. */
  async start(spec: GuestSpec, options: StartOptions): Promise<void> {
    const timeoutMs = options.timeoutMs ?? DEFAULT_START_MS;
    const untilMs = performance.now() + timeoutMs;
    const leftMs = () => Math.max(1, untilMs - performance.now());
    this.lifecycle.to('starting');
    this.options = options;
    try {
      const guest = await this.#kind.start(spec);
      this.#guest = guest;
      for (const note of guest.notes) this.#log.warn(note);
      let ended = false;
      const exited = guest.exited.then((exit): never => {
        ended = true;
        throw new PartitionError('ended', `it ended ${exitText(exit)}`);
      });
      exited.catch(() => {});
      // A guest that has ended will not listen any more: the longer wait is given up with it.
      const control = await Promise.race([
        exited,
        ControlProgram.connect(this.id, spec.agentSocket, leftMs()),
      ]);
      this.#control = control;
      this.#watch(guest, control);
      await Promise.race([exited, control.waitFor(['ready', 'serving'], leftMs())]);
      if (options.startApplication) await Promise.race([exited, control.startApplication(leftMs())]);
      if (ended) await exited;
      this.lifecycle.to('running');
    } catch (error) {
      const output = await this.#discard();
      const reason = messageOf(error);
      if (this.lifecycle.state === 'starting') this.lifecycle.to('failed', reason);
      throw new PartitionError(
        'start-failed',
        `partition ${this.id} did not start: ${reason}${quote(output)}`,
        {
          cause: error,
          values: { partition: this.id, lastOutput: output },
          remedy: `read ${spec.logFile}`,
        },
      );
    }
  }

  /** Takes over a guest that runs already. False: none does. */
  async adopt(spec: Omit<GuestSpec, 'addresses'>): Promise<boolean> {
    const guest = await this.#kind.adopt(spec);
    if (guest === undefined) return false;
    let control: ControlProgram;
    let status: GuestStatus;
    try {
      control = await ControlProgram.connect(this.id, spec.agentSocket, STATUS_MS);
      status = await control.status(this.#answerMs);
    } catch (error) {
      this.#log.warn('a guest runs but does not answer; it is killed', {
        pid: guest.pid,
        reason: messageOf(error),
      });
      guest.kill();
      await guest.exited;
      return false;
    }
    this.#guest = guest;
    this.#control = control;
    this.lifecycle.to('running');
    const serving = status.phase === 'serving' || status.phase === 'frozen';
    this.options = {
      addresses: status.addresses,
      isolated: false,
      applicationDisk: serving,
      startApplication: serving,
    };
    this.#watch(guest, control);
    return true;
  }

  /** Asks the guest to end, kills it after `timeoutMs`. Does nothing when nothing runs. */
  async stop(timeoutMs = DEFAULT_STOP_MS): Promise<void> {
    const guest = this.#guest;
    if (guest === undefined) {
      if (this.lifecycle.state === 'failed') this.lifecycle.to('stopped');
      return;
    }
    if (this.lifecycle.state !== 'failed') this.lifecycle.to('stopping');
    this.#control?.shutdown('powerdown', timeoutMs).catch((error) => {
      this.#log.warn('the guest did not take the request to end', { reason: messageOf(error) });
    });
    if (!(await settled(guest.exited, timeoutMs))) {
      this.#log.warn(`the guest did not end within ${timeoutMs} ms; it is killed`, { pid: guest.pid });
      guest.kill();
      await settled(guest.exited, KILL_MS);
    }
    await this.#ended;
    if (this.lifecycle.state !== 'stopped') this.lifecycle.to('stopped');
  }

  /** Throws PartitionError `not-running`. */
  get control(): ControlProgram {
    if (this.#control === undefined || this.#control.closed) {
      throw new PartitionError(
        'not-running',
        `partition ${this.id} is ${this.lifecycle.state}: it cannot be asked`,
        {
          values: { partition: this.id, state: this.lifecycle.state },
          remedy: `start it: changeover partition start ${this.id}`,
        },
      );
    }
    return this.#control;
  }

  get running(): boolean {
    return this.#guest !== undefined;
  }

  async status(): Promise<PartitionStatus> {
    const control = this.#control;
    const guest =
      control === undefined || control.closed
        ? undefined
        : await control.status(STATUS_MS).catch(() => undefined);
    const { reason, state } = this.lifecycle;
    return {
      id: this.id,
      state,
      ...(this.#guest === undefined ? {} : { pid: this.#guest.pid }),
      addresses: guest?.addresses ?? this.options?.addresses ?? [],
      isolated: this.options?.isolated ?? true,
      applicationDisk: this.options?.applicationDisk ?? false,
      ...(guest === undefined ? {} : { guest }),
      ...(reason === undefined ? {} : { reason }),
      lastOutput: this.#guest?.lastOutput() ?? this.#lastOutput,
      notes: this.#guest?.notes ?? [],
    };
  }

  /** Gives up the channel; the guest goes on. */
  release(): void {
    const control = this.#control;
    this.#control = undefined;
    this.#guest = undefined;
    control?.close();
  }

  #watchPulse(guest: RunningGuest, control: ControlProgram, answerMs: number): void {
    const look = async () => {
      if (this.#guest !== guest) return;
      if (this.lifecycle.state === 'running') {
        if (await isSilent((timeoutMs) => control.ping(timeoutMs), answerMs)) {
          if (this.#guest === guest && this.lifecycle.state === 'running') {
            this.#log.error('the guest does not answer and is killed', { pid: guest.pid, answerMs });
            guest.kill();
          }
          return;
        }
      }
      setTimeout(() => void look(), answerMs / 4).unref();
    };
    setTimeout(() => void look(), answerMs / 4).unref();
  }

  #watch(guest: RunningGuest, control: ControlProgram): void {
    if (this.#answerMs !== undefined) this.#watchPulse(guest, control, this.#answerMs);
    control.on('PHASE', ({ phase, reason }) => {
      if (phase !== 'failed') return;
      setTimeout(() => {
        if (this.#guest !== guest) return;
        if (this.lifecycle.state === 'running')
          this.lifecycle.to('failed', reason ?? 'the guest reported a failure');
        guest.kill();
      }, FAILED_GRACE_MS);
    });
    this.#ended = guest.exited.then((exit) => {
      if (this.#guest !== guest) return;
      this.#lastOutput = guest.lastOutput();
      this.#guest = undefined;
      this.#control = undefined;
      control.close();
      if (this.lifecycle.state === 'stopping') this.lifecycle.to('stopped');
      else if (this.lifecycle.state === 'running') {
        const reason = `crashed: it ended ${exitText(exit)}${quote(this.#lastOutput)}`;
        this.#log.error('the partition crashed', { reason });
        this.lifecycle.to('failed', reason);
      }
    });
  }

  /** Kills what there is after a failed start; its last output. */
  async #discard(): Promise<readonly string[]> {
    const guest = this.#guest;
    this.#control?.close();
    this.#control = undefined;
    if (guest === undefined) return this.#lastOutput;
    this.#guest = undefined;
    guest.kill();
    await settled(guest.exited, KILL_MS);
    this.#lastOutput = guest.lastOutput();
    return this.#lastOutput;
  }
}

function exitText(exit: GuestExit): string {
  if (exit.signal !== null) return `by ${exit.signal}`;
  return exit.code === null ? 'without a known exit code' : `with exit code ${exit.code}`;
}

function quote(lines: readonly string[]): string {
  return lines.length === 0 ? '' : `; its last output: ${lines.slice(-REASON_LINES).join(' | ')}`;
}

async function settled(promise: Promise<unknown>, limitMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<boolean>((resolve) => {
    timer = setTimeout(() => resolve(false), limitMs);
  });
  const result = await Promise.race([promise.then(() => true), expired]);
  clearTimeout(timer);
  return result;
}
