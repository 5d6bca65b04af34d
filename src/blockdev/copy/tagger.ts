/** Reads and hashes leaves of a device: image files on a thread of their own, anything else here, a leaf at a time. */
import { closeSync, openSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { codeOf, messageOf } from '../../common/index.ts';
import type { Device } from '../device.ts';
import { DeviceError } from '../device.ts';
import { deviceError } from '../range.ts';
import { FileStore } from '../store/index.ts';
import type { Leaf } from './leaf-tag.ts';
import { LEAF, leafTag, TAG_BYTES } from './leaf-tag.ts';
import type { TagReply, TagRequest } from './tag-worker.ts';

interface Waiting {
  readonly resolve: (tags: Uint8Array) => void;
  readonly reject: (error: Error) => void;
}

/** A thread is worth its start from so many bytes on. */
const WORTH_A_THREAD = 16 * LEAF;

export class Tagger {
  readonly #key: Uint8Array;
  #worker: Worker | undefined;
  /** No thread can be had: hashed here. */
  #withoutWorker = false;
  #closed = false;
  #asked = 0;
  #nextId = 0;
  readonly #waiting = new Map<number, Waiting>();
  /** By path: what is read is what whoever opens the image would read. */
  readonly #files = new Map<string, number>();

  constructor(key: Uint8Array) {
    this.#key = key;
  }

  /** One tag of TAG_BYTES after the other, in the order of `leaves`. Rejects with what a read failed with. */
  async tags(device: Device, leaves: readonly Leaf[]): Promise<Uint8Array> {
    if (leaves.length === 0) return new Uint8Array(0);
    if (this.#closed) throw new DeviceError('ESHUTDOWN', 'the proof was ended');
    for (const { length } of leaves) this.#asked += length;
    if (device instanceof FileStore && this.#asked > WORTH_A_THREAD) {
      const worker = this.#withoutWorker ? undefined : this.#started();
      if (worker !== undefined)
        try {
          return await this.#ask(worker, this.#fileOf(device.path), leaves);
        } catch (error) {
          if (!this.#withoutWorker) throw error;
        }
    }
    const tags = new Uint8Array(leaves.length * TAG_BYTES);
    const buffer = Buffer.allocUnsafe(LEAF);
    for (const [i, { index, offset, length }] of leaves.entries()) {
      const bytes = buffer.subarray(0, length);
      await device.readAt(bytes, BigInt(offset));
      tags.set(leafTag(this.#key, index, bytes), i * TAG_BYTES);
      await new Promise((resolve) => setImmediate(resolve));
    }
    return tags;
  }

  /** Ends the thread, and closes its files, when what it was asked for is answered. */
  close(): void {
    this.#closed = true;
    if (this.#waiting.size === 0) this.#end();
  }

  #started(): Worker | undefined {
    if (this.#worker !== undefined) return this.#worker;
    try {
      const worker = new Worker(new URL('./tag-worker.ts', import.meta.url), {
        workerData: { key: this.#key },
        name: 'proof',
        execArgv: ['--disable-warning=ExperimentalWarning'],
      });
      worker.on('message', (reply: TagReply) => this.#answered(reply));
      const lost = (error: Error) => {
        this.#withoutWorker = true;
        this.#worker = undefined;
        for (const { reject } of this.#waiting.values()) reject(error);
        this.#waiting.clear();
      };
      worker.on('error', lost);
      worker.unref();
      this.#worker = worker;
    } catch {
      this.#withoutWorker = true;
    }
    return this.#worker;
  }

  #fileOf(path: string): number {
    let fd = this.#files.get(path);
    if (fd === undefined) {
      try {
        fd = openSync(path, 'r');
      } catch (error) {
        throw deviceError(codeOf(error), `cannot open ${path} to prove it: ${messageOf(error)}`, error);
      }
      this.#files.set(path, fd);
    }
    return fd;
  }

  #ask(worker: Worker, fd: number, leaves: readonly Leaf[]): Promise<Uint8Array> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++;
      this.#waiting.set(id, { resolve, reject });
      worker.ref();
      const request: TagRequest = { id, fd, leaves };
      worker.postMessage(request);
    });
  }

  #answered(reply: TagReply): void {
    const waiting = this.#waiting.get(reply.id);
    this.#waiting.delete(reply.id);
    if (this.#waiting.size === 0) {
      this.#worker?.unref();
      if (this.#closed) this.#end();
    }
    if ('tags' in reply) waiting?.resolve(reply.tags);
    else waiting?.reject(deviceError(reply.error.code, `cannot read to prove it: ${reply.error.message}`));
  }

  #end(): void {
    const worker = this.#worker;
    this.#worker = undefined;
    for (const fd of this.#files.values()) closeSync(fd);
    this.#files.clear();
    void worker?.terminate();
  }
}
