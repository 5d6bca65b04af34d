import { Readable, Writable } from 'node:stream';
import { FileError } from './errors.ts';
import type { FileSystem } from './file-system.ts';
import type { Access } from './flags.ts';
import type { Stats } from './stats.ts';

let nextFd = 1_000_000;

type Encoded = BufferEncoding | { encoding?: BufferEncoding | null } | null | undefined;

/** An open file, with the face of `node:fs/promises`' FileHandle. It follows its file when that is renamed. */
export class FileHandle {
  /** No descriptor of the host: a number that names this handle in messages. */
  readonly fd: number = nextFd++;
  readonly #fileSystem: FileSystem;
  readonly #access: Access;
  #path: string;
  #position = 0;
  #state: 'open' | 'stale' | 'closed' = 'open';

  constructor(fileSystem: FileSystem, path: string, access: Access) {
    this.#fileSystem = fileSystem;
    this.#path = path;
    this.#access = access;
  }

  get path(): string {
    return this.#path;
  }

  read(
    target: Uint8Array | { buffer?: Uint8Array; offset?: number; length?: number; position?: number | null },
    offset?: number | null,
    length?: number | null,
    position?: number | bigint | null,
  ): Promise<{ bytesRead: number; buffer: Uint8Array }> {
    if (!(target instanceof Uint8Array)) {
      const buffer = target.buffer ?? Buffer.alloc(16_384);
      return this.read(buffer, target.offset, target.length, target.position);
    }
    return this.#readInto(target, offset ?? 0, length ?? undefined, position);
  }

  async #readInto(
    target: Uint8Array,
    offset: number,
    length = target.length - offset,
    position?: number | bigint | null,
  ): Promise<{ bytesRead: number; buffer: Uint8Array }> {
    this.#check('read');
    if (!this.#access.read) throw new FileError('EBADF', 'read', this.#path);
    const explicit = position !== undefined && position !== null && position !== -1;
    const at = explicit ? Number(position) : this.#position;
    const bytesRead = await this.#fileSystem.readAt(this.#path, target.subarray(offset, offset + length), at);
    if (!explicit) this.#position += bytesRead;
    return { bytesRead, buffer: target };
  }

  async readv(
    buffers: readonly Uint8Array[],
    position?: number | null,
  ): Promise<{ bytesRead: number; buffers: readonly Uint8Array[] }> {
    let bytesRead = 0;
    for (const buffer of buffers) {
      const at = typeof position === 'number' ? position + bytesRead : undefined;
      const one = await this.read(buffer, 0, buffer.length, at);
      bytesRead += one.bytesRead;
      if (one.bytesRead < buffer.length) break;
    }
    return { bytesRead, buffers };
  }

  async write<D extends string | Uint8Array>(
    data: D,
    offsetOrPosition?: number | null,
    lengthOrEncoding?: number | BufferEncoding | null,
    position?: number | null,
  ): Promise<{ bytesWritten: number; buffer: D }> {
    let bytes: Uint8Array;
    let at: number | null | undefined;
    if (typeof data === 'string') {
      bytes = Buffer.from(data, typeof lengthOrEncoding === 'string' ? lengthOrEncoding : 'utf8');
      at = offsetOrPosition;
    } else {
      const offset = offsetOrPosition ?? 0;
      const length = typeof lengthOrEncoding === 'number' ? lengthOrEncoding : data.length - offset;
      bytes = data.subarray(offset, offset + length);
      at = position;
    }
    await this.#put(bytes, at);
    return { bytesWritten: bytes.length, buffer: data };
  }

  async writev(
    buffers: readonly Uint8Array[],
    position?: number | null,
  ): Promise<{ bytesWritten: number; buffers: readonly Uint8Array[] }> {
    const bytes = Buffer.concat(buffers);
    await this.#put(bytes, position);
    return { bytesWritten: bytes.length, buffers };
  }

  async appendFile(data: string | Uint8Array, options?: Encoded): Promise<void> {
    await this.writeFile(data, options);
  }

  /** Writes from the present position on; a file opened for appending grows at its end. */
  async writeFile(data: string | Uint8Array, options?: Encoded): Promise<void> {
    await this.#put(typeof data === 'string' ? Buffer.from(data, encodingOf(options) ?? 'utf8') : data);
  }

  readFile(options?: { encoding?: null } | null): Promise<Buffer>;
  readFile(options: BufferEncoding | { encoding: BufferEncoding }): Promise<string>;
  async readFile(options?: Encoded): Promise<Buffer | string> {
    const { size } = await this.stat();
    const target = Buffer.allocUnsafe(Math.max(0, size - this.#position));
    const { bytesRead } = await this.read(target, 0, target.length);
    const bytes = target.subarray(0, bytesRead);
    const encoding = encodingOf(options);
    return encoding === undefined ? bytes : bytes.toString(encoding);
  }

  async stat(): Promise<Stats> {
    this.#check('fstat');
    return this.#fileSystem.stat(this.#path);
  }

  async truncate(length = 0): Promise<void> {
    this.#check('ftruncate');
    if (!this.#access.write) throw new FileError('EINVAL', 'ftruncate', this.#path);
    await this.#fileSystem.truncateAt(this.#path, length);
  }

  async chmod(mode: number): Promise<void> {
    this.#check('fchmod');
    await this.#fileSystem.chmod(this.#path, mode);
  }

  async chown(uid: number, gid: number): Promise<void> {
    this.#check('fchown');
    await this.#fileSystem.chown(this.#path, uid, gid);
  }

  /** Everything done so far is durable when it returns. */
  async sync(): Promise<void> {
    this.#check('fsync');
    await this.#fileSystem.syncData();
  }

  async datasync(): Promise<void> {
    this.#check('fdatasync');
    await this.#fileSystem.syncData();
  }

  async close(): Promise<void> {
    if (this.#state === 'closed') throw new FileError('EBADF', 'close');
    this.#state = 'closed';
    this.#fileSystem.released(this);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state !== 'closed') await this.close();
  }

  createReadStream(options: ReadStreamOptions | BufferEncoding = {}): Readable {
    return readStream(Promise.resolve(this), typeof options === 'string' ? { encoding: options } : options);
  }

  createWriteStream(options: WriteStreamOptions | BufferEncoding = {}): Writable {
    return writeStream(Promise.resolve(this), typeof options === 'string' ? { encoding: options } : options);
  }

  /** For FileSystem: its file went away, or was replaced. */
  invalidate(): void {
    if (this.#state === 'open') this.#state = 'stale';
  }

  /** For FileSystem: `from` is called `to` now. */
  moved(from: string, to: string): void {
    if (this.#path === from || this.#path.startsWith(`${from}/`))
      this.#path = to + this.#path.slice(from.length);
  }

  async #put(bytes: Uint8Array, position?: number | null): Promise<void> {
    this.#check('write');
    if (!this.#access.write) throw new FileError('EBADF', 'write', this.#path);
    const explicit = typeof position === 'number' && position >= 0;
    const where = this.#access.append ? 'end' : explicit ? position : this.#position;
    // The next write without a position stands behind this one although this one has not come back.
    if (where !== 'end' && !explicit) this.#position += bytes.length;
    await this.#fileSystem.writeAt(this.#path, bytes, where);
    if (this.#access.synchronous) await this.#fileSystem.syncData();
  }

  #check(syscall: string): void {
    if (this.#state === 'closed') throw new FileError('EBADF', syscall);
    if (this.#state === 'stale') throw new FileError('ESTALE', syscall, this.#path);
  }
}

export interface ReadStreamOptions {
  readonly encoding?: BufferEncoding | null;
  readonly start?: number;
  /** Inclusive. */
  readonly end?: number;
  readonly highWaterMark?: number;
  readonly autoClose?: boolean;
}

export interface WriteStreamOptions {
  readonly encoding?: BufferEncoding | null;
  readonly start?: number;
  readonly highWaterMark?: number;
  readonly autoClose?: boolean;
  /** Durable before 'finish'. */
  readonly flush?: boolean;
}

/** A Readable over a handle that may still be opening. */
export function readStream(opening: Promise<FileHandle>, options: ReadStreamOptions = {}): Readable {
  let position = options.start;
  let left = (options.end ?? Number.POSITIVE_INFINITY) - (options.start ?? 0) + 1;
  const stream = new Readable({
    highWaterMark: options.highWaterMark ?? 64 * 1024,
    ...(options.encoding ? { encoding: options.encoding } : {}),
    construct: (done) => {
      opening.then(
        (handle) => {
          stream.emit('open', handle.fd);
          done();
        },
        (error) => done(error),
      );
    },
    read: (size) => {
      const take = Math.min(size, left);
      if (take <= 0) {
        stream.push(null);
        return;
      }
      const buffer = Buffer.allocUnsafe(take);
      opening
        .then((handle) => handle.read(buffer, 0, take, position))
        .then(({ bytesRead }) => {
          left -= bytesRead;
          if (position !== undefined) position += bytesRead;
          stream.push(bytesRead === 0 ? null : buffer.subarray(0, bytesRead));
        })
        .catch((error) => stream.destroy(error));
    },
    destroy: (error, done) => {
      if (options.autoClose === false) {
        done(error);
        return;
      }
      opening
        .then((handle) => handle[Symbol.asyncDispose]())
        .then(
          () => done(error),
          () => done(error),
        );
    },
  });
  return stream;
}

/** A Writable over a handle that may still be opening. */
export function writeStream(opening: Promise<FileHandle>, options: WriteStreamOptions = {}): Writable {
  let position = options.start;
  const put = (bytes: Uint8Array, done: (error?: Error | null) => void) => {
    const at = position;
    if (position !== undefined) position += bytes.length;
    opening
      .then((handle) => handle.write(bytes, 0, bytes.length, at))
      .then(
        () => done(),
        (error) => done(error),
      );
  };
  const stream = new Writable({
    ...(options.highWaterMark === undefined ? {} : { highWaterMark: options.highWaterMark }),
    ...(options.encoding ? { defaultEncoding: options.encoding } : {}),
    construct: (done) => {
      opening.then(
        (handle) => {
          stream.emit('open', handle.fd);
          done();
        },
        (error) => done(error),
      );
    },
    write: (chunk: Buffer, _encoding, done) => put(chunk, done),
    writev: (chunks, done) => put(Buffer.concat(chunks.map((c) => c.chunk as Buffer)), done),
    final: (done) => {
      if (options.flush !== true) {
        done();
        return;
      }
      opening
        .then((handle) => handle.sync())
        .then(
          () => done(),
          (error) => done(error),
        );
    },
    destroy: (error, done) => {
      if (options.autoClose === false) {
        done(error);
        return;
      }
      opening
        .then((handle) => handle[Symbol.asyncDispose]())
        .then(
          () => done(error),
          () => done(error),
        );
    },
  });
  return stream;
}

function encodingOf(options: Encoded): BufferEncoding | undefined {
  return (typeof options === 'string' ? options : options?.encoding) ?? undefined;
}
