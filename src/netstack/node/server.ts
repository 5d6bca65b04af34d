import type { ServerOpts, Socket } from 'node:net';
import { Server } from 'node:net';
import type { FaceConnectOptions, FaceListenOptions, NetFace } from './net-face.ts';
import { StackSocket } from './socket.ts';

/** A net.Server on a stack; whatever node:net's server does, except that `listenOn` takes the place of `listen`. */
export class StackServer extends Server {
  readonly #face: NetFace;

  constructor(face: NetFace, options: ServerOpts = {}, onConnection?: (socket: Socket) => void) {
    super(options, onConnection);
    this.#face = face;
  }

  listenOn(options: FaceListenOptions, onListening?: () => void): this {
    if (onListening !== undefined) this.once('listening', onListening);
    this.#face.listen(this, options);
    return this;
  }
}

/** A connected (or connecting) socket on a stack: `net.connect` for those who have the stack at hand. */
export function connectOn(
  face: NetFace,
  options: FaceConnectOptions & { allowHalfOpen?: boolean },
): StackSocket {
  return face.connect(new StackSocket({ allowHalfOpen: options.allowHalfOpen ?? false }), options);
}
