import { FileError } from './errors.ts';
import { O } from './library.ts';

/** How a file was opened. */
export interface Access {
  readonly read: boolean;
  readonly write: boolean;
  readonly append: boolean;
  readonly create: boolean;
  readonly exclusive: boolean;
  readonly truncate: boolean;
  /** O_SYNC, O_DSYNC: every write is durable when it returns. */
  readonly synchronous: boolean;
}

const O_SYNC_BITS = 0o4010000;

/** As `node:fs` reads them, text or number. Throws FileError EINVAL. */
export function parseFlags(flags: string | number): Access {
  if (typeof flags === 'number') {
    const mode = flags & 3;
    return {
      read: mode !== O.WRONLY,
      write: mode !== O.RDONLY,
      append: (flags & O.APPEND) !== 0,
      create: (flags & O.CREAT) !== 0,
      exclusive: (flags & O.EXCL) !== 0,
      truncate: (flags & O.TRUNC) !== 0,
      synchronous: (flags & O_SYNC_BITS) !== 0,
    };
  }
  const match = /^([rwa])(x?)(s?)(\+?)$/.exec(flags.replace(/^(s)([ra])/, '$2$1').replace('+x', 'x+'));
  if (match === null || (match[1] === 'r' && match[2] === 'x')) {
    throw new FileError('EINVAL', 'open', undefined, { detail: `unknown flags '${flags}'` });
  }
  const [, kind, exclusive, synchronous, plus] = match;
  return {
    read: kind === 'r' || plus === '+',
    write: kind !== 'r' || plus === '+',
    append: kind === 'a',
    create: kind !== 'r',
    exclusive: exclusive === 'x',
    truncate: kind === 'w',
    synchronous: synchronous === 's',
  };
}
