/**
 * Why a packet ended. Every frame that a stack receives is either accepted or counted under exactly one of these names;
 * the same names appear in captures. `send-…` are packets of our own that could not leave.
 */
export const DROP_REASONS = [
  'link-too-short',
  'link-bad-offload-header',
  'ethernet-too-short',
  'ethernet-not-for-us',
  'ethernet-bad-source',
  'ethernet-vlan',
  'ethernet-unknown-type',
  'arp-malformed',
  'arp-not-for-us',
  'arp-conflict',
  'ipv4-too-short',
  'ipv4-bad-version',
  'ipv4-bad-header-length',
  'ipv4-bad-length',
  'ipv4-bad-checksum',
  'ipv4-bad-source',
  'ipv4-source-route',
  'ipv4-not-for-us',
  'ipv4-unknown-protocol',
  'ipv4-fragment-malformed',
  'ipv4-fragment-overlap',
  'ipv4-fragment-too-big',
  'ipv4-fragment-limit',
  'ipv4-fragment-timeout',
  'ipv6-too-short',
  'ipv6-bad-version',
  'ipv6-bad-length',
  'ipv6-bad-source',
  'ipv6-not-for-us',
  'ipv6-bad-extension',
  'ipv6-option-refused',
  'ipv6-source-route',
  'ipv6-no-next-header',
  'ipv6-unknown-protocol',
  'ipv6-fragment-malformed',
  'ipv6-fragment-overlap',
  'ipv6-fragment-too-big',
  'ipv6-fragment-limit',
  'ipv6-fragment-timeout',
  'ndp-malformed',
  'ndp-not-for-us',
  'ndp-conflict',
  'ndp-router-ignored',
  'ndp-redirect-ignored',
  'icmp-too-short',
  'icmp-bad-checksum',
  'icmp-unknown-type',
  'icmp-bad-quote',
  'icmp-unrelated-error',
  'icmp-mtu-too-small',
  'icmp-echo-broadcast',
  'icmp-unexpected-reply',
  'udp-too-short',
  'udp-bad-length',
  'udp-bad-checksum',
  'udp-port-closed',
  'udp-queue-full',
  'tcp-too-short',
  'tcp-bad-header-length',
  'tcp-bad-checksum',
  'tcp-broadcast',
  'send-unresolved',
  'send-queue-full',
  'send-rate-limited',
] as const;

export type DropReason = (typeof DROP_REASONS)[number];

/** Counts by name, without allocation on the counting path. */
export class DropCounters {
  readonly #counts = new Map<DropReason, number>();
  #total = 0;

  count(reason: DropReason): void {
    this.#total++;
    this.#counts.set(reason, (this.#counts.get(reason) ?? 0) + 1);
  }

  of(reason: DropReason): number {
    return this.#counts.get(reason) ?? 0;
  }

  get total(): number {
    return this.#total;
  }

  /** The reasons seen so far with their counts. */
  snapshot(): Record<string, number> {
    return Object.fromEntries(this.#counts);
  }
}
