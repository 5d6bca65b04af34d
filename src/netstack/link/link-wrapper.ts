import type { LinkDevice, LinkOffload, LinkReceiver } from './link-device.ts';

/** A link device that passes everything on to another one. Wrappers extend it and change one thing. */
export class LinkWrapper implements LinkDevice {
  protected readonly inner: LinkDevice;

  constructor(inner: LinkDevice) {
    this.inner = inner;
  }

  get name(): string {
    return this.inner.name;
  }

  get mtu(): number {
    return this.inner.mtu;
  }

  get offload(): LinkOffload {
    return this.inner.offload;
  }

  attach(receiver: LinkReceiver): void {
    this.inner.attach(receiver);
  }

  transmit(buffer: Uint8Array, offset: number, length: number): boolean {
    return this.inner.transmit(buffer, offset, length);
  }

  flush(): void {
    this.inner.flush();
  }

  close(): void {
    this.inner.close();
  }
}
