/**
 * Reading from an accepted socket into memory of our choice.
 *
 * A stream hands out what was read as chunks of at most 64 KiB, each in freshly allocated memory: a payload of 1 MiB costs
 * sixteen of them and a copy. Node can read into a given buffer (`onread` of net.Socket), but offers that only for sockets that
 * one connects oneself; so the connection that a net.Server has accepted is put into a socket of ours, the way net.Server makes
 * its own. Where that does not work the caller takes the stream as it is.
 */
import type { SocketConstructorOpts } from 'node:net';
import { Socket } from 'node:net';

export interface Receiver {
  /** Where the next bytes from the peer go: at least one byte. Asked again after each `received`. */
  space(): Buffer;
  /** `count` bytes stand at the start of `target`, which is what `space` returned last. */
  received(target: Buffer, count: number): void;
}

interface WithHandle {
  _handle?: object | null;
}

/**
 * Takes the connection out of `accepted`, a half-open socket of a server with `pauseOnConnect` that nobody has read from, and
 * returns the socket that reads into `receiver`; undefined when this Node cannot, and `accepted` is as it was.
 */
export function receiveInto(accepted: Socket, receiver: Receiver): Socket | undefined {
  const owner = accepted as unknown as WithHandle;
  const handle = owner._handle;
  if (handle === undefined || handle === null) return undefined;
  let target: Buffer;
  // `handle` is what net.Server gives; the types know only what is documented.
  const options: unknown = {
    handle,
    allowHalfOpen: true,
    onread: {
      buffer: () => {
        target = receiver.space();
        return target;
      },
      callback: (count: number) => {
        receiver.received(target, count);
        return true;
      },
    },
  };
  const socket = new Socket(options as SocketConstructorOpts);
  owner._handle = null;
  accepted.destroy();
  return socket;
}
