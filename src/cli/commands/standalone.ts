/** Programs that need no daemon. Each returns its exit code. */
import { resolve } from 'node:path';
import type { DemoStrategy } from '../demo/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import type { Session } from '../session.ts';

type Options = Readonly<Record<string, unknown>>;
type Program = (session: Session, args: readonly string[], options: Options) => Promise<ExitCode>;

const file = (value: unknown) => resolve(String(value));

/** `given('a', x)` is `{a: x}`, or nothing when x is undefined: exact optional properties. */
function given<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]: V });
}

const demo: Program = async (session, _args, options) => {
  const { runDemo } = await import('../demo/index.ts');
  const code = await runDemo({
    strategy: (options['strategy'] as DemoStrategy | undefined) ?? 'both',
    seconds: (options['seconds'] as number | undefined) ?? 3,
    rate: (options['rate'] as number | undefined) ?? 500,
    ...given('keep', options['keep'] === undefined ? undefined : file(options['keep'])),
    json: session.json,
  });
  return code as ExitCode;
};

const mux: Program = async (_session, _args, options) => {
  const { runMux } = await import('../../daemon/standalone/mux.ts');
  const code = await runMux({
    taps: options['tap'] as string[],
    ...given('pcap', options['pcap'] === undefined ? undefined : file(options['pcap'])),
    ...given('mtu', options['mtu'] as number | undefined),
  });
  return code as ExitCode;
};

const nbd: Program = async (_session, args, options) => {
  const { runNbd } = await import('../../daemon/standalone/nbd.ts');
  const code = await runNbd({
    file: file(args[0]),
    socket: file(options['socket']),
    readOnly: options['readOnly'] === true,
    ...given('writeLog', options['writeLog'] === undefined ? undefined : file(options['writeLog'])),
    ...given('exportName', options['exportName'] as string | undefined),
  });
  return code as ExitCode;
};

export const standaloneCommands = { demo, mux, nbd };
