/**
 * Collections of garbage at the time of our choice.
 *
 * *Young*: the memory of a buffer is outside of V8's heap. V8 counts it and, when some tens of megabytes have come together, walks the
 * whole heap, although nearly every buffer that carried received data is dead within microseconds, and the young generation,
 * whose collection takes a tenth of a millisecond, would have found it so: nothing fills that one while little is allocated on the
 * heap itself. At gigabits per second that was more than half of a receiving process's time (docs/decisions/0019).
 *
 * *All*: right before clients wait for this process, so that V8 does not stop it while they do.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

type Collect = (options?: { readonly type: 'minor' }) => void;

let collect: Collect | undefined;

/** A tenth of a millisecond to some; `all` 5 to 20 ms for the heaps of our processes. Does nothing where V8 has no such function. */
export function collectGarbage(which: 'young' | 'all'): void {
  collect ??= collector();
  if (which === 'young') collect({ type: 'minor' });
  else collect();
}

/** V8 shows it to contexts that are made while the flag is set: to one of our own, and to no other. */
function collector(): Collect {
  try {
    setFlagsFromString('--expose-gc');
    const found: unknown = runInNewContext('globalThis.gc');
    return typeof found === 'function' ? (found as Collect) : () => {};
  } finally {
    setFlagsFromString('--no-expose-gc');
  }
}
