import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { configurationFile } from '../run-directory.ts';
import type { Session } from '../session.ts';

const MARK = { ok: '✓', warn: '!', fail: '✗' } as const;
const STYLE = { ok: 'green', warn: 'yellow', fail: 'red' } as const;

/** JSON: {ok, findings: [{name, result: ok|warn|fail, detail, remedy?}]}. Exit 1 when something fails. */
export async function doctor(session: Session): Promise<ExitCode> {
  const { checkConfiguration, checkHost } = await import('../../daemon/host-check/index.ts');
  const findings = [...(await checkHost()), ...checkConfiguration(configurationFile(session.options))];
  const good = findings.every(({ result }) => result !== 'fail');
  const width = Math.max(...findings.map(({ name }) => name.length));
  session.result({ ok: good, findings }, () =>
    findings.flatMap(({ name, result, detail, remedy }) => {
      const mark = session.terminal.style(STYLE[result], MARK[result]);
      const line = `${mark} ${name.padEnd(width)}  ${detail}`;
      return remedy === undefined ? [line] : [line, `  ${' '.repeat(width)}  → ${remedy}`];
    }),
  );
  return good ? EXIT.done : EXIT.failed;
}
