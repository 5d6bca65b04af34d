import type { RawStat } from './library.ts';

export const S_IFMT = 0o170000;
const TYPE = {
  file: 0o100000,
  directory: 0o040000,
  symbolicLink: 0o120000,
  characterDevice: 0o020000,
  blockDevice: 0o060000,
  fifo: 0o010000,
  socket: 0o140000,
} as const;
export type FileType = keyof typeof TYPE;

/** `file_type` of a directory entry → type. */
const ENTRY_TYPES: readonly (FileType | undefined)[] = [
  undefined,
  'file',
  'directory',
  'characterDevice',
  'blockDevice',
  'fifo',
  'socket',
  'symbolicLink',
];

export function isDirectoryMode(mode: number): boolean {
  return (mode & S_IFMT) === TYPE.directory;
}

export function isFileMode(mode: number): boolean {
  return (mode & S_IFMT) === TYPE.file;
}

class Typed {
  readonly #type: number;
  constructor(type: number) {
    this.#type = type;
  }
  isFile(): boolean {
    return this.#type === TYPE.file;
  }
  isDirectory(): boolean {
    return this.#type === TYPE.directory;
  }
  isSymbolicLink(): boolean {
    return this.#type === TYPE.symbolicLink;
  }
  isCharacterDevice(): boolean {
    return this.#type === TYPE.characterDevice;
  }
  isBlockDevice(): boolean {
    return this.#type === TYPE.blockDevice;
  }
  isFIFO(): boolean {
    return this.#type === TYPE.fifo;
  }
  isSocket(): boolean {
    return this.#type === TYPE.socket;
  }
}

/** As `node:fs`'s Stats. Times have the resolution of a second. */
export class Stats extends Typed {
  readonly dev = 0;
  readonly rdev = 0;
  readonly ino: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: number;
  readonly blksize: number;
  readonly blocks: number;
  readonly atimeMs: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
  readonly birthtimeMs: number;
  readonly atime: Date;
  readonly mtime: Date;
  readonly ctime: Date;
  readonly birthtime: Date;

  constructor(raw: RawStat, blockSize: number) {
    super(raw.mode & S_IFMT);
    this.ino = raw.ino;
    this.mode = raw.mode;
    this.nlink = raw.links;
    this.uid = raw.uid;
    this.gid = raw.gid;
    this.size = raw.size;
    this.blksize = blockSize;
    this.blocks = raw.blocks;
    this.atimeMs = raw.atime * 1000;
    this.mtimeMs = raw.mtime * 1000;
    this.ctimeMs = raw.ctime * 1000;
    this.birthtimeMs = raw.ctime * 1000;
    this.atime = new Date(this.atimeMs);
    this.mtime = new Date(this.mtimeMs);
    this.ctime = new Date(this.ctimeMs);
    this.birthtime = new Date(this.birthtimeMs);
  }
}

/** As `node:fs`'s Dirent. */
export class Dirent extends Typed {
  readonly name: string;
  readonly parentPath: string;

  constructor(name: string, parentPath: string, type: FileType | undefined) {
    super(type === undefined ? 0 : TYPE[type]);
    this.name = name;
    this.parentPath = parentPath;
  }
}

export interface DirectoryEntry {
  readonly ino: number;
  readonly name: string;
  readonly type: FileType | undefined;
}

const HEADER = 8;

/**
 * Entries of a directory's blocks, `.` and `..` left out. Index blocks of hashed directories and checksum tails look like
 * unused entries, which is how a linear reader is meant to see them. A damaged record ends its block.
 */
export function parseDirectory(bytes: Buffer, blockSize: number): DirectoryEntry[] {
  const entries: DirectoryEntry[] = [];
  forEachRecord(bytes, blockSize, (at, _recordLength, ino, nameLength) => {
    if (ino === 0 || nameLength === 0) return;
    const name = bytes.toString('utf8', at + HEADER, at + HEADER + nameLength);
    if (name !== '.' && name !== '..') entries.push({ ino, name, type: ENTRY_TYPES[bytes[at + 7]!] });
  });
  return entries;
}

/** Whether a name of `nameBytes` bytes fits into the directory as it is. */
export function hasRoom(bytes: Buffer, blockSize: number, nameBytes: number): boolean {
  const needed = recordSize(nameBytes);
  let room = false;
  forEachRecord(bytes, blockSize, (_at, recordLength, ino, nameLength) => {
    if (recordLength - (ino === 0 ? 0 : recordSize(nameLength)) >= needed) room = true;
  });
  return room;
}

function recordSize(nameBytes: number): number {
  return (HEADER + nameBytes + 3) & ~3;
}

function forEachRecord(
  bytes: Buffer,
  blockSize: number,
  visit: (at: number, recordLength: number, ino: number, nameLength: number) => void,
): void {
  for (let block = 0; block + HEADER <= bytes.length; block += blockSize) {
    const end = Math.min(block + blockSize, bytes.length);
    for (let at = block; at + HEADER <= end; ) {
      const recordLength = bytes.readUInt16LE(at + 4);
      const nameLength = bytes[at + 6]!;
      if (recordLength < HEADER || at + recordLength > end || HEADER + nameLength > recordLength) break;
      visit(at, recordLength, bytes.readUInt32LE(at), nameLength);
      at += recordLength;
    }
  }
}
