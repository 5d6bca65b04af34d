/**
 * What accompanies a patch file on a patch server: `NAME.json` beside the file it describes, optionally `FILE.sig`, the
 * base64 Ed25519 signature over the patch file's SHA-256 digest as 64 hex digits. Everything here comes from outside: it is
 * checked field by field and nothing of it is used as a path.
 */
import { createHash, createPublicKey, verify } from 'node:crypto';
import { PATCH_KINDS, PATCH_TYPES } from '../../channel/index.ts';
import { messageOf } from '../../common/index.ts';
import { PatchError } from '../errors.ts';
import type { RegisteredPatch } from '../patch-table.ts';

/** Largest patch file that is taken, bytes. */
export const MAX_PATCH_BYTES = 64 * 1024 * 1024;
const FILE_NAME = /^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$/;

export interface PatchMaterial {
  /** Text of the description file. */
  readonly description: string;
  readonly data: Uint8Array;
  /** Text of the signature file, when there is one. */
  readonly signature?: string;
}

export interface TrustPolicy {
  /** PEM text of the source's Ed25519 public key. */
  readonly publicKey?: string;
  readonly allowUnsigned: boolean;
}

/** The file name that a description speaks of. Throws `bad-patch`. */
export function describedFile(description: string, where: string): string {
  return text(parse(description, where), 'file', where, FILE_NAME);
}

/** Checks a patch and makes its row, not flagged. Throws `bad-patch` or `unsigned`. */
export function admitPatch(
  material: PatchMaterial,
  source: string,
  trust: TrustPolicy,
  nowMs: number,
): RegisteredPatch {
  const where = `a patch of source ${source}`;
  const d = parse(material.description, where);
  const file = text(d, 'file', where, FILE_NAME);
  const here = `${file} of source ${source}`;
  if (material.data.length > MAX_PATCH_BYTES) {
    throw new PatchError(
      'bad-patch',
      `${here} has ${material.data.length} bytes, more than ${MAX_PATCH_BYTES}`,
    );
  }
  const sha256 = createHash('sha256').update(material.data).digest('hex');
  const stated = text(d, 'sha256', here, /^[0-9a-f]{64}$/);
  if (stated !== sha256) {
    throw new PatchError('bad-patch', `${here} has SHA-256 ${sha256}, its description says ${stated}`, {
      remedy: 'fetch it again from its publisher',
    });
  }
  const signature = checkSignature(material, sha256, here, trust);
  const importance = d['importance'] ?? 1;
  if (typeof importance !== 'number' || !Number.isInteger(importance) || importance < 1 || importance > 4) {
    throw new PatchError('bad-patch', `${here}: importance must be a whole number from 1 to 4`);
  }
  return {
    file,
    name: text(d, 'name', here, /^[^\r\n]{1,200}$/),
    kind: oneOf(d, 'kind', here, PATCH_KINDS),
    type: oneOf(d, 'type', here, PATCH_TYPES),
    importance,
    ...(typeof d['software'] === 'string' ? { software: d['software'].slice(0, 100) } : {}),
    ...(typeof d['versions'] === 'string' ? { versions: d['versions'].slice(0, 100) } : {}),
    sha256,
    date: null,
    applyNext: false,
    result: null,
    source,
    signature,
    registeredAt: new Date(nowMs).toISOString(),
  };
}

function checkSignature(
  material: PatchMaterial,
  sha256: string,
  here: string,
  trust: TrustPolicy,
): RegisteredPatch['signature'] {
  if (material.signature === undefined || trust.publicKey === undefined) {
    if (trust.allowUnsigned) return 'unsigned';
    const lacking =
      material.signature === undefined
        ? 'has no signature'
        : 'cannot be checked: its source has no public key';
    throw new PatchError('unsigned', `${here} ${lacking}`, {
      remedy: 'give the source a publicKey and sign its patches, or set patching.allowUnsigned',
    });
  }
  let valid = false;
  try {
    const key = createPublicKey(trust.publicKey);
    valid = verify(null, Buffer.from(sha256), key, Buffer.from(material.signature.trim(), 'base64'));
  } catch (error) {
    throw new PatchError('bad-patch', `the signature of ${here} cannot be checked: ${messageOf(error)}`, {
      cause: error,
    });
  }
  if (!valid) {
    throw new PatchError('bad-patch', `the signature of ${here} does not match its public key`, {
      remedy: 'do not apply it; ask its publisher',
    });
  }
  return 'valid';
}

function parse(description: string, where: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(description);
    if (typeof value === 'object' && value !== null && !Array.isArray(value))
      return value as Record<string, unknown>;
  } catch (error) {
    throw new PatchError('bad-patch', `the description of ${where} is no JSON: ${messageOf(error)}`, {
      cause: error,
    });
  }
  throw new PatchError('bad-patch', `the description of ${where} is no JSON object`);
}

function text(d: Record<string, unknown>, field: string, where: string, pattern: RegExp): string {
  const value = d[field];
  if (typeof value === 'string' && pattern.test(value)) return value;
  throw new PatchError('bad-patch', `${where}: ${field} is missing or not of the form ${pattern.source}`);
}

function oneOf<T extends string>(
  d: Record<string, unknown>,
  field: string,
  where: string,
  allowed: readonly T[],
): T {
  const value = d[field];
  const found = allowed.find((a) => a === value);
  if (found !== undefined) return found;
  throw new PatchError(
    'bad-patch',
    `${where}: ${field} is ${JSON.stringify(value)}, allowed are ${allowed.join(', ')}`,
  );
}
