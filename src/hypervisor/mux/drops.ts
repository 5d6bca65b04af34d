/** Why the mux did not pass a packet on. Each is counted at one port: the sender's, or (second group) the receiver's. */
export const MUX_DROPS = [
  // at the port the packet came from
  'too-short',
  'bad-vnet-header',
  'bad-source-mac',
  'spoofed-mac',
  'mac-of-a-port',
  'mac-flapping',
  'link-local-group',
  'vlan-from-partition',
  'ethertype',
  'malformed-arp',
  'spoofed-arp',
  'arp-not-path-holder',
  'malformed-ipv4',
  'malformed-ipv6',
  'malformed-ndp',
  'spoofed-ndp',
  'ndp-not-path-holder',
  'router-only',
  'spoofed-source',
  'not-path-holder',
  'not-flow-owner',
  'rst-suppressed',
  'dhcp-server',
  'unknown-unicast',
  'own-address',
  'no-path',
  'isolated',
  'hold-full',
  'reentry-full',
  'rate-limit',
  // at the port the packet was for
  'port-down',
  'queue-full',
  'too-big',
  'segmentation',
  'oversize-frame',
  'framing-fault',
] as const;

export type MuxDrop = (typeof MUX_DROPS)[number];

/** Reason → its place in the counter arrays of the ports. */
export const DROP = Object.fromEntries(MUX_DROPS.map((name, code) => [name, code])) as Readonly<
  Record<MuxDrop, number>
>;

/** What no packet of a partition that behaves is dropped for, at any time of a changeover. */
const FORGERIES: readonly MuxDrop[] = [
  'bad-source-mac',
  'spoofed-mac',
  'spoofed-arp',
  'spoofed-ndp',
  'spoofed-source',
  'router-only',
  'dhcp-server',
];

/** 1 at the codes of forgeries. */
export const FORGED = Uint8Array.from(MUX_DROPS, (name) => (FORGERIES.includes(name) ? 1 : 0));

/** The counters that are not zero, by name. */
export function dropsByName(counts: ArrayLike<number>): Record<string, number> {
  const named: Record<string, number> = {};
  for (const [code, name] of MUX_DROPS.entries()) {
    const count = counts[code] ?? 0;
    if (count > 0) named[name] = count;
  }
  return named;
}
