/**
 * F1: a process of the product is killed, stopped, made to fail or replaced by its next version at a named point of a run (docs/points.md), alone or with
 * another one, while clients write. Here `hold` by H6. A seeded sample in `make test`, all of them with SOAK=1.
 * CASE='hold step.switch-network.begun kill@mux' makes only that one, several of them are separated by `;`.
 */
import { limitMs, liveSuite, within } from '../support/index.ts';
import { HOLD_CASES } from './support/trial-cases.ts';
import { manyTrials } from './support/trials.ts';

const points = liveSuite('live/points');

points(
  'whatever process dies, stops or fails at whatever point: one owner, nothing lost, the service answers',
  within(() => manyTrials('F1: live trials', 120, HOLD_CASES), limitMs(420_000)),
);

points.run();
