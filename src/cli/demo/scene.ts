/** The demo's world: two partitions, images, patch source, configuration; everything below one scratch folder. */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  cpSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import { createImage } from '../../blockdev/index.ts';

export const HOST_ADDRESS = '10.77.0.1';
export const SERVICE_ADDRESS = '10.77.0.11';
export const SECOND_ADDRESS = '10.77.0.12';
export const SECRET = 'the pump password is 4711';
const PROBE_ADDRESS = '10.77.0.254';
const MIB = 1024 * 1024;
const SIZES: SceneSizes = { systemMiB: 32, applicationMiB: 64, filledMiB: 0 };

const examples = resolve(import.meta.dirname, '../../../examples/ledger');
const PATCH = 'ledger-1.0.1-path-traversal';
export const PATCH_FILE = `${PATCH}.diff`;

export interface Scene {
  readonly directory: string;
  readonly configuration: string;
  readonly runDirectory: string;
  readonly stateDirectory: string;
  readonly patchSource: string;
  image(partition: 'A' | 'B', role: 'system' | 'application'): string;
}

export interface SceneSizes {
  readonly systemMiB: number;
  readonly applicationMiB: number;
  /** Data that lies on each disk besides what the service needs. */
  readonly filledMiB: number;
}

/** Makes images and configuration in `directory`, which exists and is empty. */
export async function buildScene(directory: string, sizes: SceneSizes = SIZES): Promise<Scene> {
  const image = (partition: string, role: string) => join(directory, 'images', `${partition}-${role}.img`);
  const scene: Scene = {
    directory,
    configuration: join(directory, 'changeover.yaml'),
    runDirectory: join(directory, 'run'),
    stateDirectory: join(directory, 'state'),
    patchSource: join(directory, 'patch-source'),
    image,
  };
  for (const folder of ['images', 'patch-source', 'run', 'state'])
    mkdirSync(join(directory, folder), { mode: 0o700 });
  const root = join(directory, 'system-root');
  layOutSystem(root);
  const data = join(directory, 'application-root');
  mkdirSync(data);
  for (const folder of [root, data]) fill(join(folder, 'filling'), sizes.filledMiB);
  await createImage({
    path: image('A', 'system'),
    sizeBytes: sizes.systemMiB * MIB,
    fromDirectory: root,
    label: 'system',
  });
  await createImage({
    path: image('A', 'application'),
    sizeBytes: sizes.applicationMiB * MIB,
    fromDirectory: data,
    label: 'application',
  });
  for (const folder of [root, data]) rmSync(folder, { recursive: true });
  writeFileSync(scene.configuration, configuration(scene, sizes));
  return scene;
}

/** A file without holes. */
function fill(path: string, mib: number): void {
  if (mib === 0) return;
  const block = randomBytes(MIB);
  const fd = openSync(path, 'w');
  for (let i = 0; i < mib; i++) writeSync(fd, block);
  closeSync(fd);
}

/** The patch appears on the patch server. */
export function publishPatch(scene: Scene): void {
  for (const name of [PATCH_FILE, `${PATCH}.json`]) {
    writeFileSync(join(scene.patchSource, name), readFileSync(join(examples, 'patches', name)));
  }
}

function layOutSystem(root: string): void {
  const put = (path: string, text: string) => {
    const file = join(root, path);
    mkdirSync(join(file, '..'), { recursive: true });
    writeFileSync(file, text);
  };
  mkdirSync(join(root, 'srv/ledger'), { recursive: true });
  cpSync(join(examples, 'server.mjs'), join(root, 'srv/ledger/server.mjs'));
  put('srv/ledger/reports/2026-q3.txt', 'third quarter: 1 204 entries, balanced\n');
  put('etc/ledger.secret', `${SECRET}\n`);
  put(
    'etc/changeover/guest.json',
    `${JSON.stringify({ application: '/srv/ledger/server.mjs', environment: { PORT: '80' }, mountPoint: '/data' }, null, 2)}\n`,
  );
  put(
    'etc/startup.d/10-greeting.mjs',
    `/** Start-up scripts run in the order of their numbers. */
export async function run(guest) {
  guest.log('the ledger machine is up');
}
`,
  );
}

function configuration(scene: Scene, sizes: SceneSizes): string {
  const partition = (id: 'A' | 'B', cpu: number, mac: string) => `
  - id: ${id}
    kind: process
    processor: {cpu: ${cpu}, sharePercent: 100}
    memoryMiB: 256
    disks:
      - {role: system, path: ${scene.image(id, 'system')}, sizeMiB: ${sizes.systemMiB}}
      - {role: application, path: ${scene.image(id, 'application')}, sizeMiB: ${sizes.applicationMiB}}
    network:
      - {name: net1, mac: "${mac}"}`;
  return `runDirectory: ${scene.runDirectory}
stateDirectory: ${scene.stateDirectory}
network:
  uplinks:
    - {name: co0, kind: tap, mtu: 1500, hostAddress: ${HOST_ADDRESS}/24}
  probe: {address: ${PROBE_ADDRESS}/24, mac: "02:00:00:00:00:fe"}
services:
  - name: ledger
    address: ${SERVICE_ADDRESS}/24
    second: ${SECOND_ADDRESS}/24
    gateway: ${HOST_ADDRESS}
    active: A
    health:
      http: {port: 80, path: /version, expectStatus: 200, timeoutMs: 2000}
partitions:${partition('A', 0, '02:00:00:00:00:0a')}${partition('B', availableParallelism() > 1 ? 1 : 0, '02:00:00:00:00:0b')}
patching:
  sources:
    - {name: demo, kind: directory, path: ${scene.patchSource}}
  allowUnsigned: true
  malwareScanner: none
  allowUnscanned: true
  strategy: auto
  budget: {pauseMs: 5000, copyMs: 60000, quiesceMs: 500}
  lateWrites: refuse
  probation: {startWaitMs: 0, stabilityMs: 5000, tries: 3, rollbackOnFailure: true}
`;
}
