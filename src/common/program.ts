/**
 * Which file to start a process of the product from: its bundle, where `make build` made one of exactly these sources, else
 * the source itself. One file loads in a fraction of the time of some hundred modules. Sources are compared by content, so
 * a copied or checked-out tree keeps its bundles, and no edit is ever passed over.
 */
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';

const PRODUCT = resolve(import.meta.dirname, '../..');
/** Below the product's folder; written by tools/bundle.ts. */
export const BUNDLES = 'node_modules/.bundle';

/** Beside each bundle; paths are relative to the product's folder. */
export interface BundleManifest {
  /** Name of the bundle in the same folder. */
  readonly bundle: string;
  /** SHA-256 in hex of each source file that is in it. */
  readonly inputs: Readonly<Record<string, string>>;
}

interface Known {
  /** Size and time of change of the manifest and every input when they were compared last. */
  readonly signature: string;
  readonly file: string;
}

const known = new Map<string, Known>();

/** Name of what is made of the program whose main module is `source`, relative to the product's folder. */
export function bundleName(source: string): string {
  return source.replaceAll('/', '.');
}

export function digestOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** `source`: absolute path of the main module. Never throws. */
export function programFile(source: string, product: string = PRODUCT): string {
  try {
    const manifest = join(product, BUNDLES, `${bundleName(relative(product, source))}.json`);
    if (!existsSync(manifest)) return source;
    const { bundle, inputs } = JSON.parse(readFileSync(manifest, 'utf8')) as BundleManifest;
    const bundled = join(product, BUNDLES, bundle);
    const files = Object.keys(inputs).map((name) => join(product, name));
    const signature = [manifest, bundled, ...files].map(stamp).join();
    const before = known.get(source);
    if (before?.signature === signature) return before.file;
    const isFresh = files.every((file, i) => digestOf(readFileSync(file)) === Object.values(inputs)[i]);
    const file = isFresh ? bundled : source;
    known.set(source, { signature, file });
    return file;
  } catch {
    return source;
  }
}

function stamp(path: string): string {
  const { size, mtimeNs, ino } = statSync(path, { bigint: true });
  return `${ino}.${size}.${mtimeNs}`;
}
