/**
 * The chain of extension headers as a receiving host processes it (RFC 8200 section 4, bounds of RFC 8504 section 5.3): hop-by-hop options first or
 * nowhere, options by the rule in their type, no routing that is still to be done, a fragment header at most once. One
 * object serves all packets: the result stands in its fields.
 */
import { readU16 } from './big-endian.ts';
import type { DropReason } from './drop-reason.ts';
import { ICMPV6_PARAMETER_PROBLEM } from './icmp.ts';
import { IPV6, IPV6_EXTENSION, IPV6_FRAGMENT } from './ipv6.ts';

const MAX_HEADERS = 8;
const MAX_OPTIONS = 32;

const OPTION = { PAD1: 0, PADN: 1, ROUTER_ALERT: 5 } as const;
/** What to do with an unknown option: the two highest bits of its type (RFC 8200 section 4.2). */
const ACTION = { SKIP: 0, DISCARD: 1, REPORT: 2, REPORT_UNICAST: 3 } as const;

export class Ipv6HeaderWalk {
  /** What stands at `at`: an upper-layer protocol, or IPV6_EXTENSION.FRAGMENT. */
  protocol = 0;
  at = 0;
  /** Offset of the byte that names `protocol`. */
  nextHeaderAt = 0;
  /** The code of the parameter problem that the sender should be told, −1 for none. */
  problem = -1;
  /** Offset in the buffer of what is wrong. */
  problemAt = 0;
  /** The problem is told even when the packet went to a group. */
  problemToGroup = false;
  #headers = 0;

  /** From the IPv6 header at `ip` to the upper layer or the fragment header. A reason when there is no way there. */
  walk(buffer: Uint8Array, ip: number, end: number): DropReason | undefined {
    this.problem = -1;
    this.problemToGroup = false;
    this.#headers = 0;
    this.nextHeaderAt = ip + IPV6.NEXT_HEADER;
    this.at = ip + IPV6.HEADER;
    return this.#go(buffer, end, true);
  }

  /** On from the fragment header at which `walk` has stopped. */
  resume(buffer: Uint8Array, end: number): DropReason | undefined {
    this.nextHeaderAt = this.at;
    this.at += IPV6_FRAGMENT.HEADER;
    this.#headers++;
    const reason = this.#go(buffer, end, false);
    if (reason !== undefined || this.protocol !== IPV6_EXTENSION.FRAGMENT) return reason;
    return 'ipv6-bad-extension';
  }

  #go(buffer: Uint8Array, end: number, hopByHopMayCome: boolean): DropReason | undefined {
    let first = hopByHopMayCome;
    for (;;) {
      const next = buffer[this.nextHeaderAt]!;
      let reason: DropReason | undefined;
      switch (next) {
        case IPV6_EXTENSION.HOP_BY_HOP:
          if (!first) {
            return this.#refuse(
              'ipv6-bad-extension',
              ICMPV6_PARAMETER_PROBLEM.NEXT_HEADER,
              this.nextHeaderAt,
            );
          }
          reason = this.#options(buffer, end);
          break;
        case IPV6_EXTENSION.DESTINATION_OPTIONS:
          reason = this.#options(buffer, end);
          break;
        case IPV6_EXTENSION.ROUTING:
          reason = this.#routing(buffer, end);
          break;
        case IPV6_EXTENSION.NONE:
          return 'ipv6-no-next-header';
        default:
          if (next === IPV6_EXTENSION.FRAGMENT && this.at + IPV6_FRAGMENT.HEADER > end) {
            return 'ipv6-bad-extension';
          }
          this.protocol = next;
          return undefined;
      }
      if (reason !== undefined) return reason;
      if (++this.#headers > MAX_HEADERS) return 'ipv6-bad-extension';
      first = false;
    }
  }

  #refuse(reason: DropReason, problem: number, at: number): DropReason {
    this.problem = problem;
    this.problemAt = at;
    return reason;
  }

  /** Moves behind the header at `at`; false when it does not fit. */
  #step(buffer: Uint8Array, end: number): boolean {
    if (this.at + 8 > end) return false;
    const length = (buffer[this.at + 1]! + 1) * 8;
    if (this.at + length > end) return false;
    this.nextHeaderAt = this.at;
    this.at += length;
    return true;
  }

  /** Type 0 and every other one with segments left would have us forward (RFC 5095). */
  #routing(buffer: Uint8Array, end: number): DropReason | undefined {
    const header = this.at;
    if (!this.#step(buffer, end)) return 'ipv6-bad-extension';
    if (buffer[header + 3] === 0) return undefined;
    return this.#refuse('ipv6-source-route', ICMPV6_PARAMETER_PROBLEM.HEADER_FIELD, header + 2);
  }

  #options(buffer: Uint8Array, end: number): DropReason | undefined {
    let at = this.at + 2;
    if (!this.#step(buffer, end)) return 'ipv6-bad-extension';
    const optionsEnd = this.at;
    for (let count = 0; at < optionsEnd; count++) {
      if (count === MAX_OPTIONS) return 'ipv6-bad-extension';
      const type = buffer[at]!;
      if (type === OPTION.PAD1) {
        at++;
        continue;
      }
      if (at + 2 > optionsEnd || at + 2 + buffer[at + 1]! > optionsEnd) return 'ipv6-bad-extension';
      if (type !== OPTION.PADN && type !== OPTION.ROUTER_ALERT && type >>> 6 !== ACTION.SKIP) {
        if (type >>> 6 === ACTION.DISCARD) return 'ipv6-option-refused';
        this.problemToGroup = type >>> 6 === ACTION.REPORT;
        return this.#refuse('ipv6-option-refused', ICMPV6_PARAMETER_PROBLEM.OPTION, at);
      }
      at += 2 + buffer[at + 1]!;
    }
    return undefined;
  }
}

/** Bytes from the start of the fragmentable part. */
export function ipv6FragmentOffset(buffer: Uint8Array, fragment: number): number {
  return readU16(buffer, fragment + IPV6_FRAGMENT.OFFSET) & 0xfff8;
}

export function ipv6MoreFragments(buffer: Uint8Array, fragment: number): boolean {
  return (buffer[fragment + IPV6_FRAGMENT.OFFSET + 1]! & IPV6_FRAGMENT.MORE) !== 0;
}
