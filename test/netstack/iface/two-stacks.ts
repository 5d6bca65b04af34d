/** Two stacks joined in memory on a virtual clock. */
import { SeededRandom, VirtualClock } from '../../../src/common/index.ts';
import type { InterfaceOptions, LinkDevice, MemoryLinkOptions } from '../../../src/netstack/index.ts';
import { cidr, ipAddress, ipv4Address, MemoryLink, macAddress, Stack } from '../../../src/netstack/index.ts';

export const IP_A = ipv4Address('10.77.0.1');
export const IP_B = ipv4Address('10.77.0.2');
export const IP6_A = ipAddress('fd00::1');
export const IP6_B = ipAddress('fd00::2');
export const MAC_A = macAddress('02:00:00:00:00:01');
export const MAC_B = macAddress('02:00:00:00:00:02');

export interface TwoStacks {
  readonly clock: VirtualClock;
  readonly a: Stack;
  readonly b: Stack;
}

export interface TwoStacksOptions extends MemoryLinkOptions {
  readonly seed?: number;
  readonly wrap?: (link: LinkDevice, clock: VirtualClock, random: SeededRandom) => LinkDevice;
  readonly common?: Partial<InterfaceOptions>;
  /** With IPv6 addresses beside the IPv4 ones, in use at once. */
  readonly dual?: boolean;
}

export function twoStacks(options: TwoStacksOptions = {}): TwoStacks {
  const clock = new VirtualClock();
  const random = new SeededRandom(options.seed ?? 1);
  const wrap = options.wrap ?? ((link: LinkDevice) => link);
  const [linkA, linkB] = MemoryLink.pair(clock, options);
  const make = (link: LinkDevice, mac: typeof MAC_A, host: number) =>
    new Stack({
      clock,
      random,
      link: wrap(link, clock, random),
      mac,
      addresses: [cidr(`10.77.0.${host}/24`), ...(options.dual === true ? [cidr(`fd00::${host}/64`)] : [])],
      detectDuplicates: false,
      ...options.common,
    });
  return { clock, a: make(linkA, MAC_A, 1), b: make(linkB, MAC_B, 2) };
}
