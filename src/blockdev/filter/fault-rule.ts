/**
 * What a fault filter does, and how a person writes it: `OPERATIONS:WHAT[,CONDITION…]`
 *
 *   OPERATIONS   read, write, zeroes, trim, flush, extents, joined by +; `modify` for what alters the device, `all`
 *   WHAT         EIO, ENOSPC, EROFS, ENOMEM …; `delay=20ms`; both, as in `EIO,delay=2s`
 *   torn         the first half is carried out before it fails
 *   after=N      let N pass first           times=N     at most so often
 *   chance=P     0 to 1                     from=BYTES  to=BYTES   only what touches this part
 *   since=TIME   not before this time       for=TIME    and only so long, both from the start
 */
import { CodedError } from '../../common/index.ts';
import type { DeviceErrno } from '../device.ts';
import { DEVICE_ERRNOS } from '../device.ts';

export const OPERATIONS = ['read', 'write', 'zeroes', 'trim', 'flush', 'extents'] as const;
export type Operation = (typeof OPERATIONS)[number];

export interface FaultRule {
  readonly operations: readonly Operation[];
  /** What it fails with; without, it is only delayed. */
  readonly errno?: DeviceErrno;
  /** It begins, or fails, so much later. */
  readonly delayMs?: number;
  /** The first half of a write or of zeroes is carried out before it fails. */
  readonly torn?: boolean;
  /** Chance of each matching operation to fail, 0 … 1; default 1. */
  readonly chance?: number;
  /** Let so many matching operations pass first; default 0. */
  readonly after?: number;
  /** Fail at most so often; default: for ever. */
  readonly times?: number;
  /** Only operations that touch this range. */
  readonly range?: { readonly offset: bigint; readonly length: bigint };
  /** Only from this time on, and only for so long, ms since the rule was set. */
  readonly sinceMs?: number;
  readonly forMs?: number;
}

/** `fault-rule`: a rule that cannot be understood. */
export class FaultRuleError extends CodedError {}

const UNITS: Readonly<Record<string, bigint>> = {
  '': 1n,
  K: 1n << 10n,
  M: 1n << 20n,
  G: 1n << 30n,
  T: 1n << 40n,
};
const TIMES: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };

/** Throws FaultRuleError with what is wrong. */
export function parseFaultRule(text: string): FaultRule {
  const wrong = (what: string) =>
    new FaultRuleError('fault-rule', `fault ${JSON.stringify(text)}: ${what}`, {
      remedy: 'write it as write:EIO,after=100,times=1 or as read+flush:delay=20ms,chance=0.1: docs/block.md',
    });
  const colon = text.indexOf(':');
  if (colon < 0) throw wrong('a colon separates operations and what befalls them');
  const operations = text
    .slice(0, colon)
    .split('+')
    .flatMap((word): readonly Operation[] => {
      if (word === 'all') return OPERATIONS;
      if (word === 'modify') return ['write', 'zeroes', 'trim'];
      const known = OPERATIONS.find((one) => one === word);
      if (known === undefined) throw wrong(`${JSON.stringify(word)} is no operation`);
      return [known];
    });
  const rule: { -readonly [K in keyof FaultRule]: FaultRule[K] } = { operations };
  let from: bigint | undefined;
  let to: bigint | undefined;
  const count = (value: string) => {
    if (!/^\d{1,15}$/.test(value)) throw wrong(`${JSON.stringify(value)} is no number`);
    return Number(value);
  };
  const time = (value: string) => {
    const [, number, unit] = /^(\d{1,9}(?:\.\d+)?)(ms|s|m)$/.exec(value) ?? [];
    if (number === undefined) throw wrong(`${JSON.stringify(value)} is no time: 20ms, 5s, 2m`);
    return Number(number) * TIMES[unit!]!;
  };
  const bytes = (value: string) => {
    const [, number, unit] = /^(\d{1,18})([KMGT]?)$/.exec(value) ?? [];
    if (number === undefined) throw wrong(`${JSON.stringify(value)} is no number of bytes: 512, 64K, 2G`);
    return BigInt(number) * UNITS[unit!]!;
  };
  for (const part of text.slice(colon + 1).split(',')) {
    const [key, value = ''] = part.split('=') as [string, string?];
    const errno = DEVICE_ERRNOS.find((one) => one === key);
    if (errno !== undefined && value === '') rule.errno = errno;
    else if (key === 'torn' && value === '') rule.torn = true;
    else if (key === 'delay') rule.delayMs = time(value);
    else if (key === 'after') rule.after = count(value);
    else if (key === 'times') rule.times = count(value);
    else if (key === 'since') rule.sinceMs = time(value);
    else if (key === 'for') rule.forMs = time(value);
    else if (key === 'from') from = bytes(value);
    else if (key === 'to') to = bytes(value);
    else if (key === 'chance') {
      rule.chance = Number(value);
      if (value === '' || !(rule.chance >= 0 && rule.chance <= 1))
        throw wrong('chance is a number from 0 to 1');
    } else throw wrong(`${JSON.stringify(part)} is neither an error nor a condition`);
  }
  if (rule.errno === undefined && rule.delayMs === undefined) throw wrong('it names no error and no delay');
  if (rule.torn === true && rule.errno === undefined) throw wrong('what is torn needs an error');
  if (from !== undefined || to !== undefined) {
    const offset = from ?? 0n;
    const end = to ?? 1n << 63n;
    if (end <= offset) throw wrong('it ends before it begins');
    rule.range = { offset, length: end - offset };
  }
  return rule;
}
