/**
 * A server's connection whose data comes in one buffer that is used again and again, as `net.connect` offers it with `onread`.
 *
 * Otherwise every read makes a buffer of 64 KiB, and for each 64 MiB of them the garbage collector walks the whole heap: at
 * gigabits per second that was more of the mux's time than the packets. `net.createServer` has no such option, so the
 * connection's handle moves to a socket that is made with it (`handle` and `_handle`, which Node's own modules use, too). A
 * Node without them gets the socket as it came.
 */
import { Socket } from 'node:net';

interface WithHandle {
  _handle?: { useUserBuffer?: unknown; fd?: number } | null;
}

/** Its number; undefined where Node does not tell it. */
export function descriptorOf(socket: Socket): number | undefined {
  const fd = (socket as unknown as WithHandle)._handle?.fd;
  return fd !== undefined && fd >= 0 ? fd : undefined;
}

/**
 * Expects a socket of a server with `pauseOnConnect`. `onData` gets a part of `buffer`, or another one, which it may overwrite but not keep.
 */
export function readInto(
  buffer: Buffer,
  accepted: Socket,
  onData: (socket: Socket, chunk: Buffer) => void,
): Socket {
  const handle = (accepted as unknown as WithHandle)._handle;
  if (typeof handle?.useUserBuffer !== 'function') {
    accepted.on('data', (chunk: Buffer) => onData(accepted, chunk));
    return accepted.resume();
  }
  (accepted as unknown as WithHandle)._handle = null;
  const socket: Socket = new Socket({
    handle,
    onread: {
      buffer,
      callback: (size: number) => {
        onData(socket, buffer.subarray(0, size));
        return true;
      },
    },
  } as unknown as ConstructorParameters<typeof Socket>[0]);
  // The server counts the connection until the socket that it made is gone.
  socket.once('close', () => accepted.destroy());
  return socket;
}
