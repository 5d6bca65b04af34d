import { createHash, generateKeyPairSync, sign } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  admitPatch,
  findPatch,
  flagPatch,
  MemoryPatchTable,
  PatchError,
  scanDirectory,
  tableForGuest,
} from '../../src/patch/index.ts';
import { seeded, within } from '../support/index.ts';

const source = suite('patch/source');

const data = Buffer.from('--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n');
const sha256 = createHash('sha256').update(data).digest('hex');
const good = {
  file: 'fix-1.diff',
  name: 'a fix',
  kind: 'diff',
  type: 'security',
  importance: 4,
  sha256,
};
const unsigned = { allowUnsigned: true };
const admit = (
  changes: object,
  trust: { allowUnsigned: boolean; publicKey?: string } = unsigned,
  signature?: string,
) =>
  admitPatch(
    {
      description: JSON.stringify({ ...good, ...changes }),
      data,
      ...(signature === undefined ? {} : { signature }),
    },
    'here',
    trust,
    0,
  );

function codeOfThrown(body: () => unknown): string {
  try {
    body();
  } catch (error) {
    assert.instance(error, PatchError);
    return (error as PatchError).code;
  }
  return 'nothing thrown';
}

source(
  'a good description becomes a row that is not flagged and not applied',
  within(() => {
    const row = admit({});
    assert.is(row.file, 'fix-1.diff');
    assert.is(row.date, null);
    assert.is(row.applyNext, false);
    assert.is(row.signature, 'unsigned');
  }),
);

source(
  'every field is checked',
  within(() => {
    for (const bad of [
      { file: '../etc/passwd' },
      { file: 'a/b' },
      { file: '.hidden' },
      { file: 7 },
      { name: 'two\nlines' },
      { kind: 'binary' },
      { type: 'cosmetic' },
      { importance: 5 },
      { importance: 1.5 },
      { sha256: 'A'.repeat(64) },
      { sha256: '0'.repeat(64) },
    ]) {
      assert.is(
        codeOfThrown(() => admit(bad)),
        'bad-patch',
        JSON.stringify(bad),
      );
    }
  }),
);

source(
  'an unsigned patch needs the policy to allow it',
  within(() => {
    assert.is(
      codeOfThrown(() => admit({}, { allowUnsigned: false })),
      'unsigned',
    );
  }),
);

source(
  'a signature is valid for exactly its key and its bytes',
  within(() => {
    const { publicKey, privateKey } = generateKeyPairSync('ed25519');
    const pem = publicKey.export({ type: 'spki', format: 'pem' }).toString();
    const signature = sign(null, Buffer.from(sha256), privateKey).toString('base64');
    const trust = { allowUnsigned: false, publicKey: pem };
    assert.is(admit({}, trust, signature).signature, 'valid');
    const other = generateKeyPairSync('ed25519').publicKey.export({ type: 'spki', format: 'pem' }).toString();
    assert.is(
      codeOfThrown(() => admit({}, { ...trust, publicKey: other }, signature)),
      'bad-patch',
    );
    const bytes = Buffer.from(signature, 'base64');
    bytes[3]! ^= 1;
    assert.is(
      codeOfThrown(() => admit({}, trust, bytes.toString('base64'))),
      'bad-patch',
    );
    assert.is(
      codeOfThrown(() => admit({}, { ...trust, publicKey: 'no key' }, signature)),
      'bad-patch',
    );
  }),
);

source(
  'a description that was changed anywhere is admitted or refused, never a crash',
  within(() =>
    seeded((random) => {
      const text = JSON.stringify(good);
      for (let i = 0; i < 2000; i++) {
        const at = random.below(text.length);
        const changed = text.slice(0, at) + String.fromCharCode(random.below(128)) + text.slice(at + 1);
        try {
          admitPatch({ description: changed, data }, 'here', unsigned, 0);
        } catch (error) {
          assert.instance(error, PatchError);
        }
      }
    }),
  ),
);

source(
  'a scan registers what is new, once, and names what it refuses',
  within(() => {
    const folder = mkdtempSync(join(tmpdir(), 'changeover-source-'));
    try {
      writeFileSync(join(folder, 'fix-1.diff'), data);
      writeFileSync(join(folder, 'fix-1.json'), JSON.stringify(good));
      writeFileSync(join(folder, 'bad.json'), JSON.stringify({ ...good, file: 'absent.diff' }));
      const store = new MemoryPatchTable();
      const first = scanDirectory({ name: 'here', path: folder }, true, store, 0);
      assert.equal(
        first.registered.map((r) => r.file),
        ['fix-1.diff'],
      );
      assert.is(first.refused.length, 1);
      assert.match(first.refused[0] ?? '', /absent\.diff/);
      assert.is(scanDirectory({ name: 'here', path: folder }, true, store, 0).registered.length, 0);
      assert.equal(Buffer.from(store.readFile('fix-1.diff')), data);
    } finally {
      rmSync(folder, { recursive: true });
    }
  }),
);

source(
  'flagging: unknown names are refused with the known ones, applied patches are not flagged again',
  within(() => {
    const store = new MemoryPatchTable();
    store.put(admit({}));
    assert.is(flagPatch(store, 'fix-1.diff', true).applyNext, true);
    assert.is(findPatch(store, 'fix-1.diff').applyNext, true);
    assert.is(
      codeOfThrown(() => flagPatch(store, 'nothing', true)),
      'no-such-patch',
    );
    store.put({ ...admit({}), date: '2026-01-01T00:00:00.000Z' });
    assert.is(
      codeOfThrown(() => flagPatch(store, 'fix-1.diff', true)),
      'bad-patch',
    );
  }),
);

source(
  'the table for the guest holds the seven columns it needs',
  within(() => {
    const table = tableForGuest([admit({})]);
    assert.equal(Object.keys(table.patches[0] ?? {}).sort(), [
      'applyNext',
      'date',
      'file',
      'kind',
      'result',
      'sha256',
      'type',
    ]);
  }),
);

source.run();
