/**
 * Does `work`; where it fails, again after each of these waits. Throws what failed last. `onAgain` is told of every failure that is
 * followed by another try.
 */
export async function again<T>(
  waitsMs: readonly number[],
  work: () => Promise<T>,
  onAgain: (error: unknown) => void = () => {},
): Promise<T> {
  for (const waitMs of waitsMs) {
    try {
      return await work();
    } catch (error) {
      onAgain(error);
    }
    await new Promise((resolve) => setTimeout(resolve, waitMs));
  }
  return work();
}
