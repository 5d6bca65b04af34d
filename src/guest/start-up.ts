/**
 * The script execution program [1101] (Fig 11): runs the modules `NN-*.mjs` of /etc/startup.d in the order of their names,
 * one after the other. Each exports `async function run(guest)`. A script that fails is reported and the boot goes on,
 * unless it exports `const required = true`.
 */
import { createHash } from 'node:crypto';
import { posix } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { GuestPatchResult, PatchOverlay, StartUpResult } from '../channel/index.ts';
import { PATCH_PATHS } from '../channel/index.ts';
import { codeOf, messageOf } from '../common/index.ts';
import type { Scratch } from './application/unpack.ts';
import { GuestError } from './errors.ts';
import type { Namespace } from './namespace.ts';
import type { PatchOutcome } from './patch-program.ts';
import { applyDiff, putAll } from './patch-program.ts';

const SCRIPT_NAME = /^\d{2}-[A-Za-z0-9._-]+\.mjs$/;
const OUTPUT_LINES = 20;
export const SCRIPT_LIMIT_MS = 60_000;

/** What a start-up script gets. */
export interface ScriptGuest {
  readonly id: string;
  readonly hostname: string;
  readonly fs: Namespace;
  log(line: string): void;
  /** Throws GuestError `bad-diff`, `does-not-apply`. */
  patch(diff: string): Promise<PatchOutcome>;
  /** Paths that were put. */
  overlay(overlay: PatchOverlay): Promise<string[]>;
  runModule(path: string): Promise<void>;
  sha256(bytes: Uint8Array): string;
  handBack(results: GuestPatchResult[], table: string): void;
}

interface ScriptModule {
  readonly run?: unknown;
  readonly required?: unknown;
}

export interface StartUpOptions {
  readonly id: string;
  readonly hostname: string;
  readonly tree: Namespace;
  readonly scratch: Scratch;
  readonly log: (line: string) => void;
  readonly handBack: (results: GuestPatchResult[], table: string) => void;
  readonly limitMs?: number;
}

/** Throws GuestError `start-up-failed` when a required script failed; `results` then holds what ran. */
export async function runStartUpScripts(options: StartUpOptions, results: StartUpResult[]): Promise<void> {
  let names: string[];
  try {
    names = (await options.tree.readdir(PATCH_PATHS.startUp)).map((entry) => entry.name);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return;
    throw error;
  }
  for (const name of names.filter((candidate) => SCRIPT_NAME.test(candidate)).sort()) {
    const { result, required } = await runOne(options, posix.join(PATCH_PATHS.startUp, name), name);
    results.push(result);
    if (!result.ok && required) {
      throw new GuestError(
        'start-up-failed',
        `the required start-up script ${name} failed: ${result.output}`,
      );
    }
  }
}

async function runOne(
  options: StartUpOptions,
  path: string,
  name: string,
): Promise<{ result: StartUpResult; required: boolean }> {
  const startedMs = performance.now();
  const output: string[] = [];
  let ok = true;
  let required = false;
  try {
    const module = await load(options, path);
    required = module.required === true;
    await limited(
      runModule(module, scriptGuest(options, output), path),
      options.limitMs ?? SCRIPT_LIMIT_MS,
      name,
    );
  } catch (error) {
    ok = false;
    output.push(messageOf(error));
  }
  const result = {
    script: name,
    ok,
    durationMs: Math.round(performance.now() - startedMs),
    output: output.slice(-OUTPUT_LINES).join('\n'),
  };
  options.log(`${name} ${ok ? 'ran' : 'FAILED'} in ${result.durationMs} ms${ok ? '' : `: ${result.output}`}`);
  return { result, required };
}

/** For `guest-exec`, too: runs `run(guest, arguments)` of a module of the guest's disk. */
export async function runScriptModule(
  options: StartUpOptions,
  path: string,
  output: string[],
  args: readonly string[] = [],
): Promise<void> {
  await runModule(await load(options, path), scriptGuest(options, output), path, args);
}

let loads = 0;

async function load(options: StartUpOptions, path: string): Promise<ScriptModule> {
  await options.scratch.unpack(options.tree, path);
  // A module that was loaded before may have been changed since: the query makes it another one.
  return (await import(`${pathToFileURL(options.scratch.host(path)).href}?load=${++loads}`)) as ScriptModule;
}

async function runModule(
  module: ScriptModule,
  guest: ScriptGuest,
  path: string,
  args: readonly string[] = [],
): Promise<void> {
  if (typeof module.run !== 'function') {
    throw new GuestError('bad-script', `${path} does not export a function run(guest)`, {
      remedy: 'write `export async function run(guest) { … }`',
    });
  }
  await module.run(guest, args);
}

function scriptGuest(options: StartUpOptions, output: string[]): ScriptGuest {
  const { id, hostname, tree } = options;
  const guest: ScriptGuest = {
    id,
    hostname,
    fs: tree,
    log: (line) => {
      output.push(String(line));
      options.log(String(line));
    },
    patch: (diff) => applyDiff(tree, diff),
    overlay: (overlay) => putOverlay(tree, overlay),
    runModule: async (path) => runModule(await load(options, path), guest, path),
    sha256: (bytes) => createHash('sha256').update(bytes).digest('hex'),
    handBack: options.handBack,
  };
  return guest;
}

async function putOverlay(tree: Namespace, overlay: PatchOverlay): Promise<string[]> {
  if (!Array.isArray(overlay.files) || overlay.files.length === 0) {
    throw new GuestError('bad-overlay', 'the overlay names no files', {
      remedy: 'give {"files": [{"path", "text"}]}',
    });
  }
  const changes = [];
  for (const { path, mode, text, data } of overlay.files) {
    if (typeof path !== 'string' || !path.startsWith('/') || (text === undefined) === (data === undefined)) {
      throw new GuestError(
        'bad-overlay',
        `an overlay's file needs an absolute path and one of text and data: ${path}`,
      );
    }
    const before = (await tree.exists(path)) ? await tree.readFile(path) : undefined;
    const after = text ?? Buffer.from(data!, 'base64');
    changes.push({ path: posix.normalize(path), before, after, ...(mode === undefined ? {} : { mode }) });
  }
  await putAll(tree, changes);
  return changes.map((change) => change.path);
}

async function limited(work: Promise<void>, limitMs: number, name: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(
      () => reject(new GuestError('timeout', `${name} is not done after ${limitMs} ms; it is left behind`)),
      limitMs,
    );
  });
  try {
    await Promise.race([work, expired]);
  } finally {
    clearTimeout(timer);
  }
}
