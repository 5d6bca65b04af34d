/**
 * The patch execution script. It runs at boot like every other script of /etc/startup.d; the patch manager puts it there
 * together with the patch table and the patch files. You may read it, and change it: it is an ordinary module.
 *
 *   guest.fs          files of this machine, like node:fs/promises (readFile, writeFile, …), durable after guest.fs.sync()
 *   guest.patch(text) the patch program: a unified diff, all of its files or none
 *   guest.overlay(…)  puts a list of files, all or none
 *   guest.runModule   runs `async function run(guest)` of a module
 *   guest.sha256      hash of bytes, hex
 *   guest.log         a line for the console and for the result of this script
 *   guest.handBack    what the patch manager is told when it asks for the results
 */
const TABLE = '/var/lib/changeover/patch-table.json';
const FILES = '/var/lib/changeover/patches';

export async function run(guest) {
  // 1201: read the patch table.
  let table;
  try {
    table = JSON.parse(await guest.fs.readFile(TABLE, 'utf8'));
  } catch (error) {
    if (error.code === 'ENOENT') return guest.log('no patch table: nothing to do');
    throw new Error(`${TABLE} cannot be read: ${error.message}`);
  }
  if (table.format !== 'changeover-patch-table' || table.version !== 1 || !Array.isArray(table.patches)) {
    throw new Error(`${TABLE} is not a patch table of version 1`);
  }

  // 1202: choose the patches flagged for the next run that are "not yet" applied.
  const chosen = table.patches.filter((patch) => patch.applyNext && patch.date === null);
  guest.log(`${chosen.length} of ${table.patches.length} patches are to be applied`);

  const results = [];
  for (const patch of chosen) {
    // 1203, 1204: read the patch file and run the patch program on it.
    const result = { ok: true, at: new Date().toISOString(), output: '' };
    try {
      result.output = await apply(guest, patch);
    } catch (error) {
      result.ok = false;
      result.output = error.message;
    }
    guest.log(`${patch.file}: ${result.ok ? 'applied' : 'NOT APPLIED'}: ${result.output}`);

    // 1205: store the result in the table, on the disk, before the next patch is touched.
    patch.result = result;
    if (result.ok) {
      patch.date = result.at;
      patch.applyNext = false;
    }
    await store(guest, table);
    results.push({ file: patch.file, ...result });
    // 1206: all done? The loop goes on with the next one.
  }

  // 1207: hand the results and the table back to the patch manager.
  guest.handBack(results, JSON.stringify(table, null, 2));
  const failed = results.filter((result) => !result.ok).map((result) => result.file);
  if (failed.length > 0) throw new Error(`not applied: ${failed.join(', ')}`);
}

/** Returns what it did, one sentence; throws why it could not. */
async function apply(guest, patch) {
  if (patch.file.includes('/') || patch.file.startsWith('.')) throw new Error('the name of a patch file holds no path');
  const bytes = await guest.fs.readFile(`${FILES}/${patch.file}`);
  const sum = guest.sha256(bytes);
  if (sum !== patch.sha256) throw new Error(`wrong checksum: ${sum} instead of ${patch.sha256}`);

  switch (patch.kind) {
    case 'diff': {
      const outcome = await guest.patch(bytes.toString('utf8'));
      return outcome.alreadyApplied ? 'was applied already' : `patched ${outcome.files.join(', ')}`;
    }
    case 'overlay': {
      const files = await guest.overlay(JSON.parse(bytes.toString('utf8')));
      return `put ${files.join(', ')}`;
    }
    case 'script':
      await guest.runModule(`${FILES}/${patch.file}`);
      return 'ran';
    default:
      throw new Error(`unknown kind of patch: ${patch.kind}`);
  }
}

/** A new file takes the place of the old one, so that a crash leaves one of the two whole. */
async function store(guest, table) {
  await guest.fs.writeFile(`${TABLE}.new`, `${JSON.stringify(table, null, 2)}\n`);
  await guest.fs.rename(`${TABLE}.new`, TABLE);
  await guest.fs.sync();
}
