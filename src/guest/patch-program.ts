/**
 * The guest's standard patch program (step 1204): unified diffs against files of the guest, context exact, all files of a
 * diff or none. `---`/`+++` names lose a leading `a/`, `b/` or `/`; `/dev/null` stands for a file that is made or removed.
 */
import { posix } from 'node:path';
import type { StructuredPatch } from 'diff';
import { applyPatch, parsePatch, reversePatch } from 'diff';
import { codeOf, messageOf } from '../common/index.ts';
import { GuestError } from './errors.ts';
import type { Namespace } from './namespace.ts';

export interface PatchOutcome {
  /** The files already were as the diff would make them. */
  readonly alreadyApplied: boolean;
  readonly files: readonly string[];
}

interface Change {
  readonly path: string;
  /** undefined: there is no such file. */
  readonly before: string | undefined;
  readonly after: string | undefined;
}

const OPTIONS = { fuzzFactor: 0, autoConvertLineEndings: false } as const;

/** Throws GuestError `bad-diff`, `does-not-apply`; nothing is changed then. */
export async function applyDiff(tree: Namespace, text: string): Promise<PatchOutcome> {
  const patches = parse(text);
  const changes: Change[] = [];
  const refused: string[] = [];
  let already = 0;
  for (const patch of patches) {
    const { from, to } = names(patch);
    const path = to ?? from!;
    if (changes.some((change) => change.path === path)) throw badDiff(`names ${path} twice`);
    const before = await readIfThere(tree, path);
    const after = patched(patch, before, from, to);
    if (after !== false) changes.push({ path, before, after });
    else if (isApplied(patch, before, from, to)) already++;
    else
      refused.push(
        `${path}: ${before === undefined ? 'there is no such file' : 'its text is not what the diff expects'}`,
      );
  }
  if (refused.length > 0 || (already > 0 && already < patches.length)) {
    if (refused.length === 0)
      refused.push(`${already} of ${patches.length} files are patched already, the others are not`);
    throw new GuestError(
      'does-not-apply',
      `the diff does not apply: ${refused.join('; ')}; nothing was changed`,
      {
        values: { files: refused },
        remedy: 'make the diff against the files as they are on this system disk',
      },
    );
  }
  const files = patches.map((patch) => names(patch).to ?? names(patch).from!);
  if (already === patches.length) return { alreadyApplied: true, files };
  await putAll(tree, changes);
  return { alreadyApplied: false, files };
}

/** Writes every change, or puts back what was written before the one that failed. */
export async function putAll(
  tree: Namespace,
  changes: readonly {
    path: string;
    before: string | Uint8Array | undefined;
    after: string | Uint8Array | undefined;
    mode?: number;
  }[],
): Promise<void> {
  const done: { path: string; before: string | Uint8Array | undefined; mode: number | undefined }[] = [];
  try {
    for (const { path, before, after, mode } of changes) {
      const old = before === undefined ? undefined : (await tree.stat(path)).mode & 0o7777;
      done.push({ path, before, mode: old });
      await put(tree, path, after, mode ?? old);
    }
    await tree.sync();
  } catch (error) {
    for (const { path, before, mode } of done.reverse()) await put(tree, path, before, mode).catch(() => {});
    await tree.sync().catch(() => {});
    throw new GuestError(
      'not-written',
      `the files could not be written: ${messageOf(error)}; they were put back`,
      {
        cause: error,
      },
    );
  }
}

async function put(
  tree: Namespace,
  path: string,
  contents: string | Uint8Array | undefined,
  mode: number | undefined,
): Promise<void> {
  if (contents === undefined) {
    await tree.rm(path, { force: true });
    return;
  }
  await tree.mkdir(posix.dirname(path), { recursive: true, mode: 0o755 });
  const fresh = `${path}.changeover-new`;
  await tree.writeFile(fresh, contents);
  await tree.chmod(fresh, mode ?? 0o644);
  await tree.rename(fresh, path);
}

function parse(text: string): StructuredPatch[] {
  let patches: StructuredPatch[];
  try {
    patches = parsePatch(text);
  } catch (error) {
    throw badDiff(`is not one: ${messageOf(error)}`);
  }
  const real = patches.filter((patch) => patch.hunks.length > 0);
  if (real.length === 0) throw badDiff('changes nothing');
  return real;
}

function names(patch: StructuredPatch): { from: string | undefined; to: string | undefined } {
  const [from, to] = [clean(patch.oldFileName), clean(patch.newFileName)];
  if (from === undefined && to === undefined) throw badDiff('has a part without a file name');
  if (from !== undefined && to !== undefined && from !== to)
    throw badDiff(`renames ${from} to ${to}, which is not supported`);
  return { from, to };
}

function clean(name: string | undefined): string | undefined {
  const bare = name?.split('\t')[0]?.trim();
  if (bare === undefined || bare === '' || bare === '/dev/null') return undefined;
  const relative = bare.replace(/^[ab]\//, '').replace(/^\/+/, '');
  if (relative.split('/').includes('..')) throw badDiff(`leads out of the tree: ${bare}`);
  return posix.normalize(`/${relative}`);
}

function patched(
  patch: StructuredPatch,
  before: string | undefined,
  from: string | undefined,
  to: string | undefined,
): string | undefined | false {
  if (from === undefined) return before === undefined ? applyPatch('', patch, OPTIONS) : false;
  if (before === undefined) return false;
  const after = applyPatch(before, patch, OPTIONS);
  if (to !== undefined || after === false) return after;
  return after === '' ? undefined : false;
}

function isApplied(
  patch: StructuredPatch,
  now: string | undefined,
  from: string | undefined,
  to: string | undefined,
): boolean {
  if (to === undefined) return now === undefined;
  if (now === undefined) return false;
  const before = applyPatch(now, reversePatch(patch), OPTIONS);
  return before !== false && (from !== undefined || before === '');
}

async function readIfThere(tree: Namespace, path: string): Promise<string | undefined> {
  try {
    const bytes = await tree.readFile(path);
    const text = bytes.toString('utf8');
    if (!Buffer.from(text, 'utf8').equals(bytes)) throw badDiff(`is for ${path}, which is not text`);
    return text;
  } catch (error) {
    if (codeOf(error) === 'ENOENT' || codeOf(error) === 'ENOTDIR') return undefined;
    throw error;
  }
}

function badDiff(what: string): GuestError {
  return new GuestError('bad-diff', `the diff ${what}`, { remedy: 'make it with `diff -u` or `git diff`' });
}
