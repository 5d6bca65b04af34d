import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DIRTY_GRAIN, DirtyMap, planPieces } from '../../../src/blockdev/index.ts';
import { seeded, within } from '../../support/index.ts';

const plan = suite('blockdev/log/plan');

plan(
  'of random writes the newest is left at every byte, once, in order of address',
  within(() =>
    seeded((random) => {
      for (let round = 0; round < 200; round++) {
        const size = 300;
        const writes = Array.from({ length: random.below(40) }, () => {
          const address = random.below(size);
          return { address, length: random.below(Math.min(60, size - address) + 1) };
        });
        const model: (object | undefined)[] = Array.from({ length: size });
        for (const write of writes) model.fill(write, write.address, write.address + write.length);
        const found: (object | undefined)[] = Array.from({ length: size });
        let at = 0;
        // Whole sectors are sorted another way than odd bytes.
        const unit = round % 2 === 0 ? 1 : 512;
        const scaled = writes.map(({ address, length }) => ({
          address: address * unit,
          length: length * unit,
        }));
        for (const { from, ...byUnit } of planPieces(scaled)) {
          const piece = {
            start: byUnit.start / unit,
            end: byUnit.end / unit,
            from: writes[scaled.indexOf(from)]!,
          };
          assert.ok(piece.start >= at && piece.end > piece.start);
          at = piece.end;
          found.fill(piece.from, piece.start, piece.end);
        }
        for (let i = 0; i < size; i++) assert.is(found[i], model[i]);
      }
    }),
  ),
);

plan(
  'very many writes to few places come to as many pieces',
  within(() => {
    const writes = Array.from({ length: 300_000 }, (_, i) => ({ address: (i % 1000) * 4096, length: 4096 }));
    const pieces = planPieces(writes);
    assert.is(pieces.length, 1000);
    assert.is(pieces[0]!.from, writes[299_000]);
  }),
);

plan(
  'a range of terabytes costs no more than a small one',
  within(() => {
    const all = { address: 0, length: 2 ** 52 };
    const one = { address: 2 ** 51, length: 512 };
    assert.equal(
      planPieces([all, one]).map(({ start, end }) => [start, end]),
      [
        [0, 2 ** 51],
        [2 ** 51, 2 ** 51 + 512],
        [2 ** 51 + 512, 2 ** 52],
      ],
    );
  }),
);

plan(
  'the dirty map marks whole grains, merges neighbours and ends at the disk’s end',
  within(() => {
    const map = new DirtyMap(10 * DIRTY_GRAIN + 100);
    map.mark(DIRTY_GRAIN - 1, 2);
    map.mark(10 * DIRTY_GRAIN + 50, 10);
    map.mark(5, 0);
    assert.equal(map.ranges(), [
      { start: 0, end: 2 * DIRTY_GRAIN },
      { start: 10 * DIRTY_GRAIN, end: 10 * DIRTY_GRAIN + 100 },
    ]);
    assert.ok(map.has(DIRTY_GRAIN, DIRTY_GRAIN + 1));
    assert.not.ok(map.has(2 * DIRTY_GRAIN, 3 * DIRTY_GRAIN));
    assert.is(map.bytes, 3 * DIRTY_GRAIN);
  }),
);

plan.run();
