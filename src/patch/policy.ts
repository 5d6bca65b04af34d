/** What the administrator allows and asks for; the daemon fills it from the configuration file. */
export type HealthCheck =
  | {
      readonly http: {
        readonly port: number;
        readonly path: string;
        readonly expectStatus: number;
        readonly timeoutMs: number;
      };
    }
  | { readonly tcp: { readonly port: number; readonly timeoutMs: number } };

export interface ServiceSpec {
  readonly name: string;
  /** The address clients use, CIDR. */
  readonly address: string;
  /** The old partition's address while its connections drain (H8), CIDR. */
  readonly second?: string;
  readonly gateway?: string;
  /** The same over IPv6; `second6` wherever there are `address6` and `second`. */
  readonly address6?: string;
  readonly second6?: string;
  readonly health: HealthCheck;
}

/** How the network part of the cut is made: see docs/patching.md. */
export const STRATEGIES = ['overlap', 'hold'] as const;
export type Strategy = (typeof STRATEGIES)[number];

export interface PatchingPolicy {
  readonly allowUnsigned: boolean;
  readonly malwareScanner: 'none' | { readonly clamd: string };
  readonly allowUnscanned: boolean;
  readonly strategy: 'auto' | Strategy;
  /** How the disks get to the standby: by a copy under write log, or as the second half of a mirror. Default `copy`. */
  readonly copy?: 'copy' | 'mirror';
  readonly budget: {
    /** Longest pause of the service at the cut that a forecast may announce, ms. */
    readonly pauseMs: number;
    /** Longest time the copy may take until it has converged, ms. */
    readonly copyMs: number;
    /** How long a request that may write gets to complete before the cut, ms. */
    readonly quiesceMs: number;
  };
  readonly lateWrites: 'refuse' | 'set-aside';
  readonly probation: {
    readonly startWaitMs: number;
    readonly stabilityMs: number;
    readonly tries: number;
    readonly rollbackOnFailure: boolean;
  };
}

/** An application disk that nobody has written for so long counts as quiet: `overlap` may be used. */
export const QUIET_MS = 250;
/** `auto` takes `overlap` only where the application disk has been quiet for this long. */
export const AUTO_QUIET_MS = 10_000;

export interface StrategyChoice {
  readonly strategy: Strategy;
  /** One sentence for the report. */
  readonly reason: string;
}

/** What the choice is made from. */
export interface StrategyFacts {
  readonly asked: 'auto' | Strategy;
  readonly hasSecondAddress: boolean;
  readonly hasApplicationDisk: boolean;
  /** Since the last write to the application disk, ms; undefined when there was none. */
  readonly quietForMs: number | undefined;
}

/** The user's choice, or the gentlest strategy that loses nothing. */
export function chooseStrategy(facts: StrategyFacts): StrategyChoice {
  if (facts.asked !== 'auto') return { strategy: facts.asked, reason: `${facts.asked} was asked for` };
  if (!facts.hasSecondAddress) {
    return {
      strategy: 'hold',
      reason: 'the service has no second address, which overlap needs for the old partition',
    };
  }
  if (!facts.hasApplicationDisk) {
    return {
      strategy: 'overlap',
      reason: 'there is no application disk that requests in flight could write',
    };
  }
  if (facts.quietForMs === undefined || facts.quietForMs >= AUTO_QUIET_MS) {
    const since =
      facts.quietForMs === undefined ? 'never' : `not for ${Math.round(facts.quietForMs / 1000)} s`;
    return { strategy: 'overlap', reason: `the application disk has been written ${since}` };
  }
  return {
    strategy: 'hold',
    reason: `the application disk was written ${Math.round(facts.quietForMs)} ms ago: requests in flight may write`,
  };
}

/** An address of a service with the one that the old partition takes while its connections drain. */
export interface AddressPair {
  readonly address: string;
  readonly second?: string;
}

/** The addresses of a service, CIDR, IPv4 first. They move together. */
export function addressPairs(service: Omit<ServiceSpec, 'name' | 'health'>): AddressPair[] {
  const { address, second, address6, second6 } = service;
  const pair = (first: string, other: string | undefined) =>
    other === undefined ? { address: first } : { address: first, second: other };
  return [pair(address, second), ...(address6 === undefined ? [] : [pair(address6, second6)])];
}

/** Address part of a CIDR. */
export function bareAddress(cidr: string): string {
  return cidr.split('/')[0] ?? cidr;
}
