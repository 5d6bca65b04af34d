/**
 * The block process: `node block.ts --socket CONTROL_SOCKET [--lifeline]` (`--control` is the same as `--socket`). It is
 * ready when the control socket answers. SIGTERM, the command `shutdown`, or with `--lifeline` the end of standard input:
 * answers what is in flight, makes logs durable, flushes and closes disks, exits 0.
 */
import { flushCompileCache } from 'node:module';
import { parseArgs } from 'node:util';
import { ChannelError, ChannelServer, withPoints } from '../../channel/index.ts';
import { armPoints, jsonLog, sentenceOf } from '../../common/index.ts';
import type { DiskCommands, DiskEvents } from '../../hypervisor/index.ts';
import { DiskService } from '../../hypervisor/index.ts';

const CLOSE_LIMIT_MS = 10_000;
const FLUSH_MS = 500;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      socket: { type: 'string' },
      control: { type: 'string' },
      'test-points': { type: 'boolean' },
      lifeline: { type: 'boolean', default: false },
    },
  });
  armPoints(values['test-points'] === true, process.env);
  const socket = values.socket ?? values.control;
  if (socket === undefined)
    throw new ChannelError('usage', 'the block process needs a control socket', {
      remedy: 'give --socket PATH',
    });
  const log = jsonLog((line) => process.stderr.write(line)).with({ process: 'block' });

  let ending = false;
  const end = (why: string) => {
    if (ending) return;
    ending = true;
    void (async () => {
      log.info('ending', { why });
      setTimeout(() => {
        log.error('did not end in time', { limitMs: CLOSE_LIMIT_MS });
        process.exit(1);
      }, CLOSE_LIMIT_MS).unref();
      await service.close();
      await server.close();
      process.exit(0);
    })().catch((error) => {
      log.error('could not end cleanly', { reason: sentenceOf(error) });
      process.exit(1);
    });
  };

  const service = new DiskService({
    emit: (name, data) => server.broadcast(name, data),
    log,
    onShutdown: () => end('shutdown'),
  });
  const server: ChannelServer<DiskCommands, DiskEvents> = new ChannelServer<DiskCommands, DiskEvents>(
    withPoints('block', service.handlers()),
  );

  process.on('SIGTERM', () => end('SIGTERM'));
  process.on('SIGINT', () => end('SIGINT'));
  if (values.lifeline) {
    process.stdin.on('end', () => end('lifeline'));
    process.stdin.on('error', () => end('lifeline'));
    process.stdin.resume();
  }
  await server.listen(socket);
  log.info('listening', { socket });
  // For the next start, which may come after a kill.
  setTimeout(flushCompileCache, FLUSH_MS).unref();
}

main().catch((error) => {
  process.stderr.write(`block process: ${sentenceOf(error)}\n`);
  process.exit(1);
});
