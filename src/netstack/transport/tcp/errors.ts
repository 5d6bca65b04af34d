import type { CodedErrorOptions } from '../../../common/index.ts';
import { CodedError } from '../../../common/index.ts';

/** Why a connection or a call failed, in the words of errno(3), which is what applications look for. */
export const TCP_ERRORS = {
  ECONNREFUSED: 'connection refused',
  ECONNRESET: 'connection reset by peer',
  ETIMEDOUT: 'connection timed out',
  EHOSTUNREACH: 'no route to host',
  ENETUNREACH: 'network is unreachable',
  EADDRINUSE: 'address already in use',
  EADDRNOTAVAIL: 'address not available',
  ECONNABORTED: 'software caused connection abort',
  EPIPE: 'broken pipe',
  ENOBUFS: 'no buffer space available',
  EINVAL: 'invalid argument',
} as const;
export type TcpErrorCode = keyof typeof TCP_ERRORS;

export class TcpError extends CodedError {
  declare readonly code: TcpErrorCode;
  constructor(code: TcpErrorCode, detail?: string, options?: CodedErrorOptions) {
    super(code, detail === undefined ? TCP_ERRORS[code] : `${TCP_ERRORS[code]}: ${detail}`, options);
  }
}

/** A connection cannot be exported or imported. */
export class HandOverError extends CodedError {}
