/**
 * Vocabulary of the block process (channel `changeover-block`). bigint quantities travel as decimal strings (`Bytes`).
 * Every command is idempotent for the same arguments, so a caller that lost an answer asks again.
 */
import type { CommandMap, EventMap } from '../../channel/index.ts';

/** A decimal string: bytes, offset or sequence number. */
export type Bytes = string;

export interface DiskStatus {
  readonly id: string;
  readonly path: string;
  readonly size: Bytes;
  readonly allocated: Bytes;
  readonly fence: 'none' | 'refuse' | 'set-aside';
  /** Writes refused or set aside since the fence was put up. */
  readonly lateWrites: number;
  readonly lateBytes: Bytes;
  /** Write log in force, if any. */
  readonly log?: {
    readonly directory: string;
    readonly generation: string;
    readonly sequence: Bytes;
    readonly bytes: Bytes;
  };
  /** Set when a flush failed once: the disk is read-only for ever. */
  readonly failed?: string;
  readonly reads: number;
  readonly writes: number;
  readonly flushes: number;
  readonly bytesRead: Bytes;
  readonly bytesWritten: Bytes;
  /** When the last write arrived, ms ago; undefined when never. */
  readonly lastWriteMsAgo?: number;
}

/** Progress of a copy under write log (Figs 8, 9). */
export interface CopyStatus {
  readonly copy: string;
  readonly phase: 'copying' | 'replaying' | 'converged' | 'cut' | 'failed' | 'cancelled';
  readonly total: Bytes;
  readonly copied: Bytes;
  /** Bytes of log not yet reflected onto the target. */
  readonly delta: Bytes;
  /** Bytes of the targets that were read back and found equal, or are holes on both sides. */
  readonly proven?: Bytes;
  /** Bytes of the targets that are still to be read back. */
  readonly unproven?: Bytes;
  readonly rounds: number;
  readonly bytesPerSecond: number;
  /** Rate at which the source is being written, bytes per second. */
  readonly writeRate: number;
  /** Until the copy is complete; while replaying, until the rest is small. Absent when it never will be at these rates. */
  readonly etaMs?: number;
  readonly method?: 'reflink' | 'kernel' | 'pipeline';
  /** It goes on with what a killed block process had copied. */
  readonly resumed?: boolean;
  /** Bytes per second of writes that the rounds reflect. */
  readonly reflectRate: number;
  /** Writers that outrun the rounds are slowed down to this rate, no write by more than `maxDelayMs`. */
  readonly throttle?: {
    readonly bytesPerSecond: number;
    readonly maxDelayMs: number;
    readonly delayedWrites: number;
    readonly delayedMs: number;
  };
  /** Of a mirror: halves that failed and were dropped, and why. */
  readonly dropped?: string;
  readonly reason?: string;
}

export interface CutResult {
  /** Log sequence at which every disk of the cut stands. */
  readonly disks: {
    readonly from: string;
    readonly to: string;
    readonly sequence: Bytes;
    /** Bytes put on the target while writes stood still. */
    readonly deltaBytes: Bytes;
    /** With `verify`: the target was proven equal to the source as of the cut. */
    readonly proof?: {
      /** Read back from the target and compared with the source by keyed hash, in all. */
      readonly readBack: Bytes;
      /** Proven before the pause: read back, or holes on both sides. */
      readonly proven: Bytes;
      /** Compared byte by byte while writes stood still (of a mirror: after that). */
      readonly compared: Bytes;
      /** Not proven: 0 unless `bounded`. */
      readonly unproven: Bytes;
      /** Age of the oldest read-back that counts. */
      readonly oldestMs?: number;
    };
  }[];
  /** How long writes stood still. */
  readonly durationMs: number;
}

export interface DiskCommands extends CommandMap {
  /**
   * Opens (or creates, when `create` gives a size) a file as disk; a fence it had before comes up again. Errors: ENOENT,
   * in-use, EACCES, size-mismatch.
   */
  'disk-add': {
    arguments: { id: string; path: string; create?: Bytes; readOnly?: boolean };
    result: DiskStatus;
  };
  'disk-remove': { arguments: { id: string }; result: object };
  'disk-status': { arguments: { id?: string }; result: DiskStatus[] };
  /**
   * NBD server on a unix socket: export name → disk id. Repeating it with other exports changes them. Errors: unknown-disk,
   * not-valid (the disk is the target of a copy that was not cut).
   */
  serve: { arguments: { socket: string; exports: Record<string, string> }; result: object };
  'serve-stop': { arguments: { socket: string }; result: object };
  /**
   * 801/901, 802/902: starts the write log on every source, then copies source → target and replays in rounds until
   * told to cut. `pairs` are copied as one group: one generation, one cut. Target contents are lost; a target is marked
   * invalid on disk (file `<path>.invalid`) until the cut succeeded. `rateLimit` bytes/s, 0 = none. A copy of this name and
   * these pairs that a killed process left is gone on with when its logs know every write since; with `resumeOnly` nothing
   * else is done (`not-resumable`). `convergence`: writers that outrun the rounds wait up to `maxDelayMs` per write (20; 0:
   * never), and the copy fails when it did not get closer for `giveUpAfterMs` (30 000). `proof: false`: the target is not read
   * back in the background.
   */
  'copy-start': {
    arguments: {
      copy: string;
      pairs: { from: string; to: string }[];
      logDirectory: string;
      rateLimit?: number;
      resumeOnly?: boolean;
      proof?: boolean;
      convergence?: { maxDelayMs?: number; giveUpAfterMs?: number };
    };
    result: CopyStatus;
  };
  'copy-status': { arguments: { copy: string }; result: CopyStatus };
  /** Reflects what is in the log now and returns how long it took: a rehearsal of the cut. */
  'copy-round': { arguments: { copy: string }; result: CopyStatus & { roundMs: number } };
  /**
   * 804/904, 805/905: at one instant for all pairs named by `from` (default: all of the group) stops writes, reflects the
   * last delta, flushes the targets, marks them valid. With `fence` the sources stay fenced from that instant on; without,
   * writes go on. `verify` proves each target equal to its source as of the cut, before the fence is up: `true` reads every
   * byte of the target back during the command, `bounded` counts what was read back before and compares only what was
   * reflected since (`unproven` tells what nobody got to). Pairs that were cut leave the group; the others go on.
   * Errors: unknown-copy, unknown-disk, busy (still copying, or a write does not end), copy-failed, not-equal.
   */
  'copy-cut': {
    arguments: {
      copy: string;
      from?: string[];
      fence?: 'refuse' | 'set-aside';
      verify?: boolean | 'bounded';
    };
    result: CutResult;
  };
  'copy-cancel': { arguments: { copy: string }; result: object };
  fence: {
    arguments: { id: string; mode: 'none' | 'refuse' | 'set-aside'; directory?: string };
    result: DiskStatus;
  };
  /**
   * SHA-256 over the whole disk, holes counted as zeroes. With `unchanged`, fails with `changed` when the disk was written
   * meanwhile, or since it was last cut as a source.
   */
  hash: {
    arguments: { id: string; unchanged?: boolean };
    result: { sha256: string; bytes: Bytes; durationMs: number };
  };
  /**
   * Reverse log: from now on every write to `from` is logged; what it says can be reflected onto `to`, which held the same
   * contents at this instant. Same group verbs as copy (`copy-status`, `copy-round`, `copy-cut`, `copy-cancel`), no bulk copy.
   */
  'reverse-start': {
    arguments: { copy: string; pairs: { from: string; to: string }[]; logDirectory: string };
    result: CopyStatus;
  };
  /**
   * The alternative to copying: every write to `from` goes to `to` as well, and what may differ is copied; `converged` when both
   * hold the same. Halves that were split from each other, or whose process was killed, are joined by copying only what
   * changed on either side, in either direction; else everything is copied. `copy-status`, `copy-round`, `copy-cut` and
   * `copy-cancel` work by its name as well. Errors: in-use, size-mismatch, half-dropped.
   */
  'mirror-start': {
    arguments: { mirror: string; pairs: { from: string; to: string }[]; rateLimit?: number };
    result: CopyStatus;
  };
  /** The same, but fails with `not-resumable` rather than copy everything. A mirror that was split is joined again. */
  'mirror-resync': {
    arguments: { mirror: string; pairs: { from: string; to: string }[]; rateLimit?: number };
    result: CopyStatus;
  };
  'mirror-status': { arguments: { mirror: string }; result: CopyStatus };
  /** At one instant each side gets one half: as `copy-cut`. Both note from then on what is written. */
  'mirror-split': {
    arguments: {
      mirror: string;
      from?: string[];
      fence?: 'refuse' | 'set-aside';
      verify?: boolean | 'bounded';
    };
    result: CutResult;
  };
  /** Takes the second halves away; they stay invalid, and can be joined again. */
  'mirror-cancel': { arguments: { mirror: string }; result: object };
  counters: { arguments: object; result: Record<string, number> };
  shutdown: { arguments: object; result: object };
}

export interface DiskEvents extends EventMap {
  COPY_PROGRESS: { status: CopyStatus };
  LATE_WRITE: { id: string; offset: Bytes; length: Bytes };
  DISK_FAILED: { id: string; reason: string };
}
