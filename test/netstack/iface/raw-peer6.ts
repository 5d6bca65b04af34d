/** As RawPeer, on IPv6: what the stack and the peer are called there. */
import type { InterfaceOptions, MemoryLinkOptions } from '../../../src/netstack/index.ts';
import { cidr, ipAddress } from '../../../src/netstack/index.ts';
import { advertisement, solicitation } from '../packets6.ts';
import { HOST_MAC, PEER_MAC, RawPeer } from './raw-peer.ts';

export const HOST6 = 'fd00::1';
export const PEER6 = 'fd00::2';
export const GATEWAY6 = 'fd00::fe';
export const HOST_GROUP = 'ff02::1:ff00:1';
export const HOST_GROUP_MAC = '3333ff000001';
export const ALL_NODES = 'ff02::1';
export const ALL_NODES_MAC = '333300000001';
/** Of 02:00:00:00:00:01. */
export const HOST_LINK_LOCAL = 'fe80::ff:fe00:1';

export function rawPeer6(options: MemoryLinkOptions & { host?: Partial<InterfaceOptions> } = {}): RawPeer {
  return new RawPeer({
    ...options,
    host: {
      addresses: [cidr(`${HOST6}/64`)],
      gateway: ipAddress(GATEWAY6),
      detectDuplicates: false,
      ...options.host,
    },
  });
}

/** The peer asks for the stack's address, as before it sends to it. */
export function askFromPeer(source = PEER6, mac = PEER_MAC): Buffer {
  return solicitation({ source, destination: HOST_GROUP, target: HOST6, mac, to: HOST_GROUP_MAC, from: mac });
}

/** The stack learns the peer's hardware address, confirmed. */
export function introduce6(peer: RawPeer, address = PEER6, mac = PEER_MAC): void {
  const [reply] = peer.exchange(askFromPeer(address, mac));
  if (reply === undefined) throw new Error('no neighbour advertisement');
  peer.exchange(
    advertisement({
      source: address,
      destination: HOST6,
      target: address,
      mac,
      flags: 0x60,
      to: HOST_MAC,
      from: mac,
    }),
  );
  peer.take();
}
