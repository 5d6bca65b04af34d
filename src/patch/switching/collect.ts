import { messageOf } from '../../common/index.ts';
import type { Move } from './move.ts';

/**
 * Right before clients wait: the new active and this process collect their garbage. V8 would do it when some megabytes more have come
 * together, which is in the middle of the cut, and everybody would wait for it. *All* keeps the processors busy for some 30 ms while the
 * service is running: worth it where a pause of that length follows.
 */
export async function collectGarbage({ env, to }: Move, which: 'young' | 'all'): Promise<void> {
  await env.hypervisor
    .control(to)
    .collectGarbage(which)
    .catch((error) =>
      env.log.warn('garbage is collected later', { partition: to, reason: messageOf(error) }),
    );
  env.collectGarbage(which);
}
