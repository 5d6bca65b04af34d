/**
 * What a client and the mux saw while a run went on: the curves of the evidence page. A health check through the uplink, as a
 * client would ask, and the frames of both partitions' ports, twice a second, ten times a second around a move.
 */
import type { Clock, Timer } from '../../common/index.ts';
import type { MuxClient } from '../../hypervisor/index.ts';
import type { HealthCheck } from '../policy.ts';
import type { ServiceProbe } from '../run/environment.ts';

/** One health check. */
export interface PulseAnswer {
  /** Wall clock, ms since 1970, when it was answered. */
  readonly atMs: number;
  readonly durationMs: number;
  /** Since the first question that had no good answer: what a client waited that asked again and again. */
  readonly waitedMs: number;
  readonly ok: boolean;
}

/** Frames that the mux moved since the sample before, per second. */
export interface PulseRate {
  readonly atMs: number;
  readonly old: number;
  readonly new: number;
}

/** Bytes of the copy. */
export interface PulseCopy {
  readonly atMs: number;
  readonly copied: number;
  readonly remaining: number;
}

export interface PulseCurves {
  readonly answers: readonly PulseAnswer[];
  readonly rates: readonly PulseRate[];
  readonly copy: readonly PulseCopy[];
}

export interface PulseOptions {
  readonly clock: Clock;
  readonly mux: Pick<MuxClient, 'execute'>;
  readonly probe: ServiceProbe;
  readonly address: string;
  readonly health: HealthCheck;
  /** Names of the two partitions' ports at the mux. */
  readonly ports: { readonly old: string; readonly new: string };
  readonly copy: () => { readonly copied: number; readonly remaining: number } | undefined;
  /** The pulse is over, until it is begun again. */
  readonly ended: () => void;
}

const CALM_MS = 500;
const CLOSE_MS = 100;
/** A pulse goes on for so long after what it was begun for. */
export const AFTERMATH_MS = 5_000;
/** Samples of a curve; the oldest half of those of calm times goes first. */
const MOST_SAMPLES = 6_000;

export class Pulse {
  readonly #options: PulseOptions;
  #answers: PulseAnswer[] = [];
  #rates: PulseRate[] = [];
  #copy: PulseCopy[] = [];
  #before: { atMs: number; old: number; new: number } | undefined;
  #timer: Timer | undefined;
  #intervalMs = CALM_MS;
  #untilMs = Number.POSITIVE_INFINITY;
  #asking = false;
  #unansweredSinceMs: number | undefined;
  #counting = false;

  constructor(options: PulseOptions) {
    this.#options = options;
  }

  get curves(): PulseCurves {
    return { answers: this.#answers, rates: this.#rates, copy: this.#copy };
  }

  get isRunning(): boolean {
    return this.#timer !== undefined;
  }

  /** Goes on until `end`; `close` around a move. */
  begin(near: boolean): void {
    this.#untilMs = Number.POSITIVE_INFINITY;
    this.#intervalMs = near ? CLOSE_MS : CALM_MS;
    this.#timer?.cancel();
    this.#tick();
  }

  /** Ends after `AFTERMATH_MS`, or at once. */
  end(now = false): void {
    this.#untilMs = now ? 0 : this.#options.clock.nowMs() + AFTERMATH_MS;
    if (!now) return;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  #tick(): void {
    const { clock } = this.#options;
    this.#timer = undefined;
    if (clock.nowMs() >= this.#untilMs) {
      this.#before = undefined;
      this.#options.ended();
      return;
    }
    this.#timer = clock.after(this.#intervalMs, () => this.#tick());
    void this.#ask();
    void this.#count();
    const copy = this.#options.copy();
    if (copy === undefined) return;
    this.#copy.push({ atMs: this.#wallMs(), ...copy });
    if (this.#copy.length > MOST_SAMPLES) this.#copy = limited(this.#copy);
  }

  async #ask(): Promise<void> {
    // One at a time: what waits longer than the interval is the answer to the next question, too.
    if (this.#asking) return;
    this.#asking = true;
    const { clock, probe, address, health } = this.#options;
    this.#unansweredSinceMs ??= clock.nowMs();
    try {
      const answer = await probe.pulse(address, health);
      const waitedMs = clock.nowMs() - this.#unansweredSinceMs;
      if (answer?.ok !== false) this.#unansweredSinceMs = undefined;
      if (answer === undefined) return;
      const { durationMs, ok } = answer;
      this.#answers.push({ atMs: this.#wallMs(), durationMs, waitedMs, ok });
      if (this.#answers.length > MOST_SAMPLES) this.#answers = limited(this.#answers);
    } catch {
      // The curve has a gap there.
    } finally {
      this.#asking = false;
    }
  }

  async #count(): Promise<void> {
    if (this.#counting) return;
    this.#counting = true;
    try {
      const ports = await this.#options.mux.execute('ports', {});
      const frames = (name: string) => {
        const port = ports.find((candidate) => candidate.name === name);
        return port === undefined ? 0 : port.received + port.transmitted;
      };
      const now = {
        atMs: this.#wallMs(),
        old: frames(this.#options.ports.old),
        new: frames(this.#options.ports.new),
      };
      const before = this.#before;
      this.#before = now;
      if (before === undefined || now.atMs <= before.atMs) return;
      const perSecond = (side: 'old' | 'new') =>
        Math.max(0, ((now[side] - before[side]) * 1000) / (now.atMs - before.atMs));
      this.#rates.push({ atMs: now.atMs, old: perSecond('old'), new: perSecond('new') });
      if (this.#rates.length > MOST_SAMPLES) this.#rates = limited(this.#rates);
    } catch {
      this.#before = undefined;
    } finally {
      this.#counting = false;
    }
  }

  #wallMs(): number {
    return Number(this.#options.clock.wallNs() / 1_000_000n);
  }
}

/** Without every other sample of the older half. */
function limited<T>(samples: T[]): T[] {
  return samples.filter((_, i) => i >= samples.length / 2 || i % 2 === 0);
}

/** The answer that was waited for longest. */
export function longestWait(answers: readonly PulseAnswer[]): PulseAnswer | undefined {
  return answers.reduce<PulseAnswer | undefined>(
    (longest, answer) => (longest === undefined || answer.waitedMs > longest.waitedMs ? answer : longest),
    undefined,
  );
}
