/** Wraps a test body with a time limit, so that a hang is a failure with a name. Default 10 s. */
export function within<A extends unknown[]>(
  body: (...args: A) => Promise<unknown> | unknown,
  limitMs = 10_000,
): (...args: A) => Promise<void> {
  return async (...args) => {
    let timer: NodeJS.Timeout | undefined;
    const expired = new Promise<never>((_resolve, reject) => {
      timer = setTimeout(() => reject(new Error(`test did not finish within ${limitMs} ms`)), limitMs);
    });
    try {
      await Promise.race([Promise.resolve(body(...args)), expired]);
    } finally {
      clearTimeout(timer);
    }
  };
}

/** Polls `probe` until it returns something other than undefined or false. */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | undefined | false> | T | undefined | false,
  limitMs = 5_000,
): Promise<T> {
  const untilMs = performance.now() + limitMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (performance.now() > untilMs) throw new Error(`${what} did not happen within ${limitMs} ms`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
