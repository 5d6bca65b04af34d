/**
 * Barrier frames of the mux: Ethernet type 0x88B5, payload a 32-bit big-endian token. What the mux holds back after it
 * sent one cannot have been sent before it: who has seen the token has seen everything older.
 */
import { GuestError } from '../errors.ts';

export const BARRIER_ETHERTYPE = 0x88b5;
const KEPT = 64;

export class Barriers {
  readonly #seen: number[] = [];
  readonly #waiting = new Map<number, Set<() => void>>();

  /** One frame's payload at buffer[at, at + length). */
  receive(buffer: Uint8Array, at: number, length: number): void {
    if (length < 4) return;
    const token =
      ((buffer[at]! << 24) | (buffer[at + 1]! << 16) | (buffer[at + 2]! << 8) | buffer[at + 3]!) >>> 0;
    this.#seen.push(token);
    if (this.#seen.length > KEPT) this.#seen.shift();
    const waiting = this.#waiting.get(token);
    this.#waiting.delete(token);
    for (const wake of waiting ?? []) wake();
  }

  /** Resolves when the frame with `token` has come, which may have been before. Throws GuestError `barrier-timeout`. */
  wait(token: number, timeoutMs: number): Promise<void> {
    if (this.#seen.includes(token)) return Promise.resolve();
    return new Promise((resolve, reject) => {
      const set = this.#waiting.get(token) ?? new Set();
      this.#waiting.set(token, set);
      const timer = setTimeout(() => {
        set.delete(wake);
        reject(
          new GuestError('barrier-timeout', `no barrier frame ${token} came within ${timeoutMs} ms`, {
            remedy:
              'the mux sends it to the port that had the path of the address: check that it is attached',
            values: { token, timeoutMs },
          }),
        );
      }, timeoutMs);
      const wake = () => {
        clearTimeout(timer);
        resolve();
      };
      set.add(wake);
    });
  }
}
