import { messageOf } from '../../common/index.ts';
import type { Move } from './move.ts';

/**
 * Right before clients wait: the new active and this process collect their garbage. V8 would do it when some megabytes more have come
 * together, which is in the middle of the cut, and everybody would wait for it.
 */
export async function collectGarbage({ env, to }: Move): Promise<void> {
  const there = env.hypervisor
    .control(to)
    .collectGarbage()
    .catch((error) =>
      env.log.warn('garbage is collected later', { partition: to, reason: messageOf(error) }),
    );
  env.collectGarbage();
  await there;
}
