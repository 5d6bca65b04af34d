/**
 * How packets leave the mux: what the receiver's link does not understand is done here, what its queue does not take is counted,
 * what somebody captures is shown. The fields are about the packet at hand and belong to the forwarder.
 */
import { VNET_GSO, VNET_HDR_LEN, vnetGsoType, vnetNeedsChecksum } from '../../netstack/index.ts';
import { DROP, FORGED, MUX_DROPS } from './drops.ts';
import { NEWCOMERS } from './fair-queue.ts';
import type { PacketObserver } from './packet-observer.ts';
import { FINE } from './packet-view.ts';
import { completeChecksum, TcpSegmenter } from './segmentation.ts';
import type { MuxPort } from './state.ts';

export class Egress {
  observer: PacketObserver | undefined;
  nowMs = 0;
  /** Index of the port that the packet at hand came from. */
  sender = -1;
  /** Whose share of the receiver's queue it takes: the sender's, or that of all packets of flows that are not known yet. */
  isNewcomer = false;
  /** It has not been captured where it came in. */
  ingressDue = false;
  /** What the capture says of it where it leaves. */
  comment: string | undefined;
  /** A refused packet is kept by the caller: do not count it, say so in `refused`. */
  keepRefused = false;
  refused = false;

  readonly #ports: readonly (MuxPort | undefined)[];
  readonly #segmenter = new TcpSegmenter();
  readonly #dirty: MuxPort[] = [];
  /** Target of the segments being cut. */
  #segmentTarget: MuxPort | undefined;

  constructor(ports: readonly (MuxPort | undefined)[]) {
    this.#ports = ports;
  }

  /** A packet that has come in from the port with this index. */
  begin(sender: number): void {
    this.sender = sender;
    this.isNewcomer = false;
    this.ingressDue = this.observer !== undefined;
    this.comment = undefined;
  }

  /** Sends what the devices have collected. */
  flush(): void {
    for (;;) {
      const port = this.#dirty.pop();
      if (port === undefined) return;
      port.dirty = false;
      port.device.flush();
    }
  }

  /** False when the packet did not get out: refused, or too big. */
  emit(target: MuxPort, buffer: Uint8Array, offset: number, length: number): boolean {
    let taken: boolean;
    if (
      target.receiveLimit !== undefined &&
      !this.keepRefused &&
      !target.mayReceive(buffer, offset, length, this.nowMs)
    ) {
      this.#captureEgress(target, buffer, offset, length, DROP['rate-limit']);
      target.drops[DROP['rate-limit']]!++;
      return false;
    }
    if (target.shares !== undefined && this.sender >= 0 && !this.keepRefused) {
      const share = this.isNewcomer ? NEWCOMERS : NEWCOMERS + 1 + this.sender;
      if (!target.admits(share, length)) {
        this.#captureEgress(target, buffer, offset, length, DROP['queue-full']);
        target.drops[DROP['queue-full']]!++;
        return false;
      }
      target.shares.add(share, length, this.nowMs);
    }
    if (buffer[offset] === 0 && buffer[offset + 1] === 0) {
      if (length - VNET_HDR_LEN > target.maxFrame) {
        this.#captureEgress(target, buffer, offset, length, DROP['too-big']);
        target.drops[DROP['too-big']]!++;
        return false;
      }
      this.#captureEgress(target, buffer, offset, length, FINE);
      taken = target.device.transmit(buffer, offset, length);
    } else taken = this.#emitOffloaded(target, buffer, offset, length);
    if (!taken) {
      target.blocked = true;
      if (this.keepRefused) this.refused = true;
      else target.drops[DROP['queue-full']]!++;
      return false;
    }
    target.transmitted++;
    target.transmittedBytes += length - VNET_HDR_LEN;
    if (!target.dirty) {
      target.dirty = true;
      this.#dirty.push(target);
    }
    return true;
  }

  /** The packet has an offload header that says something. True also when it was dropped here. */
  #emitOffloaded(target: MuxPort, buffer: Uint8Array, offset: number, length: number): boolean {
    const gso = vnetGsoType(buffer, offset);
    const carried =
      gso === VNET_GSO.NONE ||
      (gso === VNET_GSO.TCPV4 && target.tcp4) ||
      (gso === VNET_GSO.TCPV6 && target.tcp6);
    if (gso === VNET_GSO.NONE && length - VNET_HDR_LEN > target.maxFrame) {
      this.#captureEgress(target, buffer, offset, length, DROP['too-big']);
      target.drops[DROP['too-big']]!++;
      return true;
    }
    this.#captureEgress(target, buffer, offset, length, FINE);
    if (carried) {
      if (!target.checksum && vnetNeedsChecksum(buffer, offset)) completeChecksum(buffer, offset, length);
      return target.device.transmit(buffer, offset, length);
    }
    this.#segmentTarget = target;
    const cuttable = gso === VNET_GSO.TCPV4 || gso === VNET_GSO.TCPV6;
    if (!cuttable || !this.#segmenter.segment(buffer, offset, length, this.#giveSegment)) {
      target.drops[DROP['segmentation']]!++;
    }
    return true;
  }

  readonly #giveSegment = (segment: Uint8Array, offset: number, length: number): void => {
    const target = this.#segmentTarget!;
    if (target.device.transmit(segment, offset, length)) return;
    target.blocked = true;
    target.drops[DROP['queue-full']]!++;
  };

  /** Counts a packet that ends here, at `port`. */
  drop(port: MuxPort, reason: number, buffer: Uint8Array, offset: number, length: number): void {
    port.drops[reason]!++;
    if (FORGED[reason] === 1) port.forged(this.nowMs);
    if (this.observer === undefined) return;
    const comment = `dropped: ${MUX_DROPS[reason]}`;
    if (this.ingressDue) {
      this.ingressDue = false;
      const from = this.#ports[this.sender] ?? port;
      this.observer.packet(from.name, true, buffer, offset, length, comment);
    } else this.observer.packet(port.name, false, buffer, offset, length, comment);
  }

  // ---- capture

  /** Adds to what the capture says of the packet where it leaves. */
  remark(text: string): void {
    this.comment = this.comment === undefined ? text : `${this.comment}; ${text}`;
  }

  /** Shows the packet where it came in, unless that has been done. */
  captureIngress(
    port: MuxPort,
    buffer: Uint8Array,
    offset: number,
    length: number,
    comment: string | undefined,
  ): void {
    if (!this.ingressDue) return;
    this.ingressDue = false;
    this.observer?.packet(port.name, true, buffer, offset, length, comment);
  }

  #captureEgress(target: MuxPort, buffer: Uint8Array, offset: number, length: number, why: number): void {
    if (this.observer === undefined) return;
    const comment = why === FINE ? this.comment : `dropped: ${MUX_DROPS[why]}`;
    this.observer.packet(target.name, false, buffer, offset, length, comment);
  }
}
