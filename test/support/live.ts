import { accessSync, constants } from 'node:fs';
import type { Test, uvu } from 'uvu';
import { suite } from 'uvu';

/** Why live tests cannot run here, or undefined. */
export function liveObstacle(): string | undefined {
  if (process.getuid?.() !== 0) return 'needs root';
  try {
    accessSync('/dev/net/tun', constants.R_OK | constants.W_OK);
  } catch {
    return 'needs /dev/net/tun';
  }
  return undefined;
}

/**
 * A suite that needs root and TAP. Where these are missing it says so and skips, except under CI=true: there it fails.
 * The file runs in a network namespace of its own: `test/live/*` are started by tools/test.ts under `unshare --net`.
 */
export function liveSuite(name: string): Test<Record<string, never>> {
  const s = suite<Record<string, never>>(name);
  const obstacle = liveObstacle();
  if (obstacle === undefined) return s;
  if (process.env['CI'] === 'true') {
    s('can run here', () => {
      throw new Error(`live tests must not be skipped in CI: ${obstacle}`);
    });
  }
  console.error(`${name}: skipped, ${obstacle}`);
  const skip = ((title: string, body: uvu.Callback<Record<string, never>>) =>
    s.skip(title, body)) as unknown as Test<Record<string, never>>;
  return Object.assign(skip, s, { run: s.run }) as Test<Record<string, never>>;
}
