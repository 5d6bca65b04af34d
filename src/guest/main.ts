/** Process main of a partition of kind `process`. Started by the hypervisor; see boot-options.ts for the arguments. */
import { flushCompileCache } from 'node:module';

// What the process took before this line counts as boot, too.
const startedMs = 0;

const { armPoints, sentenceOf } = await import('../common/index.ts');
const { parseBootOptions } = await import('./boot-options.ts');

const FLUSH_MS = 500;

/** The application may replace process.exit. */
const exit = process.exit.bind(process);

try {
  const { description, lifeline, testPoints } = parseBootOptions(process.argv.slice(2));
  armPoints(testPoints, process.env);
  if (lifeline) {
    process.stdin.on('end', () => exit(0)).on('error', () => exit(0));
    process.stdin.resume();
  }
  const [{ GuestConsole }, { Guest }, { createAgent }] = await Promise.all([
    import('./console.ts'),
    import('./guest.ts'),
    import('./agent/agent.ts'),
  ]);
  const console = new GuestConsole();
  console.capture();
  const guest = new Guest(description, console);
  const agent = createAgent(guest, () => void end());
  let ending = false;
  const end = async () => {
    if (ending) return;
    ending = true;
    await guest.stop();
    await agent.close();
    exit(0);
  };
  process.on('SIGTERM', () => void end());
  process.on('SIGINT', () => void end());
  await agent.listen(description.agentSocket);
  // Nothing may end the process silently. Once the application runs, process-shim.ts takes over: it is the likelier cause.
  process.on('uncaughtException', (error) => {
    if (!guest.applicationStarted) guest.fail(`internal error: ${error.stack ?? error.message}`);
  });
  await guest.boot(startedMs);
  // For the next boot; a partition may end without a chance to write it.
  setTimeout(flushCompileCache, FLUSH_MS).unref();
} catch (error) {
  process.stderr.write(`changeover guest: ${sentenceOf(error)}\n`);
  exit(1);
}
