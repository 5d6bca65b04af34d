import { close, closeSync, fstatSync, ftruncate, openSync, write } from 'node:fs';
import type { Writable } from 'node:stream';
import { CodedError, codeOf, messageOf } from '../../common/index.ts';

/** Codes: errno names of the failing file operation, `closed` for a sink whose reader is gone. */
export class CaptureError extends CodedError {}

/** Where a capture goes. Calls never overlap; chunks consist of whole blocks. */
export interface CaptureSink {
  /** Resolves when all of `chunk` is written; only then it may be changed. Rejects: the capture stops. */
  write(chunk: Uint8Array): Promise<void>;
  close(): Promise<void>;
}

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: 'create the folder first',
  EACCES: 'choose a folder that this process may write to',
  EISDIR: 'give the name of a file',
  ENOSPC: 'free space on that file system, then start the capture again',
  EROFS: 'choose a file system that is writable',
};

function captureError(path: string, what: string, cause: unknown): CaptureError {
  const code = codeOf(cause) ?? 'EIO';
  const remedy = REMEDIES[code];
  return new CaptureError(code, `capture file ${path} ${what}: ${messageOf(cause)}`, {
    ...(remedy === undefined ? {} : { remedy }),
    values: { path },
    cause,
  });
}

/** A file, replaced when it exists. After a failed write it is cut back to its last whole block. */
export class FileSink implements CaptureSink {
  readonly path: string;
  readonly #fd: number;
  /** A pipe or device has no positions and cannot be cut. */
  readonly #regular: boolean;
  #length = 0;

  /** Throws CaptureError when the file cannot be created. */
  constructor(path: string) {
    this.path = path;
    let fd: number | undefined;
    try {
      fd = openSync(path, 'w', 0o640);
      this.#regular = fstatSync(fd).isFile();
      this.#fd = fd;
    } catch (cause) {
      if (fd !== undefined) closeSync(fd);
      throw captureError(path, 'cannot be created', cause);
    }
  }

  async write(chunk: Uint8Array): Promise<void> {
    let done = 0;
    try {
      while (done < chunk.length) done += await this.#writeSome(chunk, done);
      this.#length += chunk.length;
    } catch (cause) {
      if (this.#regular && done > 0)
        await new Promise<void>((resolve) => ftruncate(this.#fd, this.#length, () => resolve()));
      throw captureError(this.path, 'cannot be written', cause);
    }
  }

  close(): Promise<void> {
    return new Promise((resolve, reject) =>
      close(this.#fd, (error) =>
        error === null ? resolve() : reject(captureError(this.path, 'cannot be closed', error)),
      ),
    );
  }

  #writeSome(chunk: Uint8Array, done: number): Promise<number> {
    const position = this.#regular ? this.#length + done : null;
    return new Promise((resolve, reject) =>
      write(this.#fd, chunk, done, chunk.length - done, position, (error, written) =>
        error === null ? resolve(written) : reject(error),
      ),
    );
  }
}

/** A stream, such as an HTTP response or a socket to a viewer. A slow reader costs captured packets, not memory. */
export class StreamSink implements CaptureSink {
  readonly #stream: Writable;

  constructor(stream: Writable) {
    this.#stream = stream;
    stream.on('error', () => {}); // reported by the write that meets it
  }

  write(chunk: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const gone = () => reject(new CaptureError('closed', 'the reader of the capture has gone'));
      if (this.#stream.destroyed || this.#stream.writableEnded) {
        gone();
        return;
      }
      this.#stream.once('close', gone);
      this.#stream.write(chunk, (error) => {
        this.#stream.off('close', gone);
        if (error == null) resolve();
        else
          reject(
            new CaptureError(codeOf(error) ?? 'EIO', `capture stream: ${messageOf(error)}`, { cause: error }),
          );
      });
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      if (this.#stream.destroyed) resolve();
      else this.#stream.end(resolve);
    });
  }
}
