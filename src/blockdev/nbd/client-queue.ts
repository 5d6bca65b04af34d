/**
 * Requests of the client that are not acknowledged: which may be sent now, and which have been.
 *
 *   backlog   in order, beyond the window of requests that are looked at: so that a deep queue costs neither time nor memory
 *   waiting   a modification that overlaps an earlier one that is not acknowledged; ready when that is
 *   ready     in order, to be sent as soon as the bounds allow
 *   sent      in the order of sending: what goes out again on a new connection
 */
import type { DeviceError } from '../device.ts';
import type { ClientRequest } from './client-request.ts';
import { isModifying, overlap, transferOf } from './client-request.ts';

/** Entries at the front of the ready list that are gone before the list is cut. */
const SLACK = 1024;
/** Requests in the window for each that may be sent: those that wait for others shall not hold up the rest. */
const WINDOW_FACTOR = 2;

export class ClientQueue {
  readonly #maxRequests: number;
  readonly #maxBytes: number;
  readonly #sent = new Set<ClientRequest>();
  #sentBytes = 0;
  /** `#readyAt` is the first that is still there. */
  #ready: ClientRequest[] = [];
  #readyAt = 0;
  /** Modifications in any of the three states. */
  readonly #modifying = new Set<ClientRequest>();
  #waiting = 0;
  readonly #window: number;
  #backlog: ClientRequest[] = [];
  #backlogAt = 0;

  constructor(maxRequests: number, maxBytes: number) {
    this.#maxRequests = maxRequests;
    this.#maxBytes = maxBytes;
    this.#window = Math.max(256, WINDOW_FACTOR * maxRequests);
  }

  /** Requests that are not acknowledged. */
  get size(): number {
    return this.#inWindow + this.#backlog.length - this.#backlogAt;
  }

  get #inWindow(): number {
    return this.#sent.size + this.#ready.length - this.#readyAt + this.#waiting;
  }

  /** What was sent, in the order of sending. */
  get sent(): Iterable<ClientRequest> & { readonly size: number } {
    return this.#sent;
  }

  submit(request: ClientRequest): void {
    if (this.#backlog.length > 0 || this.#inWindow >= this.#window) this.#backlog.push(request);
    else this.#admit(request);
  }

  #admit(request: ClientRequest): void {
    if (isModifying(request.type)) {
      for (const earlier of this.#modifying) {
        if (!overlap(earlier, request)) continue;
        earlier.followers.push(request);
        request.waitsFor++;
      }
      this.#modifying.add(request);
    }
    if (request.waitsFor > 0) this.#waiting++;
    else this.#ready.push(request);
  }

  /** The next request to send, counted as sent; undefined when there is none or the bounds are reached. */
  next(): ClientRequest | undefined {
    const request = this.#ready[this.#readyAt];
    if (request === undefined || this.#sent.size >= this.#maxRequests) return undefined;
    const bytes = transferOf(request);
    // One that is larger than the bound goes alone.
    if (this.#sent.size > 0 && this.#sentBytes + bytes > this.#maxBytes) return undefined;
    this.#sent.add(request);
    this.#sentBytes += bytes;
    if (++this.#readyAt === this.#ready.length || this.#readyAt > SLACK) {
      this.#ready = this.#ready.slice(this.#readyAt);
      this.#readyAt = 0;
    }
    return request;
  }

  /** The server has answered; those that waited only for this one are ready. */
  acknowledged(request: ClientRequest): void {
    this.#sent.delete(request);
    this.#sentBytes -= transferOf(request);
    this.#modifying.delete(request);
    for (const follower of request.followers) {
      if (--follower.waitsFor > 0) continue;
      this.#waiting--;
      this.#ready.push(follower);
    }
    while (this.#backlogAt < this.#backlog.length && this.#inWindow < this.#window) {
      this.#admit(this.#backlog[this.#backlogAt++]!);
    }
    if (this.#backlogAt === this.#backlog.length || this.#backlogAt > SLACK) {
      if (this.#backlogAt > 0) this.#backlog = this.#backlog.slice(this.#backlogAt);
      this.#backlogAt = 0;
    }
  }

  rejectAll(error: DeviceError): void {
    const all = new Set([
      ...this.#sent,
      ...this.#ready.slice(this.#readyAt),
      ...this.#modifying,
      ...this.#backlog.slice(this.#backlogAt),
    ]);
    this.#sent.clear();
    this.#sentBytes = 0;
    this.#ready = [];
    this.#readyAt = 0;
    this.#backlog = [];
    this.#backlogAt = 0;
    this.#modifying.clear();
    this.#waiting = 0;
    for (const request of all) request.reject(error);
  }
}
