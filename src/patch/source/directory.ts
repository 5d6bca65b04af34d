/** A patch source that is a folder of this host: what a mirror script or an administrator puts there. */
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { messageOf, sentenceOf } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import type { PatchTableStore, RegisteredPatch } from '../patch-table.ts';
import type { TrustPolicy } from './description.ts';
import { admitPatch, describedFile, MAX_PATCH_BYTES } from './description.ts';

const MAX_DESCRIPTION_BYTES = 64 * 1024;

export interface SourceSpec {
  readonly name: string;
  readonly path: string;
  /** PEM file of the source's public key. */
  readonly publicKey?: string;
}

export interface ScanResult {
  readonly registered: RegisteredPatch[];
  /** What was found and not taken, one sentence each. */
  readonly refused: string[];
}

/** 1802, 1803: registers what is new in the folder (or of `only` these description files). A bad patch is refused with its reason and does not stop the others. */
export function scanDirectory(
  spec: SourceSpec,
  allowUnsigned: boolean,
  store: PatchTableStore,
  nowMs: number,
  only?: readonly string[],
): ScanResult {
  const trust: TrustPolicy = {
    allowUnsigned,
    ...(spec.publicKey === undefined ? {} : { publicKey: readText(spec.publicKey, MAX_DESCRIPTION_BYTES) }),
  };
  const registered: RegisteredPatch[] = [];
  const refused: string[] = [];
  let names: string[];
  try {
    names = readdirSync(spec.path).filter((name) => only?.includes(name) ?? name.endsWith('.json'));
  } catch (error) {
    throw new PatchError('bad-patch', `patch source ${spec.name} cannot be read: ${messageOf(error)}`, {
      cause: error,
      remedy: `create the folder ${spec.path} or correct patching.sources`,
    });
  }
  for (const name of names.sort()) {
    try {
      const row = importFromDirectory(spec, name, trust, store, nowMs);
      if (row !== undefined) registered.push(row);
    } catch (error) {
      refused.push(sentenceOf(error));
    }
  }
  return { registered, refused };
}

function importFromDirectory(
  spec: SourceSpec,
  descriptionName: string,
  trust: TrustPolicy,
  store: PatchTableStore,
  nowMs: number,
): RegisteredPatch | undefined {
  const description = readText(join(spec.path, descriptionName), MAX_DESCRIPTION_BYTES);
  const file = describedFile(description, `${descriptionName} of source ${spec.name}`);
  const data = readLimited(join(spec.path, file), MAX_PATCH_BYTES);
  const signature = readIfPresent(join(spec.path, `${file}.sig`));
  const row = admitPatch(
    signature === undefined ? { description, data } : { description, data, signature },
    spec.name,
    trust,
    nowMs,
  );
  const known = store.rows().find((r) => r.file === file);
  if (known !== undefined) {
    if (known.sha256 === row.sha256) return undefined;
    throw new PatchError(
      'bad-patch',
      `${file} of source ${spec.name} differs from the registered file of that name`,
      {
        remedy: 'a changed patch must come under a new file name',
      },
    );
  }
  store.writeFile(file, data);
  store.put(row);
  return row;
}

function readLimited(path: string, limit: number): Uint8Array {
  let size: number;
  try {
    const stat = statSync(path);
    if (!stat.isFile()) throw new PatchError('bad-patch', `${path} is not a regular file`);
    size = stat.size;
    if (size <= limit) return readFileSync(path);
  } catch (error) {
    if (error instanceof PatchError) throw error;
    throw new PatchError('bad-patch', `${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
  throw new PatchError('bad-patch', `${path} has ${size} bytes, more than ${limit}`);
}

function readText(path: string, limit: number): string {
  return Buffer.from(readLimited(path, limit)).toString('utf8');
}

function readIfPresent(path: string): string | undefined {
  try {
    statSync(path);
  } catch {
    return undefined;
  }
  return readText(path, MAX_DESCRIPTION_BYTES);
}
