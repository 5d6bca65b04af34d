import { readFileSync } from 'node:fs';
import { TapError, translating } from './errors.ts';
import { native } from './native.ts';

export type TapSupport =
  | { readonly usable: true; readonly multiQueue: boolean; readonly vnetHeader: boolean }
  | { readonly usable: false; readonly code: string; readonly reason: string; readonly remedy: string };

const IFF_MULTI_QUEUE = 0x0100;
const IFF_VNET_HDR = 0x4000;
const CAP_NET_ADMIN = 12n;

function hasNetAdmin(): boolean {
  try {
    const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
    return effective === undefined || ((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) === 1n;
  } catch {
    return true; // no /proc: opening will tell
  }
}

/** Whether TAP devices can be created here; if not, why, and what to do. Creates nothing, throws nothing. */
export function checkTapSupport(): TapSupport {
  try {
    if (process.platform !== 'linux') {
      throw new TapError(
        'UNSUPPORTED_PLATFORM',
        `TAP devices of this package exist on Linux only, this is ${process.platform}`,
        {
          remedy: 'run it on a Linux host or in a Linux virtual machine',
        },
      );
    }
    const features = translating('TAP devices', () => native().probe());
    if (!hasNetAdmin()) {
      throw new TapError('EPERM', 'this process may not create network interfaces', {
        remedy: 'run as root or with CAP_NET_ADMIN',
      });
    }
    return {
      usable: true,
      multiQueue: (features & IFF_MULTI_QUEUE) !== 0,
      vnetHeader: (features & IFF_VNET_HDR) !== 0,
    };
  } catch (error) {
    if (!(error instanceof TapError)) throw error;
    return {
      usable: false,
      code: error.code,
      reason: error.message,
      remedy: error.remedy ?? 'see the reason',
    };
  }
}
