/**
 * The guest OS of a `process` partition. Boot (Figs 11, 12):
 *
 *   booting    agent listens · system disk attached and mounted · guest.json · network device up · start-up scripts in order
 *   ready      the program is unpacked; nothing listens yet, the application disk is not touched
 *   starting   application loaded · application disk attached and mounted
 *   serving    the application listens
 *   frozen     quiesced: idle connections are not read, requests that write are complete, disks are in sync
 *   stopping   the application was told, disks unmounted
 *   failed     with the reason; the agent answers, nothing else is promised
 *
 * The system disk is attached while the network stack is still being loaded: both take most of the boot.
 */

import { type FileSystem, loadLibrary, mountExt4, NbdClient } from '../blockdev/index.ts';
import type {
  Barrier,
  ConnectionState,
  FlowName,
  GuestPatchResult,
  GuestPhase,
  GuestStatus,
  LoadState,
  StartUpResult,
} from '../channel/index.ts';
import { messageOf, sentenceOf } from '../common/index.ts';
import type { BootDescription } from '../hypervisor/index.ts';
import { lockAddons } from './addons.ts';
import { Application } from './application/application.ts';
import { createFsShim } from './application/fs-shim.ts';
import { installModuleHooks } from './application/module-hooks.ts';
import { Scratch } from './application/unpack.ts';
import type { GuestConfiguration } from './configuration.ts';
import { readConfiguration } from './configuration.ts';
import type { GuestConsole } from './console.ts';
import { GuestError } from './errors.ts';
import { Namespace } from './namespace.ts';
import type { Network } from './network/network.ts';
import type { StartUpOptions } from './start-up.ts';
import { runScriptModule, runStartUpScripts } from './start-up.ts';

const WRITEBACK_MS = 1_000;
const TERMINATE_MS = 1_000;
const UNMOUNT_MS = 2_000;
const CLOSE_DISK_MS = 1_000;

export type PhaseListener = (phase: GuestPhase, reason?: string) => void;

export class Guest {
  readonly description: BootDescription;
  readonly console: GuestConsole;
  readonly tree = new Namespace();
  readonly #scratch: Scratch;
  readonly #listeners = new Set<PhaseListener>();
  readonly #startUp: StartUpResult[] = [];
  readonly #disks: NbdClient[] = [];
  #phase: GuestPhase = 'booting';
  #reason: string | undefined;
  #bootMs = 0;
  #applicationStartMs: number | undefined;
  #configuration: GuestConfiguration | undefined;
  #network: Network | undefined;
  #application: Application | undefined;
  #loading: Promise<LoadState> | undefined;
  #starting = false;
  /** Times that it was told to go on. */
  #resumed = 0;
  #handedBack: { results: GuestPatchResult[]; table: string } = { results: [], table: '' };
  #stopping: Promise<void> | undefined;

  constructor(description: BootDescription, console: GuestConsole) {
    this.description = description;
    this.console = console;
    this.#scratch = new Scratch(description.scratchDirectory);
  }

  onPhase(listener: PhaseListener): void {
    this.#listeners.add(listener);
  }

  /** Ends in `ready`, `serving` (autostart) or `failed`; never throws. `startedMs`: performance.now() at the start. */
  async boot(startedMs: number): Promise<void> {
    try {
      await this.#boot();
      this.#bootMs = Math.round(performance.now() - startedMs);
      this.console.kernel(`ready after ${this.#bootMs} ms`);
      this.#enter('ready');
      if (this.#configuration?.autostart === true && this.#configuration.application !== undefined) {
        await this.startApplication(30_000);
      }
    } catch (error) {
      this.fail(sentenceOf(error));
    }
  }

  async #boot(): Promise<void> {
    const { description, console } = this;
    const [system] = await Promise.all([
      this.#attach('system'),
      this.#scratch.clear(),
      this.#bringUpNetwork(),
    ]);
    lockAddons();
    this.tree.mount('/', system);
    this.#configuration = await readConfiguration(system);
    installModuleHooks(this.#scratch, createFsShim(this.tree, this.#scratch));
    await runStartUpScripts(this.scriptOptions(), this.#startUp);
    // A start-up script may have changed it.
    this.#configuration = await readConfiguration(system);
    if (this.#configuration.stateless) this.#network?.movesSilent();
    this.#application = new Application({
      configuration: this.#configuration,
      hostname: description.hostname,
      tree: this.tree,
      scratch: this.#scratch,
      console,
      listening: () => this.#requireNetwork().whenListening(),
      ended: (reason) => {
        if (this.#stopping === undefined) this.fail(reason);
      },
    });
    await this.#application.prepare();
    await this.#network?.ready();
    await this.tree.sync();
  }

  async #attach(name: 'system' | 'application'): Promise<FileSystem> {
    let disk: NbdClient;
    try {
      disk = await NbdClient.connect(this.description.blockSocket, name, {
        onStateChange: (state, reason) => {
          if (state !== 'connected' && state !== 'closed') {
            this.console.kernel(`${name} disk: ${state}${reason === undefined ? '' : `: ${reason}`}`);
          }
        },
      });
    } catch (error) {
      throw new GuestError('no-disk', `the ${name} disk cannot be attached: ${messageOf(error)}`, {
        cause: error,
        remedy: `see whether the block process exports '${name}' at ${this.description.blockSocket}`,
      });
    }
    this.#disks.push(disk);
    loadLibrary();
    try {
      return await mountExt4(disk, { writebackMs: WRITEBACK_MS });
    } catch (error) {
      throw new GuestError('no-file-system', `the ${name} disk cannot be mounted: ${sentenceOf(error)}`, {
        cause: error,
      });
    }
  }

  async #bringUpNetwork(): Promise<void> {
    const { network } = this.description;
    if (network.length === 0) return;
    const module = await import('./network/network.ts');
    this.#network = new module.Network(network, (line) => this.console.kernel(line));
  }

  /**
   * The program begins to run; what it asks of the application disk waits for it. Throws GuestError; the phase is `failed`
   * then, unless nothing was done yet.
   */
  async loadApplication(limitMs: number): Promise<{ state: LoadState; durationMs: number }> {
    if (this.#phase !== 'ready') throw this.#wrongPhase();
    const startedMs = performance.now();
    this.#enter('starting');
    const mountPoint = this.#configuration?.mountPoint;
    const blocked = mountPoint === undefined ? new Promise<never>(() => {}) : this.tree.expect(mountPoint);
    this.#loading = this.#application!.load(limitMs, blocked);
    try {
      const state = await this.#loading;
      return { state, durationMs: Math.round(performance.now() - startedMs) };
    } catch (error) {
      this.fail(sentenceOf(error));
      throw error;
    }
  }

  /** Throws GuestError; the phase is `failed` then, unless nothing was done yet. */
  async startApplication(timeoutMs: number): Promise<{ listening: number[]; durationMs: number }> {
    const untilMs = performance.now() + timeoutMs;
    if (this.#loading === undefined) await this.loadApplication(timeoutMs);
    else if (this.#phase !== 'starting' || this.#starting) throw this.#wrongPhase();
    this.#starting = true;
    const startedMs = performance.now();
    try {
      const mountPoint = this.#configuration?.mountPoint;
      if (mountPoint !== undefined) this.tree.mount(mountPoint, await this.#attach('application'));
      const listening = await this.#application!.serve(timeoutMs, Math.max(1, untilMs - performance.now()));
      const durationMs = Math.round(performance.now() - startedMs);
      this.#applicationStartMs = durationMs;
      this.#enter('serving');
      return { listening, durationMs };
    } catch (error) {
      this.fail(sentenceOf(error));
      throw error;
    }
  }

  status(): GuestStatus {
    return {
      phase: this.#phase,
      bootMs: this.#bootMs,
      startUp: this.#startUp,
      addresses: this.#network?.addresses ?? [],
      listening: this.#network?.listening ?? [],
      connections: this.#network?.connections ?? 0,
      requestsInFlight: this.#network?.requestsInFlight ?? 0,
      ...(this.#applicationStartMs === undefined ? {} : { applicationStartMs: this.#applicationStartMs }),
      ...(this.#reason === undefined ? {} : { reason: this.#reason }),
    };
  }

  get applicationStarted(): boolean {
    return this.#application?.started ?? false;
  }

  /** Throws GuestError `no-network`. */
  get network(): Network {
    return this.#requireNetwork();
  }

  get patchResults(): { results: GuestPatchResult[]; table: string } {
    return this.#handedBack;
  }

  /** Throws GuestError `resumed`: it was told to go on before it was quiet, maybe by a control process that takes the place of who asked. */
  async quiesce(budgetMs: number, all: boolean, freeze: boolean): ReturnType<Network['quiesce']> {
    const resumed = this.#resumed;
    const result = await this.#requireNetwork().quiesce(budgetMs, all);
    this.#stillAsked(resumed);
    // What is unfinished may have to write before it can end.
    if (freeze && result.unfinished.length === 0) await this.tree.freeze();
    else await this.tree.sync();
    this.#stillAsked(resumed);
    if (this.#phase === 'serving') this.#enter('frozen');
    return result;
  }

  #stillAsked(resumed: number): void {
    if (resumed === this.#resumed) return;
    throw new GuestError('resumed', 'the partition was told to go on before it was quiet');
  }

  thaw(): number {
    this.#resumed++;
    return this.tree.thaw();
  }

  resume(reclaim: boolean): number {
    this.#resumed++;
    const reclaimed = this.#requireNetwork().resume(reclaim);
    if (this.#phase === 'frozen') this.#enter('serving');
    return reclaimed;
  }

  exportConnections(
    barrier?: Barrier,
    timeoutMs?: number,
    only?: readonly FlowName[],
  ): Promise<ConnectionState[]> {
    return this.#requireNetwork().export(barrier, timeoutMs, only);
  }

  scriptOptions(): StartUpOptions {
    return {
      id: this.description.partition,
      hostname: this.description.hostname,
      tree: this.tree,
      scratch: this.#scratch,
      log: (line) => this.console.kernel(line),
      handBack: (results, table) => {
        this.#handedBack = { results, table };
      },
    };
  }

  /** For `guest-exec`: a module of the guest's disk that exports `run(guest, arguments)`. */
  runModule(path: string, args: readonly string[], output: string[]): Promise<void> {
    return runScriptModule(this.scriptOptions(), path, output, args);
  }

  fail(reason: string): void {
    if (this.#phase === 'stopping' || this.#phase === 'failed') return;
    this.#reason = reason;
    this.console.kernel(`failed: ${reason}`);
    this.#enter('failed', reason);
  }

  /** Tells the application, takes the network device down, unmounts the disks. Never throws; every part is bounded. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop();
    return this.#stopping;
  }

  async #stop(): Promise<void> {
    this.#enter('stopping');
    await this.#application?.terminate(TERMINATE_MS);
    for (const fileSystem of this.tree.fileSystems.reverse()) {
      try {
        await within(fileSystem.unmount(), UNMOUNT_MS, 'its disk does not answer');
      } catch (error) {
        this.console.kernel(`a disk was not unmounted cleanly: ${messageOf(error)}`);
      }
    }
    this.#network?.close();
    const closing = Promise.allSettled(this.#disks.map((disk) => disk.close()));
    await within(closing, CLOSE_DISK_MS, 'a disk does not close').catch(() => {});
    await this.#scratch.clear().catch(() => {});
  }

  #wrongPhase(): GuestError {
    return new GuestError(
      'wrong-phase',
      `the application cannot be started while the guest is ${this.#phase}`,
      {
        remedy: 'it is started once, in the phase ready',
      },
    );
  }

  #requireNetwork(): Network {
    if (this.#network === undefined) {
      throw new GuestError('no-network', 'this partition has no network device', {
        remedy: 'add one to its configuration',
      });
    }
    return this.#network;
  }

  #enter(phase: GuestPhase, reason?: string): void {
    if (this.#phase === 'stopping') return;
    this.#phase = phase;
    for (const listener of this.#listeners) listener(phase, reason);
  }
}

async function within(work: Promise<unknown>, limitMs: number, otherwise: string): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const expired = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => reject(new GuestError('timeout', `${otherwise} within ${limitMs} ms`)), limitMs);
  });
  try {
    await Promise.race([work, expired]);
  } finally {
    clearTimeout(timer);
  }
}
