import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { VirtualClock } from '../../src/common/index.ts';
import type { Engine, Step, StepReport } from '../../src/patch/index.ts';
import {
  COMBINATIONS,
  chooseStrategy,
  doSteps,
  FINAL_PHASES,
  MemoryJournal,
  PauseCalibration,
  PROCEDURES,
  RUN_PHASES,
  RUN_TRANSITIONS,
  STRATEGIES,
  stepsOf,
  undoSteps,
} from '../../src/patch/index.ts';
import { within } from '../support/index.ts';

const run = suite('patch/run');

function bench(): {
  engine: Engine;
  log: string[];
  step: (name: string, fails?: boolean) => Step;
  journal: MemoryJournal;
} {
  const journal = new MemoryJournal();
  const log: string[] = [];
  const engine: Engine = {
    runId: 'r',
    part: '',
    journal,
    clock: new VirtualClock(),
    reports: [] as StepReport[],
    onChange: () => {},
    isCancelled: () => false,
  };
  const step = (name: string, fails = false): Step => ({
    name,
    figure: '',
    do: async () => {
      assert.ok(
        journal.read('r').some((e) => e.kind === 'step-begun' && e.name === name),
        'journalled before it acts',
      );
      log.push(`do ${name}`);
      if (fails) throw new Error(`${name} failed`);
      return { name };
    },
    undo: async () => {
      log.push(`undo ${name}`);
    },
  });
  return { engine, log, step, journal };
}

run(
  'steps are journalled before they act, and with their facts after',
  within(async () => {
    const { engine, step, journal } = bench();
    await doSteps(engine, [step('a'), step('b')]);
    assert.equal(
      journal.read('r').map((e) => `${e.kind} ${e.name}`),
      ['step-begun a', 'step-done a', 'step-begun b', 'step-done b'],
    );
    assert.equal(journal.read('r')[1]?.facts, { name: 'a' });
  }),
);

run(
  'what was begun is undone in reverse order, the failed step too, what was not begun is not',
  within(async () => {
    const { engine, log, step } = bench();
    const steps = [step('a'), step('b', true), step('c')];
    let thrown: unknown;
    await doSteps(engine, steps).catch((error) => {
      thrown = error;
    });
    assert.match(String(thrown), 'b failed');
    await undoSteps(engine, steps);
    assert.equal(log, ['do a', 'do b', 'undo b', 'undo a']);
    assert.is(engine.reports[1]?.state, 'failed');
    assert.is(engine.reports[0]?.state, 'undone');
  }),
);

run(
  'sequences of one stage run at the same time, and the stage ends when all of them have, in failure too',
  within(async () => {
    const { engine, log, step } = bench();
    let release = () => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const slow: Step = {
      ...step('slow'),
      do: async () => {
        await gate;
        log.push('do slow');
        return undefined;
      },
    };
    const releasing: Step = {
      ...step('releasing'),
      do: async () => {
        release();
        return undefined;
      },
    };
    await doSteps(engine, [{ parallel: [[slow], [step('x'), releasing]] }, step('y')]);
    assert.equal(log, ['do x', 'do slow', 'do y']);
    const late: Step = {
      ...step('late'),
      do: async () => {
        await Promise.resolve();
        log.push('do late');
        return undefined;
      },
    };
    const stages = [{ parallel: [[step('bad', true)], [late]] }, step('never')];
    let thrown: unknown;
    await doSteps(engine, stages).catch((error) => {
      thrown = error;
    });
    assert.match(String(thrown), 'bad failed');
    assert.ok(log.includes('do late'));
    await undoSteps(engine, stepsOf(stages));
    assert.equal(log.slice(-2), ['undo late', 'undo bad']);
    assert.not.ok(log.includes('do never') || log.includes('undo never'));
  }),
);

run(
  'undoing twice undoes once',
  within(async () => {
    const { engine, log, step } = bench();
    const steps = [step('a')];
    await doSteps(engine, steps);
    await undoSteps(engine, steps);
    await undoSteps(engine, steps);
    assert.equal(log, ['do a', 'undo a']);
  }),
);

run(
  'an undo that fails is reported and the others still run',
  within(async () => {
    const { engine, log, step } = bench();
    const bad: Step = {
      ...step('b'),
      undo: async () => {
        throw new Error('stuck');
      },
    };
    const steps = [step('a'), bad];
    await doSteps(engine, steps);
    assert.equal(await undoSteps(engine, steps), ['b could not be undone: stuck']);
    assert.is(log.at(-1), 'undo a');
  }),
);

run(
  'a cancelled run stops before its next step',
  within(async () => {
    const { engine, step } = bench();
    let thrown: { code?: string } = {};
    await doSteps({ ...engine, isCancelled: () => true }, [step('a')]).catch((error) => {
      thrown = error;
    });
    assert.is(thrown.code, 'cancelled');
  }),
);

run(
  'every phase is reachable and only final ones have no way on',
  within(() => {
    const reached = new Set<string>(['preparing']);
    for (const to of Object.values(RUN_TRANSITIONS)) for (const phase of to) reached.add(phase);
    assert.equal([...reached].sort(), [...RUN_PHASES].sort());
    for (const phase of RUN_PHASES) {
      assert.is(RUN_TRANSITIONS[phase].length === 0, FINAL_PHASES.includes(phase), phase);
    }
  }),
);

run(
  'the strategy that loses nothing is chosen, and the reason is told',
  within(() => {
    const facts = { asked: 'auto', hasSecondAddress: true, hasApplicationDisk: true, quietForMs: 5 } as const;
    assert.is(chooseStrategy(facts).strategy, 'hold');
    assert.is(chooseStrategy({ ...facts, quietForMs: 60_000 }).strategy, 'overlap');
    assert.is(chooseStrategy({ ...facts, quietForMs: undefined }).strategy, 'overlap');
    assert.is(chooseStrategy({ ...facts, hasApplicationDisk: false }).strategy, 'overlap');
    assert.is(chooseStrategy({ ...facts, quietForMs: 60_000, hasSecondAddress: false }).strategy, 'drain');
    assert.is(chooseStrategy({ ...facts, hasSecondAddress: false }).strategy, 'hold');
    assert.is(chooseStrategy({ ...facts, asked: 'overlap' }).strategy, 'overlap');
    assert.is(chooseStrategy({ ...facts, quietForMs: 60_000 }).procedure, 'H8');
    assert.is(chooseStrategy(facts).procedure, 'H6');
    assert.is(chooseStrategy({ ...facts, ownUplinks: true }).procedure, 'H7');
    assert.is(chooseStrategy({ ...facts, ownUplinks: true, hasSecondAddress: false }).procedure, 'H6');
    assert.is(chooseStrategy({ ...facts, askedProcedure: 'H8' }).strategy, 'overlap');
  }),
);

run(
  'every combination of strategy and procedure is taken or refused with the reason of the table',
  within(() => {
    const facts = { hasSecondAddress: true, hasApplicationDisk: true, quietForMs: 5 } as const;
    let taken = 0;
    for (const asked of STRATEGIES) {
      for (const askedProcedure of PROCEDURES) {
        const { makesSense, text } = COMBINATIONS[asked][askedProcedure];
        const choose = (hasSecondAddress: boolean) => () =>
          chooseStrategy({ ...facts, asked, askedProcedure, hasSecondAddress });
        if (makesSense) {
          taken++;
          const { strategy, procedure } = choose(true)();
          assert.equal([strategy, procedure], [asked, askedProcedure]);
          if (askedProcedure === 'H6') assert.not.throws(choose(false));
          else assert.throws(choose(false), /needs a second address/);
        } else assert.throws(choose(true), (error: Error) => error.message.includes(text));
      }
    }
    assert.is(taken, 5);
  }),
);

run(
  'forecasts learn from cuts what comes beside the parts, and a single odd cut does not move them',
  within(() => {
    const parts = { delta: 10, applicationStart: 20, check: 10, connections: 5, commands: 5 };
    const calibration = new PauseCalibration();
    assert.is(calibration.forecastMs(parts), 75, 'half as much again before a cut has shown it');
    calibration.learn(parts, 5000);
    assert.is(calibration.forecastMs(parts), 75, 'neither does the first one alone');
    for (let i = 0; i < 3; i++) calibration.learn(parts, 60);
    assert.is(calibration.forecastMs(parts), 60);
    assert.is(calibration.forecastMs({ ...parts, delta: 200 }), 250, 'a large part is not multiplied');
    calibration.learn(parts, 5000);
    assert.is(calibration.forecastMs(parts), 60, 'a single odd one');
    for (let i = 0; i < 7; i++) calibration.learn(parts, 70);
    assert.is(calibration.forecastMs(parts), 70, 'what was long ago is forgotten');
    for (let i = 0; i < 7; i++) calibration.learn({ ...parts, delta: 500 }, 50);
    assert.is(calibration.forecastMs(parts), 25, 'never less than half of what was measured');
    for (let i = 0; i < 7; i++) calibration.learn(parts, 5000);
    assert.is(calibration.forecastMs(parts), 5000);
    for (let i = 0; i < 6; i++) calibration.refused();
    assert.is(calibration.forecastMs(parts), 75, 'who is refused again and again finds what is measured now');
  }),
);

run.run();
