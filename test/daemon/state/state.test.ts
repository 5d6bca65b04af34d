import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  openState,
  SCHEMA_VERSION,
  SqliteDocumentStore,
  SqliteJournal,
  SqlitePatchTable,
  SqliteRoleStore,
  type StateError,
} from '../../../src/daemon/state/index.ts';
import type { RegisteredPatch } from '../../../src/patch/index.ts';
import { within } from '../../support/index.ts';

const state = suite<{ directory: string }>('daemon/state');

state.before.each((context) => {
  context.directory = mkdtempSync(join(tmpdir(), 'changeover-state-'));
});
state.after.each((context) => rmSync(context.directory, { recursive: true, force: true }));

const patch: RegisteredPatch = {
  file: 'fix.diff',
  name: 'a fix',
  kind: 'diff',
  type: 'security',
  importance: 4,
  sha256: '0'.repeat(64),
  date: null,
  applyNext: false,
  result: null,
  source: 'local',
  signature: 'valid',
  registeredAt: '2026-01-01T00:00:00.000Z',
};

state(
  'a journal entry is read back in order, by its run, after the store was opened again',
  within(({ directory }) => {
    const first = openState(directory);
    const journal = new SqliteJournal(first);
    journal.append({ runId: 'r1', kind: 'run-begun', name: 'ledger', atMs: 1.4, facts: { bytes: 5n } });
    journal.append({ runId: 'r2', kind: 'run-begun', name: 'ledger', atMs: 2 });
    journal.append({ runId: 'r1', kind: 'step-begun', name: 'copy', atMs: 3 });
    first.close();
    const second = openState(directory);
    const again = new SqliteJournal(second);
    assert.equal(again.runs(), ['r1', 'r2']);
    assert.equal(again.read('r1'), [
      { runId: 'r1', kind: 'run-begun', name: 'ledger', atMs: 1, facts: { bytes: '5' } },
      { runId: 'r1', kind: 'step-begun', name: 'copy', atMs: 3 },
    ]);
    assert.equal(again.read('none'), []);
    again.remove('r1');
    assert.equal(again.runs(), ['r2']);
    assert.equal(again.read('r1'), []);
    second.close();
  }),
);

state(
  'the store is in WAL mode with synchronous=FULL',
  within(({ directory }) => {
    const database = openState(directory);
    assert.is(database.prepare('PRAGMA journal_mode').get()?.['journal_mode'], 'wal');
    assert.is(database.prepare('PRAGMA synchronous').get()?.['synchronous'], 2);
    database.close();
  }),
);

state(
  'a role is the configured partition until the service is moved, and remembers who served before',
  within(({ directory }) => {
    const database = openState(directory);
    const roles = new SqliteRoleStore(database, { ledger: 'A' }, () => 77);
    assert.is(roles.active('ledger'), 'A');
    assert.is(roles.role('ledger'), undefined);
    roles.setActive('ledger', 'B');
    assert.equal(roles.role('ledger'), { service: 'ledger', active: 'B', previous: 'A', sinceMs: 77 });
    roles.setActive('ledger', 'B');
    assert.is(roles.role('ledger')?.previous, 'A', 'the same again changes nothing');
    assert.throws(
      () => roles.active('shop'),
      (error: StateError) => error.code === 'no-such-service' && error.remedy === 'known are: ledger',
    );
    database.close();
  }),
);

state(
  'the patch table keeps rows in the order of registration and files byte by byte',
  within(({ directory }) => {
    const database = openState(directory);
    const table = new SqlitePatchTable(database, directory);
    table.put(patch);
    table.put({ ...patch, file: 'b.diff' });
    table.put({ ...patch, applyNext: true });
    assert.equal(
      table.rows().map((row) => [row.file, row.applyNext]),
      [
        ['fix.diff', true],
        ['b.diff', false],
      ],
    );
    const data = Uint8Array.from({ length: 70_000 }, (_, i) => i & 0xff);
    table.writeFile('fix.diff', data);
    assert.ok(Buffer.from(data).equals(Buffer.from(table.readFile('fix.diff'))));
    database.close();
  }),
);

state(
  'a patch file name never leaves its folder',
  within(({ directory }) => {
    const database = openState(directory);
    const table = new SqlitePatchTable(database, directory);
    for (const name of ['../x', '/etc/passwd', '', '.hidden', 'a/b', 'x'.repeat(200)]) {
      assert.throws(
        () => table.writeFile(name, new Uint8Array(1)),
        (e: StateError) => e.code === 'bad-file-name',
      );
    }
    database.close();
  }),
);

state(
  'documents are replaced as a whole',
  within(({ directory }) => {
    const database = openState(directory);
    const documents = new SqliteDocumentStore(database);
    assert.is(documents.get('x'), undefined);
    documents.put('x', { a: 1 });
    documents.put('x', [2]);
    assert.equal(documents.get('x'), [2]);
    documents.delete('x');
    assert.is(documents.get('x'), undefined);
    database.close();
  }),
);

state(
  'a store of a newer program is refused, a damaged one named',
  within(({ directory }) => {
    const path = join(directory, 'state.db');
    openState(directory).close();
    const raw = new DatabaseSync(path);
    raw.exec(`PRAGMA user_version = ${SCHEMA_VERSION + 1}`);
    raw.close();
    assert.throws(
      () => openState(directory),
      (error: StateError) => error.code === 'state-newer',
    );
    writeFileSync(path, 'not a database'.repeat(1000));
    for (const folder of [directory, '/dev/null/x']) {
      assert.throws(
        () => openState(folder),
        (error: StateError) => error.code === 'state-unreadable' && error.message.includes(folder),
      );
    }
  }),
);

state.run();
