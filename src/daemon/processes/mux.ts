/**
 * The mux process: `node src/daemon/processes/mux.ts --control SOCKET [--lifeline]`. It serves the vocabulary `MuxCommands`
 * on SOCKET until SIGTERM, SIGINT, the command `shutdown`, or, with --lifeline, the end of its standard input. On the way out
 * captures are completed, TAPs go with their file descriptors, and every socket is unlinked. Its log goes to standard error,
 * one JSON object per line.
 */
import { flushCompileCache } from 'node:module';
import { parseArgs } from 'node:util';
import { ChannelServer, withPoints } from '../../channel/index.ts';
import { armPoints, jsonLog, sentenceOf } from '../../common/index.ts';
import type { MuxCommands, MuxEvents } from '../../hypervisor/index.ts';
import { MuxServer } from '../../hypervisor/index.ts';
import { prepareCaptures } from '../../netstack/index.ts';

const FLUSH_MS = 500;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      control: { type: 'string' },
      'test-points': { type: 'boolean' },
      lifeline: { type: 'boolean' },
      verbose: { type: 'boolean' },
    },
  });
  armPoints(values['test-points'] === true, process.env);
  if (values.control === undefined) {
    process.stderr.write('mux process: --control SOCKET is missing\n');
    process.exitCode = 2;
    return;
  }
  const log = jsonLog((line) => void process.stderr.write(line), values.verbose === true ? 'debug' : 'info', {
    process: 'mux',
  });
  let ending = false;
  const end = async (reason: string) => {
    if (ending) return;
    ending = true;
    log.info('ending', { reason });
    await channel.close();
    await server.close();
    process.exit(0);
  };
  const server: MuxServer = new MuxServer({
    log,
    onEvent: (name, data) => channel.broadcast(name, data),
    onShutdown: () => void end('the command shutdown'),
  });
  const channel = new ChannelServer<MuxCommands, MuxEvents>(withPoints('mux', server.handlers()));
  process.on('SIGTERM', () => void end('SIGTERM'));
  process.on('SIGINT', () => void end('SIGINT'));
  if (values.lifeline === true) {
    process.stdin.on('end', () => void end('standard input ended'));
    process.stdin.on('error', () => void end('standard input broke'));
    process.stdin.resume();
  }
  prepareCaptures();
  await channel.listen(values.control);
  log.info('ready', { control: values.control });
  // For the next start, which may come after a kill.
  setTimeout(flushCompileCache, FLUSH_MS).unref();
}

main().catch((error: unknown) => {
  process.stderr.write(`mux process: ${sentenceOf(error)}\n`);
  process.exit(1);
});
