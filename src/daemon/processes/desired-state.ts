/**
 * What a mux or block process was told to be, so that a fresh one can be told again. Commands that set something up are
 * remembered under a key, later commands replace or remove them; the memory is a file in the run directory, replaced as a
 * whole, so that a restarted control process has it too. Of a mux that is what it was told to direct, hold and steer; which
 * flows there are, the partitions know (mux-replay.ts).
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';

export interface RememberedCommand {
  readonly name: string;
  readonly args: Readonly<Record<string, unknown>>;
}

/** What one executed command changes. Entries are replayed in ascending `rank`, then in the order of being put. */
export interface Remembering {
  put(key: string, rank: number, command: RememberedCommand): void;
  get(key: string): RememberedCommand | undefined;
  delete(key: string): void;
  /** Every remembered command, in the order of replay. */
  entries(): { key: string; command: RememberedCommand }[];
}

export type Remember = (name: string, args: Readonly<Record<string, unknown>>, memory: Remembering) => void;

interface Entry {
  readonly key: string;
  readonly rank: number;
  readonly command: RememberedCommand;
}

export class DesiredState {
  readonly #file: string;
  readonly #remember: Remember;
  #entries: Entry[] = [];
  #dirty = false;

  constructor(file: string, remember: Remember) {
    this.#file = file;
    this.#remember = remember;
    try {
      this.#entries = JSON.parse(readFileSync(file, 'utf8')) as Entry[];
    } catch {
      this.#entries = [];
    }
  }

  /** Call it after the command failed: what shall end and is not there has ended, and must not come back with the next process. */
  refused(name: string, args: object, code: string | undefined): void {
    if (code !== undefined && ENDED_ALREADY[name] === code) this.executed(name, args);
  }

  /** Call it after the command succeeded. The file follows after the current turn of the event loop. */
  executed(name: string, args: object): void {
    const before = this.#entries;
    this.#remember(name, args as Record<string, unknown>, {
      put: (key, rank, command) => {
        const entry = { key, rank, command };
        const at = this.#entries.findIndex((e) => e.key === key);
        this.#entries = at === -1 ? [...this.#entries, entry] : this.#entries.with(at, entry);
      },
      get: (key) => this.#entries.find((e) => e.key === key)?.command,
      delete: (key) => {
        this.#entries = this.#entries.filter((e) => e.key !== key);
      },
      entries: () => this.#sorted(),
    });
    if (this.#entries !== before) this.#saveSoon();
  }

  commands(): RememberedCommand[] {
    return this.#sorted().map((e) => e.command);
  }

  clear(): void {
    this.#entries = [];
    this.#dirty = false;
    rmSync(this.#file, { force: true });
  }

  #sorted(): Entry[] {
    return [...this.#entries].sort((a, b) => a.rank - b.rank);
  }

  #saveSoon(): void {
    if (this.#dirty) return;
    this.#dirty = true;
    setImmediate(() => {
      if (!this.#dirty) return;
      this.#dirty = false;
      try {
        writeFileSync(`${this.#file}.new`, JSON.stringify(this.#entries), { mode: 0o600 });
        renameSync(`${this.#file}.new`, this.#file);
      } catch {
        // The run directory is gone or full: the memory of this process still holds.
      }
    });
  }
}

type Arguments = Readonly<Record<string, unknown>>;

/** Commands that end something, with the answer when there is no such thing. */
const ENDED_ALREADY: Readonly<Record<string, string>> = {
  'copy-cancel': 'unknown-copy',
};

/** One address of a switch; without ports of its own it moves between those of the whole. */
interface SwitchPart {
  readonly address: string;
  readonly from?: string;
  readonly to?: string;
  readonly notice?: object;
}

function withAddresses(memory: Remembering, port: string, addresses: unknown): void {
  const key = `port ${port}`;
  const known = memory.get(key);
  if (known !== undefined) memory.put(key, 1, { name: known.name, args: { ...known.args, addresses } });
}

const HOLD_WIDTH: readonly unknown[] = ['flows', 'new-flows', 'all'];

/** Nothing is steered any more: what is left of a switch is where the path leads. */
function endSwitch(memory: Remembering, address: string): void {
  const known = memory.get(`switch ${address}`);
  if (known === undefined) return;
  memory.delete(`switch ${address}`);
  memory.put(`path ${address}`, 3, { name: 'path-set', args: { address, port: known.args['to'] } });
}

/** The mux: uplinks, ports with their addresses and state, paths, private paths, holds, switches and their notices, captures. */
export const rememberMux: Remember = (name, args: Arguments, memory) => {
  switch (name) {
    case 'uplink-add':
      memory.put(`uplink ${String(args['name'])}`, 0, { name, args });
      break;
    case 'port-add':
      memory.put(`port ${String(args['name'])}`, 1, { name, args });
      break;
    case 'port-remove': {
      const port = args['name'];
      memory.delete(`port ${String(port)}`);
      memory.delete(`state ${String(port)}`);
      memory.delete(`uplink ${String(port)}`);
      for (const { key, command } of memory.entries()) {
        const { from, to } = command.args;
        if ((command.name === 'path-set' || command.name === 'private-path') && command.args['port'] === port)
          memory.delete(key);
        if (command.name === 'switch' && to === port) memory.delete(key);
        if (command.name === 'switch' && from === port) endSwitch(memory, String(command.args['address']));
      }
      break;
    }
    case 'port-state':
      memory.put(`state ${String(args['name'])}`, 2, { name, args });
      break;
    case 'port-limits': {
      for (const key of [`port ${String(args['name'])}`, `uplink ${String(args['name'])}`]) {
        const known = memory.get(key);
        if (known === undefined) continue;
        const { limits: _before, ...rest } = known.args;
        const limits = args['limits'];
        memory.put(key, key.startsWith('port') ? 1 : 0, {
          name: known.name,
          args: limits === null ? rest : { ...rest, limits },
        });
      }
      break;
    }
    case 'port-addresses':
      withAddresses(memory, String(args['name']), args['addresses']);
      break;
    case 'path-set':
      memory.delete(`switch ${String(args['address'])}`);
      memory.put(`path ${String(args['address'])}`, 3, { name, args });
      break;
    case 'private-path':
      if (args['port'] === null) memory.delete(`private ${String(args['probe'])}`);
      else memory.put(`private ${String(args['probe'])}`, 3, { name, args });
      break;
    case 'switch': {
      const { also = [], ...first } = args as { address: string; also?: SwitchPart[] } & Arguments;
      for (const part of [first as SwitchPart, ...also]) {
        const from = part.from ?? args['from'];
        const to = part.to ?? args['to'];
        endSwitch(memory, part.address);
        // The path leads where it led before; what follows leads it away, and steers.
        memory.put(`path ${part.address}`, 3, {
          name: 'path-set',
          args: { address: part.address, port: from },
        });
        const { notice } = part;
        // Whoever is told again has not seen the old partition send; it takes both addresses.
        const again = notice === undefined ? {} : { notice: { ...notice, immediately: true } };
        memory.put(`switch ${part.address}`, 4, { name, args: { ...part, from, to, ...again } });
        memory.put(`state ${String(to)}`, 2, { name: 'port-state', args: { name: to, state: 'attached' } });
      }
      const addresses = (args['addresses'] ?? {}) as Record<string, string[]>;
      for (const [port, list] of Object.entries(addresses)) withAddresses(memory, port, list);
      break;
    }
    case 'notice-cancel':
      endSwitch(memory, String(args['address']));
      break;
    case 'hold-start': {
      const key = `hold ${String(args['address'])}`;
      const before = memory.get(key)?.args;
      const wider = HOLD_WIDTH.indexOf(before?.['scope']) > HOLD_WIDTH.indexOf(args['scope']);
      memory.put(key, 4, { name, args: wider ? { ...before, ...args, scope: before?.['scope'] } : args });
      break;
    }
    case 'hold-release':
      memory.delete(`hold ${String(args['address'])}`);
      break;
    case 'requests-record':
      if (args['record'] === null) memory.delete(`record ${String(args['address'])}`);
      else memory.put(`record ${String(args['address'])}`, 5, { name, args });
      break;
    case 'capture-start':
      // To a socket: who reads asks again.
      if (args['file'] === undefined) break;
      memory.put(`capture ${String(args['file'])}`, 5, { name, args });
      break;
    case 'capture-stop':
      for (const { key, command } of memory.entries()) {
        if (command.name !== 'capture-start') continue;
        if (args['file'] === undefined || command.args['file'] === args['file']) memory.delete(key);
      }
      break;
    default:
      break;
  }
};

/** Pairs that were cut are not copied any more. */
function cutPairs(key: string, from: unknown, memory: Remembering): void {
  const known = memory.get(key);
  if (known === undefined) return;
  const pairs = known.args['pairs'] as readonly { readonly from: string }[];
  const left = Array.isArray(from) ? pairs.filter((pair) => !from.includes(pair.from)) : [];
  if (left.length === 0) memory.delete(key);
  else memory.put(key, 2, { name: known.name, args: { ...known.args, pairs: left } });
}

/**
 * The block process: disks, fences, reverse logs, copies under way, exports. Disks are fenced and logged before anybody
 * reaches them again.
 */
export const rememberBlock: Remember = (name, args: Arguments, memory) => {
  switch (name) {
    case 'disk-add': {
      const { create: _create, ...again } = args;
      memory.put(`disk ${String(args['id'])}`, 0, { name, args: again });
      break;
    }
    case 'disk-remove':
      memory.delete(`disk ${String(args['id'])}`);
      memory.delete(`fence ${String(args['id'])}`);
      break;
    case 'fence':
      if (args['mode'] === 'none') memory.delete(`fence ${String(args['id'])}`);
      else memory.put(`fence ${String(args['id'])}`, 1, { name, args });
      break;
    case 'copy-start':
      // Only gone on with: what cannot be must not be begun again behind the back of its run.
      memory.put(`copy ${String(args['copy'])}`, 2, { name, args: { ...args, resumeOnly: true } });
      break;
    case 'mirror-start':
    case 'mirror-resync':
      memory.put(`mirror ${String(args['mirror'])}`, 2, { name: 'mirror-resync', args });
      break;
    case 'mirror-cancel':
      memory.delete(`mirror ${String(args['mirror'])}`);
      break;
    case 'mirror-split':
    case 'copy-cut': {
      const copied = String(args['copy'] ?? args['mirror']);
      cutPairs(`copy ${copied}`, args['from'], memory);
      cutPairs(`reverse ${copied}`, args['from'], memory);
      cutPairs(`mirror ${copied}`, args['from'], memory);
      const mode = args['fence'];
      if (mode === undefined || !Array.isArray(args['from'])) break;
      for (const id of args['from'])
        memory.put(`fence ${String(id)}`, 1, { name: 'fence', args: { id, mode } });
      break;
    }
    case 'reverse-start':
      memory.put(`reverse ${String(args['copy'])}`, 2, { name, args });
      break;
    case 'copy-cancel':
      memory.delete(`reverse ${String(args['copy'])}`);
      memory.delete(`copy ${String(args['copy'])}`);
      memory.delete(`mirror ${String(args['copy'])}`);
      break;
    case 'serve':
      memory.put(`serve ${String(args['socket'])}`, 3, { name, args });
      break;
    case 'serve-stop':
      memory.delete(`serve ${String(args['socket'])}`);
      break;
    default:
      break;
  }
};
