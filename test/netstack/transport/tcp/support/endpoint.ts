import { createHash } from 'node:crypto';
import type { TcpConnection, TcpError, TcpHandler } from '../../../../../src/netstack/transport/tcp/index.ts';
import type { Host } from './network.ts';

/** An application at one end: reads as told, sends what it was given, remembers what happened. */
export class Endpoint implements TcpHandler {
  connection!: TcpConnection;
  readonly received: Buffer[] = [];
  isConnected = false;
  isEnded = false;
  isClosed = false;
  error: TcpError | undefined;
  /** Off: bytes stay in the stack. */
  reading = true;
  #toSend: Uint8Array[] = [];
  #endAfter = false;

  connected(): void {
    this.isConnected = true;
    this.#pump();
  }

  readable(): void {
    if (!this.reading) return;
    for (let chunk = this.connection.read(); chunk !== undefined; chunk = this.connection.read()) {
      this.received.push(chunk);
    }
    if (this.connection.remoteClosed) this.isEnded = true;
  }

  writable(): void {
    this.#pump();
  }

  closed(error: TcpError | undefined): void {
    this.isClosed = true;
    this.error = error;
  }

  send(data: Uint8Array | string, chunkBytes = 16_384): this {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data;
    for (let at = 0; at < bytes.length; at += chunkBytes)
      this.#toSend.push(bytes.subarray(at, at + chunkBytes));
    if (this.isConnected) this.#pump();
    return this;
  }

  /** Closes its direction when all is written. */
  end(): this {
    this.#endAfter = true;
    if (this.isConnected) this.#pump();
    return this;
  }

  resume(): void {
    this.reading = true;
    this.readable();
  }

  get bytes(): Buffer {
    return Buffer.concat(this.received);
  }

  get text(): string {
    return this.bytes.toString();
  }

  get hash(): string {
    return createHash('sha256').update(this.bytes).digest('hex');
  }

  #pump(): void {
    while (this.#toSend.length > 0) {
      const chunk = this.#toSend.shift()!;
      if (!this.connection.write(chunk)) return;
    }
    if (this.#endAfter) this.connection.shutdown();
  }
}

/** `server` listens on `port`; the endpoint of each accepted connection is pushed to the returned list. */
export function serve(
  server: Host,
  port: number,
  prepare: (endpoint: Endpoint) => void = () => {},
): Endpoint[] {
  const accepted: Endpoint[] = [];
  server.tcp.listen({ port }, (connection) => accepted.push(adopt(connection, prepare)));
  return accepted;
}

/** An endpoint on a connection that exists. */
export function adopt(connection: TcpConnection, prepare: (endpoint: Endpoint) => void = () => {}): Endpoint {
  const endpoint = new Endpoint();
  endpoint.connection = connection;
  endpoint.isConnected = true;
  prepare(endpoint);
  connection.setHandler(endpoint);
  return endpoint;
}

export function dial(client: Host, server: Host, port: number): Endpoint {
  const endpoint = new Endpoint();
  endpoint.connection = client.tcp.connect({ remoteAddress: server.address, remotePort: port }, endpoint);
  return endpoint;
}

/** Two connected endpoints: [client's, server's]. */
export function established(client: Host, server: Host, port = 80): [Endpoint, Endpoint] {
  const accepted = serve(server, port);
  const endpoint = dial(client, server, port);
  if (!client.network.until(() => accepted.length > 0 && endpoint.isConnected))
    throw new Error('no connection');
  return [endpoint, accepted[0]!];
}
