import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { PatchError } from '../../src/patch/index.ts';
import { JOURNAL_VERSION, MemoryJournal, refuseNewerRuns } from '../../src/patch/index.ts';
import { within } from '../support/index.ts';

const journal = suite('patch/journal');

function withRun(version: number | undefined, phase: string): MemoryJournal {
  const made = new MemoryJournal();
  const facts = version === undefined ? { record: {} } : { record: {}, version };
  made.append({ runId: 'r', kind: 'run-begun', name: 'ledger', atMs: 0, facts });
  made.append({ runId: 'r', kind: 'phase', name: phase, atMs: 1 });
  return made;
}

function refusal(of: MemoryJournal): PatchError | undefined {
  try {
    refuseNewerRuns(of);
    return undefined;
  } catch (error) {
    return error as PatchError;
  }
}

journal(
  'runs of this and of older programs are taken up, also those from before there was a version',
  within(() => {
    for (const version of [undefined, 1, JOURNAL_VERSION]) {
      for (const phase of ['ready', 'cutting', 'probation', 'committed']) {
        assert.is(refusal(withRun(version, phase)), undefined, `${version} ${phase}`);
      }
    }
  }),
);

journal(
  'an unfinished run of a newer program is refused with the remedy, a finished one is history',
  within(() => {
    for (const phase of ['ready', 'cutting', 'probation', 'a phase that nobody knows']) {
      const error = refusal(withRun(JOURNAL_VERSION + 1, phase));
      assert.is(error?.code, 'journal-newer', phase);
      assert.match(error?.remedy ?? '', /newer program/);
      assert.equal(error?.values, { run: 'r', found: JOURNAL_VERSION + 1, known: JOURNAL_VERSION });
    }
    for (const phase of ['committed', 'rolled-back', 'undone']) {
      assert.is(refusal(withRun(JOURNAL_VERSION + 1, phase)), undefined, phase);
    }
  }),
);

journal.run();
