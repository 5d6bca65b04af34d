import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { bytesText, durationText, tableLines } from '../../src/cli/format.ts';
import { ProgressView, progressText } from '../../src/cli/progress.ts';
import type { Terminal } from '../../src/cli/terminal.ts';
import { within } from '../support/index.ts';

const progress = suite('cli/progress');

function recorder(tty: boolean): Terminal & { readonly lines: string[]; readonly drawn: string[] } {
  const lines: string[] = [];
  const drawn: string[] = [];
  return {
    lines,
    drawn,
    interactive: tty,
    progress: tty,
    columns: 60,
    out: (line) => void lines.push(`out ${line}`),
    err: (line) => void lines.push(line),
    draw: (text) => void drawn.push(text),
    style: (_style, text) => text,
  };
}

progress(
  'sizes and times are rounded to what a person reads',
  within(() => {
    assert.equal([0, 1023, 1024, 1536, 123_456_789, 5e12].map(bytesText), [
      '0 B',
      '1023 B',
      '1.00 KiB',
      '1.50 KiB',
      '118 MiB',
      '4.55 TiB',
    ]);
    assert.equal([0, 3.14, 12.6, 999, 1250, 61_000, 3_660_000, 1e9].map(durationText), [
      '0 ms',
      '3.1 ms',
      '13 ms',
      '999 ms',
      '1.25 s',
      '1 min 01 s',
      '1 h 01 min',
      '11 d 13 h',
    ]);
  }),
);

progress(
  'a table is aligned, empty cells show a dash, lines end without blanks',
  within(() => {
    assert.equal(
      tableLines(
        ['id', 'state'],
        [
          ['A', 'running'],
          ['Beta', ''],
        ],
      ),
      ['ID    STATE', 'A     running', 'Beta  -'],
    );
  }),
);

progress(
  'a bar shows bytes, rate and what is left',
  within(() => {
    const text = progressText({
      done: 32 * 1024 * 1024,
      total: 64 * 1024 * 1024,
      unit: 'bytes',
      ratePerSecond: 16 * 1024 * 1024,
      etaMs: 2000,
    });
    assert.is(text, '[===========>            ]  50 %  32.0 MiB of 64.0 MiB, 16.0 MiB/s, 2.00 s left');
    assert.match(progressText({ done: 5, total: 0, unit: 'items' }), /0 % {2}5 of 0/);
    assert.match(progressText({ done: 9, total: 3, unit: 'items' }), /100 %/);
  }),
);

progress(
  'piped: one line per finished step and nothing drawn',
  within(() => {
    const terminal = recorder(false);
    const view = new ProgressView(terminal, false);
    view.step({ name: 'copy-disks', figure: '703', state: 'running', durationMs: 1 });
    view.step({ name: 'copy-disks', figure: '703', state: 'done', durationMs: 1500 });
    view.step({ name: 'copy-disks', figure: '703', state: 'done', durationMs: 1500 });
    view.step({ name: 'boot', figure: '', state: 'failed', durationMs: 10, reason: 'no disk' });
    view.step({ name: 'copy-disks', figure: '703', state: 'undone', durationMs: 1500 });
    assert.equal(terminal.lines, [
      '✓ copy-disks (703)  1.50 s',
      '✗ boot  10 ms: no disk',
      '↶ copy-disks (703)  undone',
    ]);
    assert.equal(terminal.drawn, []);
  }),
);

progress(
  'on a terminal the running step is drawn within its width, not too often, and wiped before a line',
  within(() => {
    const terminal = recorder(true);
    let nowMs = 0;
    const view = new ProgressView(terminal, false, () => nowMs);
    const running = (done: number) =>
      view.step({
        name: 'copy-disks',
        state: 'running',
        durationMs: 5,
        progress: { done, total: 1e9, unit: 'bytes', ratePerSecond: 1e6, etaMs: 1000 },
      });
    running(1);
    nowMs = 10;
    running(2);
    assert.is(terminal.drawn.length, 1, 'the second came too soon');
    nowMs = 100;
    running(3);
    assert.is(terminal.drawn.length, 2);
    for (const text of terminal.drawn) assert.ok(text.replace('\r\u001b[K', '').length < 60);
    view.step({ name: 'copy-disks', state: 'done', durationMs: 200 });
    assert.is(terminal.drawn.at(-1), '\r\u001b[K');
    assert.equal(terminal.lines, ['✓ copy-disks  200 ms']);
  }),
);

progress(
  'quiet: nothing at all',
  within(() => {
    const terminal = recorder(true);
    const view = new ProgressView(terminal, true);
    view.step({ name: 'x', state: 'running', durationMs: 1 });
    view.step({ name: 'x', state: 'done', durationMs: 1 });
    view.note('y');
    assert.equal([terminal.lines, terminal.drawn], [[], []]);
  }),
);

progress.run();
