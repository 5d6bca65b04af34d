import { resolve } from 'node:path';
import type { RegisteredPatch } from '../../patch/index.ts';
import type { ExitCode } from '../exit-codes.ts';
import { EXIT } from '../exit-codes.ts';
import { tableLines } from '../format.ts';
import type { Session } from '../session.ts';

function when(patch: RegisteredPatch): string {
  return patch.date === null ? 'not yet' : patch.date.replace('T', ' ').slice(0, 19);
}

function resultText(patch: RegisteredPatch): string {
  if (patch.result === null) return '';
  return patch.result.ok ? 'ok' : 'failed';
}

/** JSON: {patches: RegisteredPatch[]}. */
async function list(session: Session): Promise<ExitCode> {
  const answer = await (await session.api()).get<{ patches: RegisteredPatch[] }>('/patches');
  session.result(answer, () =>
    answer.patches.length === 0
      ? ['no patches: register one with changeover patch add DESCRIPTION.json, or changeover patch scan']
      : tableLines(
          ['patch', 'type', 'importance', 'date', 'next run', 'result', 'signature', 'name'],
          answer.patches.map((p) => [
            p.file,
            p.type,
            String(p.importance),
            when(p),
            p.applyNext ? session.terminal.style('bold', 'yes') : 'no',
            resultText(p),
            p.signature === 'valid' ? 'valid' : session.terminal.style('yellow', p.signature),
            p.name,
          ]),
        ),
  );
  return EXIT.done;
}

/** JSON: RegisteredPatch. */
async function show(session: Session, args: readonly string[]): Promise<ExitCode> {
  const api = await session.api();
  const patch = await api.get<RegisteredPatch>(`/patches/${encodeURIComponent(args[0] ?? '')}`);
  session.result(patch, () =>
    Object.entries({
      patch: patch.file,
      name: patch.name,
      kind: patch.kind,
      type: patch.type,
      importance: String(patch.importance),
      software: patch.software ?? '',
      versions: patch.versions ?? '',
      sha256: patch.sha256,
      signature: patch.signature,
      source: patch.source,
      registered: patch.registeredAt,
      date: when(patch),
      'next run': patch.applyNext ? 'yes' : 'no',
      result: resultText(patch),
      output: patch.result?.output ?? '',
    })
      .filter(([, value]) => value !== '')
      .map(([key, value]) => `${key.padEnd(11)} ${value}`),
  );
  return EXIT.done;
}

/** JSON: {patches: RegisteredPatch[]}. */
async function add(session: Session, args: readonly string[]): Promise<ExitCode> {
  const api = await session.api();
  const patches: RegisteredPatch[] = [];
  for (const description of args) {
    patches.push(await api.post<RegisteredPatch>('/patches', { description: resolve(description) }));
  }
  session.result({ patches }, () => patches.map((p) => `${p.file}  registered, ${p.signature}`));
  return EXIT.done;
}

/** JSON: {registered: RegisteredPatch[], refused: string[]}. Exit 1 when a patch was refused. */
async function scan(session: Session): Promise<ExitCode> {
  const api = await session.api();
  const answer = await api.post<{ registered: RegisteredPatch[]; refused: string[] }>('/patches/scan');
  session.result(answer, () =>
    answer.registered.length === 0 ? ['nothing new'] : answer.registered.map((p) => `${p.file}  registered`),
  );
  for (const sentence of answer.refused) session.terminal.err(`refused: ${sentence}`);
  return answer.refused.length === 0 ? EXIT.done : EXIT.failed;
}

async function setFlag(
  session: Session,
  files: readonly string[],
  verb: 'flag' | 'unflag',
): Promise<ExitCode> {
  const api = await session.api();
  const patches: RegisteredPatch[] = [];
  for (const file of files) {
    patches.push(await api.post<RegisteredPatch>(`/patches/${encodeURIComponent(file)}/${verb}`));
  }
  session.result({ patches }, () =>
    patches.map((p) => `${p.file}  ${p.applyNext ? 'applied at the next run' : 'left out of the next run'}`),
  );
  return EXIT.done;
}

export const patchCommands = {
  list,
  show,
  add,
  scan,
  flag: (session: Session, args: readonly string[]) => setFlag(session, args, 'flag'),
  unflag: (session: Session, args: readonly string[]) => setFlag(session, args, 'unflag'),
};
