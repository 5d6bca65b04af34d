import type { Clock } from '../../common/index.ts';
import { systemClock } from '../../common/index.ts';
import type { LinkDevice, LinkReceiver } from '../link/index.ts';
import { LinkWrapper } from '../link/index.ts';
import type { CaptureInterface } from './pcapng-blocks.ts';
import type { PcapngWriter } from './pcapng-writer.ts';

/** `name` defaults to the link's. */
export interface CaptureLinkOptions extends Partial<CaptureInterface> {
  readonly clock?: Clock;
}

/** Captures what passes a link in both directions. The writer is the caller's: closing the link leaves it open. */
export class CaptureLink extends LinkWrapper {
  readonly #writer: PcapngWriter;
  readonly #id: number;
  readonly #clock: Clock;

  constructor(inner: LinkDevice, writer: PcapngWriter, options: CaptureLinkOptions = {}) {
    super(inner);
    const { clock, ...description } = options;
    this.#writer = writer;
    this.#clock = clock ?? systemClock;
    this.#id = writer.addInterface({ name: inner.name, ...description });
  }

  override attach(receiver: LinkReceiver): void {
    this.inner.attach({
      receive: (buffer, offset, length) => {
        this.#writer.writePacket(this.#id, 'inbound', this.#clock.wallNs(), buffer, offset, length);
        receiver.receive(buffer, offset, length);
      },
      endOfBatch: () => receiver.endOfBatch(),
      writable: () => receiver.writable(),
    });
  }

  /** A packet that the link did not take is captured when it is given again and taken. */
  override transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    const taken = this.inner.transmit(buffer, offset, length);
    if (taken) this.#writer.writePacket(this.#id, 'outbound', this.#clock.wallNs(), buffer, offset, length);
    return taken;
  }
}
