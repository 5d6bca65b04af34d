/**
 * The packet send program [2305]: the one path by which everything a stack emits reaches its link (Fig 24).
 * 2401 the packet is made by the caller · 2402 is a change notice set? · 2403 the packet change program · 2404 transmit.
 * Without a notice the cost is one comparison with null.
 *
 * A packet that exists is changed where it stands (`send`). Of a TCP or UDP packet whose headers are about to be written and which
 * leaves at once, the change program is asked for the source before (`sourceOf`, then `transmit`): the same packet leaves,
 * and nothing is written, summed and parsed twice.
 */
import type { LinkDevice } from '../link/index.ts';
import type { IpAddress } from '../wire/index.ts';
import type { ChangeNotice } from './change-notice.ts';

export class PacketSendProgram {
  readonly #link: LinkDevice;
  #notice: ChangeNotice | null = null;
  #sent = 0;
  #refused = 0;

  constructor(link: LinkDevice) {
    this.#link = link;
  }

  get notice(): ChangeNotice | null {
    return this.#notice;
  }

  /** 2204: from the next packet on, the notice holds. It replaces one that was set. */
  setNotice(notice: ChangeNotice): void {
    this.#notice = notice;
  }

  /** All old requests have been processed. */
  cancelNotice(): void {
    this.#notice = null;
  }

  /** Packets given to the link, and packets the link had no room for. */
  get counters(): { readonly sent: number; readonly refused: number } {
    return { sent: this.#sent, refused: this.#refused };
  }

  /**
   * Sends one packet; it may be changed in place. False when the link is full: the caller has to make it anew, since a
   * changed packet is no longer its own. A packet that would announce the notice's first address is swallowed.
   */
  send(buffer: Uint8Array, offset: number, length: number): boolean {
    const notice = this.#notice;
    if (notice !== null && !notice.rewriteOutbound(buffer, offset, length)) {
      if (notice.announcesFirst(buffer, offset, length)) {
        notice.counters.announcementsRefused++;
        return true;
      }
    }
    return this.transmit(buffer, offset, length);
  }

  /**
   * 2402 and 2403 for a TCP or UDP packet that is made now and transmitted next: the source that its headers and checksums are to
   * have. It is counted as changed by this.
   */
  sourceOf<A extends IpAddress>(source: A): A {
    const notice = this.#notice;
    return notice === null ? source : notice.sourceOf(source);
  }

  /** 2404: a packet whose source is that of `sourceOf`. False when the link is full. */
  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    if (this.#link.transmit(buffer, offset, length)) {
      this.#sent++;
      return true;
    }
    this.#refused++;
    return false;
  }

  flush(): void {
    this.#link.flush();
  }
}
