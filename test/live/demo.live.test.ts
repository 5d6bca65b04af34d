/** What `make demo` runs, as a user would: the main job there and back by `overlap` and `hold` under load, with clients that write again at once. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { liveSuite, run, within } from '../support/index.ts';
import { ROOT } from './support/site.ts';

const demo = liveSuite('live/demo');

interface Result {
  readonly requests: { readonly answered: number; readonly failed: number };
  readonly streams: { readonly cut: number };
  readonly writes: { readonly acknowledged: number; readonly missing: number };
  readonly evidence: string;
  readonly problems: readonly string[];
}

demo(
  'no request fails, no stream is cut, no acknowledged write is missing, and it says so with its exit code',
  within(async () => {
    const { stdout } = await run(join(ROOT, 'bin/changeover'), ['demo', '--seconds', '2', '--json']).catch(
      (error) => {
        throw new Error(`exit ${error.code}: ${error.stdout.slice(-3000)}\n${error.stderr.slice(-2000)}`);
      },
    );
    const result = JSON.parse(stdout) as Result;
    assert.equal(result.problems, []);
    assert.is(result.requests.failed, 0);
    assert.is(result.streams.cut, 0);
    assert.is(result.writes.missing, 0);
    assert.ok(result.requests.answered > 1000 && result.writes.acknowledged > 100, stdout.slice(0, 500));
    rmSync(result.evidence, { recursive: true, force: true });
  }, 120_000),
);

demo.run();
