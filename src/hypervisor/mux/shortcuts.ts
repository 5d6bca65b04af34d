/**
 * Which packets devices may pass to each other by themselves: IP packets that the forwarder has just passed on by their MAC
 * addresses, unchanged, from one uplink to another, where nobody counts on seeing each of them.
 *
 * The forwarder decides about the first packet of a kind; the device then repeats the decision for packets with the same
 * Ethernet header and IP destination (`ShortcutDevice`). Whatever a decision can rest on makes the devices forget: every command
 * and the mux's tick of a second (`forget`), a MAC that moved (`macsMoved`), somebody who captures (`allow`). So a command takes
 * effect between two packets as ever, and at least one packet a second of each kind keeps the MAC table's times.
 *
 * Packets from or to partitions never take shortcuts: anti-spoofing, flows, holds, notices and fair queues are the forwarder's.
 */
import { hasShortcuts } from '../../netstack/index.ts';
import type { MuxPort } from './state.ts';

/** A packet whose kind cannot have a shortcut asks for one in vain; so few of a batch may ask. */
const TRIES_PER_BATCH = 4;

export class Shortcuts {
  readonly #ports: readonly (MuxPort | undefined)[];
  #allowed = true;
  #made = false;
  #tries = TRIES_PER_BATCH;
  #moves = 0;

  constructor(ports: readonly (MuxPort | undefined)[]) {
    this.#ports = ports;
  }

  /** The IP packet went from one port to the other as it came. */
  learn(from: MuxPort, to: MuxPort, buffer: Uint8Array, offset: number, length: number): void {
    if (!this.#allowed || this.#tries === 0 || !from.isUplink || !to.isUplink) return;
    if (from.sendLimit !== undefined || to.receiveLimit !== undefined || to.shares !== undefined) return;
    if (!hasShortcuts(from.device)) return;
    this.#tries--;
    if (from.device.addShortcut(to.device, buffer, offset, length)) this.#made = true;
  }

  /** From now on something may be decided otherwise. */
  forget(): void {
    if (!this.#made) return;
    this.#made = false;
    for (const port of this.#ports) {
      if (port !== undefined && hasShortcuts(port.device)) port.device.forgetShortcuts();
    }
  }

  /** How many MACs have moved in all. */
  macsMoved(moves: number): void {
    if (moves === this.#moves) return;
    this.#moves = moves;
    this.forget();
  }

  /** Whether there may be any. */
  allow(allowed: boolean): void {
    this.#allowed = allowed;
    this.forget();
  }

  endOfBatch(): void {
    this.#tries = TRIES_PER_BATCH;
  }
}
