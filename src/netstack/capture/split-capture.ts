/**
 * Takes a capture of several points apart: one file for each view, in which every packet stands once, as whoever stands there sees it.
 * Wireshark's TCP analysis knows no interfaces; in the whole file it takes the same packet at the next point for a retransmission.
 *
 *   clients     every uplink, in one file: by procedure H7 a connection comes in by one and its answers leave by the other
 *   NAME        each port
 *
 * Marks are in every file. A view whose interfaces saw no packet is not written. Read are the files of this program's writer: one
 * section, little-endian; a file that still grows ends after its last whole block.
 */
import { closeSync, openSync, readSync, renameSync, rmSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';
import { CodedError } from '../../common/index.ts';
import { BLOCK } from './pcapng-blocks.ts';

/** `bad-capture`; what the file system says passes as it is. */
export class SplitError extends CodedError {}

export interface CaptureView {
  /** `clients`, or the name of a port. */
  readonly view: string;
  readonly file: string;
  readonly packets: number;
}

const CLIENTS = 'clients';
const MARKS = 'marks';
const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
const LEAST_BLOCK = 12;
const MAX_BLOCK = 1024 * 1024;
const READ_BYTES = 1024 * 1024;
const OPTION_END = 0;
const IF_NAME = 2;
const IF_DESCRIPTION = 3;

interface Interface {
  readonly block: Buffer;
  /** Undefined: in every view. */
  readonly view: string | undefined;
}

interface Output extends CaptureView {
  readonly fd: number;
  readonly temporary: string;
  packets: number;
  /** Interface of the whole file → of this one. */
  readonly ids: Map<number, number>;
}

/** Files `NAME.VIEW.pcapng` in `folder`, replaced when they are whole. Throws SplitError and file system errors. */
export function splitCapture(file: string, folder: string): CaptureView[] {
  const outputs = new Map<string, Output>();
  const splitter = new Splitter(file, folder, outputs);
  try {
    for (const block of blocks(file)) splitter.take(block);
    splitter.end();
    for (const { fd, temporary, file: target } of outputs.values()) {
      closeSync(fd);
      renameSync(temporary, target);
    }
    return [...outputs.values()].map(({ view, file: path, packets }) => ({ view, file: path, packets }));
  } catch (error) {
    for (const { fd, temporary } of outputs.values()) {
      try {
        closeSync(fd);
      } catch {
        // It was closed already.
      }
      rmSync(temporary, { force: true });
    }
    throw error;
  }
}

class Splitter {
  readonly #file: string;
  readonly #folder: string;
  readonly #outputs: Map<string, Output>;
  readonly #interfaces: Interface[] = [];
  /** Marks that came before there was any view. */
  #early: Buffer[] = [];
  #section: Buffer | undefined;

  constructor(file: string, folder: string, outputs: Map<string, Output>) {
    this.#file = file;
    this.#folder = folder;
    this.#outputs = outputs;
  }

  /** `block` is valid until the next one. */
  take(block: Buffer): void {
    const type = block.readUInt32LE(0);
    if (this.#section === undefined) {
      if (type !== BLOCK.SHB || block.length < 16 || block.readUInt32LE(8) !== BYTE_ORDER_MAGIC)
        throw this.#bad('it does not begin with a section header in little-endian');
      this.#section = Buffer.from(block);
    } else if (type === BLOCK.IDB) this.#interface(block);
    else if (type === BLOCK.EPB || type === BLOCK.ISB) this.#of(block, type);
    else if (type === BLOCK.SHB) throw this.#bad('it has several sections');
  }

  end(): void {
    if (this.#section === undefined) throw this.#bad('it is empty');
  }

  #bad(why: string): SplitError {
    return new SplitError('bad-capture', `${this.#file} is no capture of this program: ${why}`, {
      remedy: 'give a file that changeover capture or a run has written',
    });
  }

  #interface(block: Buffer): void {
    const texts = new Map<number, string>();
    for (let at = 16; at + 4 <= block.length - 4; ) {
      const code = block.readUInt16LE(at);
      const length = block.readUInt16LE(at + 2);
      if (code === OPTION_END) break;
      if (at + 4 + length > block.length - 4) throw this.#bad('an option of an interface is too long');
      texts.set(code, block.toString('utf8', at + 4, at + 4 + length));
      at += 4 + ((length + 3) & ~3);
    }
    const name = texts.get(IF_NAME) ?? `interface${this.#interfaces.length}`;
    const isUplink = /^uplink\b/.test(texts.get(IF_DESCRIPTION) ?? '');
    this.#interfaces.push({
      block: Buffer.from(block),
      view: name === MARKS ? undefined : isUplink ? CLIENTS : name,
    });
  }

  /** A packet, or the statistics of an interface. */
  #of(block: Buffer, type: number): void {
    if (block.length < 20) throw this.#bad('a block is too short');
    const id = block.readUInt32LE(8);
    const from = this.#interfaces[id];
    if (from === undefined) throw this.#bad(`a packet names interface ${id}, which was not described`);
    if (type === BLOCK.ISB) {
      for (const output of this.#outputs.values()) {
        if (output.ids.has(id)) this.#write(output, id, block);
      }
      return;
    }
    if (from.view === undefined) {
      this.#early.push(Buffer.from(block));
      for (const output of this.#outputs.values()) this.#write(output, id, block);
      return;
    }
    const known = this.#outputs.get(from.view);
    const output = known ?? this.#open(from.view);
    output.packets++;
    this.#write(output, id, block);
  }

  #open(view: string): Output {
    const name = basename(this.#file).replace(/\.pcapng$/, '');
    const file = join(this.#folder, `${name}.${view.replaceAll(/[^A-Za-z0-9_.-]/g, '_')}.pcapng`);
    const temporary = `${file}.new`;
    const output = { view, file, temporary, fd: openSync(temporary, 'w', 0o640), packets: 0, ids: new Map() };
    this.#outputs.set(view, output);
    writeWhole(output.fd, this.#section!);
    for (const mark of this.#early) this.#write(output, mark.readUInt32LE(8), mark);
    return output;
  }

  #write(output: Output, id: number, block: Buffer): void {
    let own = output.ids.get(id);
    if (own === undefined) {
      own = output.ids.size;
      output.ids.set(id, own);
      writeWhole(output.fd, this.#interfaces[id]!.block);
    }
    const copy = Buffer.from(block);
    copy.writeUInt32LE(own, 8);
    writeWhole(output.fd, copy);
  }
}

function writeWhole(fd: number, bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}

/** Whole blocks one after the other, each valid until the next; what is cut off at the end is left out. Throws SplitError. */
function* blocks(file: string): Generator<Buffer> {
  const fd = openSync(file, 'r');
  try {
    let held = Buffer.alloc(0);
    for (;;) {
      const room = Buffer.allocUnsafe(READ_BYTES);
      const count = readSync(fd, room);
      if (count === 0) return;
      held = Buffer.concat([held, room.subarray(0, count)]);
      let at = 0;
      while (held.length - at >= LEAST_BLOCK) {
        const length = held.readUInt32LE(at + 4);
        if (length < LEAST_BLOCK || length > MAX_BLOCK || length % 4 !== 0) {
          throw new SplitError(
            'bad-capture',
            `${file} is no capture of this program: a block of ${length} bytes`,
            {
              remedy: 'give a file that changeover capture or a run has written',
            },
          );
        }
        if (held.length - at < length) break;
        yield held.subarray(at, at + length);
        at += length;
      }
      held = held.subarray(at);
    }
  } finally {
    closeSync(fd);
  }
}
