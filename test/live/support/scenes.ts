/** Other services than the demo's, put onto its system disk before anything is started. */
import { rmSync, writeFileSync } from 'node:fs';
import { run } from '../../support/index.ts';

const CONFIGURATION = '/etc/changeover/guest.json';

/** Replaces or adds one file of an image that nobody uses, by debugfs. */
export async function putFile(image: string, path: string, text: string): Promise<void> {
  const source = `${image}.put`;
  writeFileSync(source, text);
  try {
    await run('debugfs', ['-w', '-R', `rm ${path}`, image]);
    await run('debugfs', ['-w', '-R', `write ${source} ${path}`, image]);
  } finally {
    rmSync(source, { force: true });
  }
}

/** The ledger without an application disk: its entries stand on the system disk. */
export async function dataOnSystemDisk(image: string): Promise<void> {
  const environment = { PORT: '80', LEDGER_DATA: '/srv/ledger' };
  const guest = { application: '/srv/ledger/server.mjs', environment };
  await putFile(image, CONFIGURATION, `${JSON.stringify(guest)}\n`);
}

/** Another program in the ledger's place; its data is on the application disk, at /data. */
export async function otherProgram(image: string, source: string): Promise<void> {
  await putFile(image, '/srv/ledger/server.mjs', source);
}
