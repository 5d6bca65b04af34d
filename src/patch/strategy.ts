/**
 * How the network part of a cut is made. The strategy says who waits for whom, the procedure how the address gets from one
 * partition to the other. Not every pair makes sense: COMBINATIONS is the whole table, and docs/patching.md shows it.
 */
import { PatchError } from './errors.ts';

export const STRATEGIES = ['overlap', 'hold', 'drain'] as const;
export type Strategy = (typeof STRATEGIES)[number];

/**
 * `H6` (Figs 13, 14): the path of the address moves, both partitions may hold it. `H7` (Figs 15-17): the two partitions exchange
 * their addresses. `H8` (Figs 21-26): exchanged, and what the old one still sends is set back by the packet change program.
 */
export const PROCEDURES = ['H6', 'H7', 'H8'] as const;
export type Procedure = (typeof PROCEDURES)[number];

export interface Combination {
  readonly makesSense: boolean;
  /** What it promises, or why it is refused. */
  readonly text: string;
}

const yes = (text: string): Combination => ({ makesSense: true, text });
const no = (text: string): Combination => ({ makesSense: false, text });

export const COMBINATIONS: Readonly<Record<Strategy, Readonly<Record<Procedure, Combination>>>> = {
  overlap: {
    H6: no('with the path alone the old partition has no second address to go on under: that is drain by H6'),
    H7: no('H7 exchanges the addresses when nothing is in flight, so new requests wait: use hold, or H8'),
    H8: yes('nobody waits; what is in flight is finished by the old partition under its second address'),
  },
  hold: {
    H6: yes(
      'new requests wait until the last delta is in; requests that only read are finished by the old partition',
    ),
    H7: yes('new requests wait until every accepted one is complete, at most budget.quiesceMs'),
    H8: no('H8 is for addresses that change under open connections; with hold nothing is in flight: use H7'),
  },
  drain: {
    H6: yes(
      'each request is finished by the partition that accepted it; nobody waits unless the application disk is written',
    ),
    H7: yes('new requests wait until every accepted one is complete, at most budget.drainMs'),
    H8: no('H8 is overlap: ask for that, or drain by H6, which needs no second address'),
  },
};

/** An application disk that nobody has written for so long counts as quiet: `overlap` may be used. */
export const QUIET_MS = 250;
/** `auto` lets both partitions run only where the application disk has been quiet for this long. */
export const AUTO_QUIET_MS = 10_000;

export interface StrategyChoice {
  readonly strategy: Strategy;
  readonly procedure: Procedure;
  /** One sentence for the report. */
  readonly reason: string;
}

/** What the choice is made from. */
export interface StrategyFacts {
  readonly asked: 'auto' | Strategy;
  /** Default `auto`. */
  readonly askedProcedure?: 'auto' | Procedure;
  /** For each address of the service. */
  readonly hasSecondAddress: boolean;
  readonly hasApplicationDisk: boolean;
  /** Since the last write to the application disk, ms; undefined when there was none. */
  readonly quietForMs: number | undefined;
  /** The partitions are on different uplinks: the network has to learn where the address is. */
  readonly ownUplinks?: boolean;
}

/** The user's choice, or the gentlest one that loses nothing. Throws `bad-combination` with the reason. */
export function chooseStrategy(facts: StrategyFacts): StrategyChoice {
  const { askedProcedure = 'auto' } = facts;
  const { strategy, reason } = strategyFor(facts, askedProcedure);
  const procedure = askedProcedure === 'auto' ? procedureFor(strategy, facts) : askedProcedure;
  const combination = COMBINATIONS[strategy][procedure];
  if (!combination.makesSense) {
    throw new PatchError(
      'bad-combination',
      `${strategy} by ${procedure} makes no sense: ${combination.text}`,
      {
        remedy: `${strategy} goes by ${PROCEDURES.filter((p) => COMBINATIONS[strategy][p].makesSense).join(' or ')}`,
      },
    );
  }
  if (procedure !== 'H6' && !facts.hasSecondAddress) {
    throw new PatchError(
      'bad-combination',
      `${strategy} by ${procedure} needs a second address for each address of the service`,
      { remedy: 'give services[].second (and second6), or use hold or drain by H6' },
    );
  }
  return { strategy, procedure, reason };
}

function procedureFor(strategy: Strategy, facts: StrategyFacts): Procedure {
  if (strategy === 'overlap') return 'H8';
  return facts.ownUplinks === true && facts.hasSecondAddress ? 'H7' : 'H6';
}

function strategyFor(
  facts: StrategyFacts,
  procedure: 'auto' | Procedure,
): { strategy: Strategy; reason: string } {
  const { asked, hasSecondAddress, hasApplicationDisk, quietForMs } = facts;
  if (asked !== 'auto') return { strategy: asked, reason: `${asked} was asked for` };
  if (procedure === 'H8') return { strategy: 'overlap', reason: 'H8 was asked for' };
  if (procedure === 'H7') return { strategy: 'hold', reason: 'H7 was asked for' };
  const quiet = !hasApplicationDisk || quietForMs === undefined || quietForMs >= AUTO_QUIET_MS;
  if (!quiet) {
    return {
      strategy: 'hold',
      reason: `the application disk was written ${Math.round(quietForMs)} ms ago: requests in flight may write`,
    };
  }
  const since = quietForMs === undefined ? 'never' : `not for ${Math.round(quietForMs / 1000)} s`;
  const data = hasApplicationDisk
    ? `the application disk has been written ${since}`
    : 'there is no application disk that requests in flight could write';
  if (procedure === 'auto' && hasSecondAddress) return { strategy: 'overlap', reason: data };
  const why = hasSecondAddress
    ? 'H6 was asked for'
    : 'the service has no second address, which overlap needs';
  return { strategy: 'drain', reason: `${data}; ${why}` };
}
