/**
 * The control process: `node src/daemon/processes/control.ts --config FILE [--lifeline]`.
 * Logs JSON lines to stderr; exit 0 when it was told to end, 1 when it could not come up, 2 for a bad configuration.
 */
import { parseArgs } from 'node:util';
import { armPoints, jsonLog, PointError, sentenceOf } from '../../common/index.ts';
import { ConfigurationError, loadConfiguration } from '../configuration/index.ts';
import { runControl } from '../control/index.ts';

const log = jsonLog((line) => void process.stderr.write(line));

try {
  const { values } = parseArgs({
    options: {
      config: { type: 'string' },
      lifeline: { type: 'boolean', default: false },
      'test-points': { type: 'boolean', default: false },
    },
  });
  armPoints(values['test-points'], process.env);
  if (values.config === undefined) throw new TypeError('--config FILE is missing');
  const configuration = loadConfiguration(values.config);
  await runControl({ configuration, log, lifeline: values.lifeline });
  process.exit(0);
} catch (error) {
  if (error instanceof ConfigurationError) for (const line of error.lines) process.stderr.write(`${line}\n`);
  else log.error(sentenceOf(error), { stack: (error as Error).stack });
  process.exit(isUsage(error) ? 2 : 1);
}

function isUsage(error: unknown): boolean {
  return error instanceof ConfigurationError || error instanceof TypeError || error instanceof PointError;
}
