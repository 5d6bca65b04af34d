/** Ports that nobody asked for by number. */
import type { Random } from '../../../common/index.ts';
import { TcpError } from './errors.ts';

const FIRST = 32_768;
const COUNT = 28_232;

/** For a listener on port 0. Throws TcpError EADDRINUSE. */
export function randomListenPort(random: Random, taken: (port: number) => boolean): number {
  for (let i = 0; i < COUNT; i++) {
    const port = FIRST + (random.u32() % COUNT);
    if (!taken(port)) return port;
  }
  throw new TcpError('EADDRINUSE', 'no free port');
}

/** For an active open; RFC 6056: random, then on from there. Throws TcpError EADDRNOTAVAIL. */
export function ephemeralPort(random: Random, taken: (port: number) => boolean): number {
  const start = random.u32() % COUNT;
  for (let i = 0; i < COUNT; i++) {
    const port = FIRST + ((start + i) % COUNT);
    if (!taken(port)) return port;
  }
  throw new TcpError('EADDRNOTAVAIL', 'every port towards this destination is in use');
}
