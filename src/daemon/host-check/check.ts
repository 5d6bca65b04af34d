/** One finding about the host. `warn`: it works without, with less; `fail`: the product cannot work. */
export interface HostFinding {
  readonly name: string;
  readonly result: 'ok' | 'warn' | 'fail';
  /** What was found. */
  readonly detail: string;
  /** How to mend it; absent when all is well. */
  readonly remedy?: string;
}

export function ok(name: string, detail: string): HostFinding {
  return { name, result: 'ok', detail };
}

export function warn(name: string, detail: string, remedy: string): HostFinding {
  return { name, result: 'warn', detail, remedy };
}

export function fail(name: string, detail: string, remedy: string): HostFinding {
  return { name, result: 'fail', detail, remedy };
}
