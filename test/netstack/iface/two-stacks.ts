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

/** The second serves 5000 bytes to a connection of each family, and has. */
export function talkingStacks() {
  const { clock, a, b } = twoStacks({ dual: true });
  const nothing = { connected: () => {}, readable: () => {}, writable: () => {}, closed: () => {} };
  b.tcp.listen({ port: 80 }, (connection) => connection.write(Buffer.alloc(5000)));
  a.tcp.connect({ remoteAddress: IP_B, remotePort: 80 }, nothing);
  a.tcp.connect({ remoteAddress: IP6_B, remotePort: 80 }, nothing);
  clock.advance(1000);
  return { clock, a, b };
}
