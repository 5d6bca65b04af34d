import { CodedError } from '../../common/index.ts';

/**
 * A command that cannot be carried out. Codes: `unknown-port`, `unknown-address`, `unknown-uplink`, `other-uplink`, `host-address`, `exists`, `bad-argument`,
 * `path-elsewhere`, `still-steered`, `not-supported`, `no-capture`.
 */
export class MuxError extends CodedError {}
