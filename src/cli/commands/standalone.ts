/** Programs that need no daemon. Each returns its exit code. */
import { dirname, resolve } from 'node:path';
import { messageOf } from '../../common/index.ts';
import type { Procedure } from '../../patch/index.ts';
import { CliError } from '../cli-error.ts';
import type { DemoStrategy } from '../demo/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { portLines } from '../ports.ts';
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
    rate: (options['rate'] as number | undefined) ?? 2500,
    ...given('procedure', options['procedure'] as Procedure | undefined),
    ...given('keep', options['keep'] === undefined ? undefined : file(options['keep'])),
    json: session.json,
  });
  return code as ExitCode;
};

/** JSON: {views: [{view, file, packets}]}. */
const captureSplit: Program = async (session, args, options) => {
  const { splitCapture } = await import('../../netstack/index.ts');
  const whole = file(args[0]);
  const views = splitCapture(whole, options['into'] === undefined ? dirname(whole) : file(options['into']));
  session.result({ views }, () => views.map(({ file: path, packets }) => `${path}  ${packets} packets`));
  return EXIT.done;
};

const mux: Program = async (_session, _args, options) => {
  const { runMux } = await import('../../daemon/standalone/mux.ts');
  const code = await runMux({
    taps: (options['tap'] as string[] | undefined) ?? [],
    ...given('nics', options['nic'] as string[] | undefined),
    ...given(
      'stats',
      options['stats'] === undefined
        ? undefined
        : { everyMs: 1000 * Number(options['stats']), lines: portLines },
    ),
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
    ...given('faults', options['fault'] as string[] | undefined),
    ...given('faultSeed', options['faultSeed'] as number | undefined),
    ...given('exportName', (options['exportName'] ?? options['export']) as string | undefined),
  });
  return code as ExitCode;
};

const stack: Program = async (session, args, options) => {
  const { runStack } = await import('../../daemon/standalone/stack.ts');
  const code = await runStack({
    tap: String(options['tap']),
    address: options['address'] as string[],
    app: file(args[0]),
    args: args.slice(1),
    offload: options['offload'] !== false,
    json: session.json,
    stats: options['stats'] === true,
    ...given('gateway', options['gateway'] as string[] | undefined),
    ...given('mac', options['mac'] as string | undefined),
    ...given('mtu', options['mtu'] as number | undefined),
    ...given('loopback', options['loopback'] as 'node' | 'stack' | undefined),
    ...given('pcap', options['pcap'] === undefined ? undefined : file(options['pcap'])),
    ...given('trace', options['trace'] === undefined ? undefined : file(options['trace'])),
  });
  // What the application has open would keep the process; it ends with its stack.
  process.exit(code);
};

/** Times are checked before anything is opened. */
async function times(options: Options): Promise<{ fromTimeNs?: bigint; toTimeNs?: bigint }> {
  const { parseLogTime } = await import('../../daemon/standalone/log.ts');
  const time = (name: string) => {
    const text = options[name];
    if (text === undefined) return undefined;
    try {
      return parseLogTime(String(text));
    } catch (error) {
      throw new CliError('usage', messageOf(error), {
        remedy: 'give it as 2026-11-20T18:00:00.5Z, as @SECONDS or as nanoseconds since 1970',
      });
    }
  };
  return { ...given('fromTimeNs', time('fromTime')), ...given('toTimeNs', time('toTime')) };
}

const big = (options: Options, name: string) => options[name] as bigint | undefined;

const logShow: Program = async (session, args, options) => {
  const { runLogShow } = await import('../../daemon/standalone/log.ts');
  const code = await runLogShow({
    directory: file(args[0]),
    json: session.json,
    ...(await times(options)),
    ...given('fromSequence', big(options, 'fromSequence')),
    ...given('toSequence', big(options, 'toSequence')),
    ...given('fromAddress', big(options, 'fromAddress')),
    ...given('toAddress', big(options, 'toAddress')),
  });
  return code as ExitCode;
};

const logVerify: Program = async (session, args) => {
  const { runLogVerify } = await import('../../daemon/standalone/log.ts');
  return (await runLogVerify({ directory: file(args[0]), json: session.json })) as ExitCode;
};

const logReplay: Program = async (session, args, options) => {
  const { runLogReplay } = await import('../../daemon/standalone/log.ts');
  const { toTimeNs } = await times(options);
  const code = await runLogReplay({
    directory: file(args[0]),
    target: file(args[1]),
    json: session.json,
    ...given('toSequence', big(options, 'toSequence')),
    ...given('toTimeNs', toTimeNs),
    ...given('diskId', options['disk'] as string | undefined),
    ...given('generation', options['generation'] as string | undefined),
    ...given('partial', options['partial'] as boolean | undefined),
  });
  return code as ExitCode;
};

const logExport: Program = async (session, args, options) => {
  const { runLogExport } = await import('../../daemon/standalone/log.ts');
  const code = await runLogExport({
    directory: file(args[0]),
    output: file(options['output']),
    json: session.json,
  });
  return code as ExitCode;
};

export const standaloneCommands = {
  demo,
  stack,
  mux,
  captureSplit,
  nbd,
  logShow,
  logVerify,
  logReplay,
  logExport,
};
