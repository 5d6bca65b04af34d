/** Errors as node:net makes them: message, `code`, `errno`, `syscall`, `address`, `port`. */
import { constants } from 'node:os';
import { getSystemErrorMap } from 'node:util';

export interface NetError extends Error {
  code: string;
  errno: number;
  syscall: string;
  address?: string;
  port?: number;
}

const numbers = constants.errno as Readonly<Record<string, number>>;

function build(message: string, code: string, syscall: string): NetError {
  return Object.assign(new Error(message), { errno: -(numbers[code] ?? 0), code, syscall });
}

/** `read ECONNRESET` */
export function errnoException(code: string, syscall: string): NetError {
  return build(`${syscall} ${code}`, code, syscall);
}

/** `connect ECONNREFUSED 10.0.0.2:80`, with ` - Local (…)` when the local end was asked for. */
export function connectException(
  code: string,
  address: string,
  port: number,
  local?: { readonly address: string; readonly port: number },
): NetError {
  const where = `${address}:${port}`;
  const from = local === undefined ? '' : ` - Local (${local.address}:${local.port})`;
  return Object.assign(build(`connect ${code} ${where}${from}`, code, 'connect'), { address, port });
}

/** `bind EADDRNOTAVAIL 10.0.0.9`, with the port when one was asked for. */
export function bindException(code: string, address: string, port?: number): NetError {
  const where = port ? `${address}:${port}` : address;
  return Object.assign(build(`bind ${code} ${where}`, code, 'bind'), { address }, port ? { port } : {});
}

/** `listen EADDRINUSE: address already in use 0.0.0.0:80` */
export function listenException(code: string, address: string, port: number): NetError {
  const text = getSystemErrorMap().get(-(numbers[code] ?? 0))?.[1] ?? 'error';
  return Object.assign(build(`listen ${code}: ${text} ${address}:${port}`, code, 'listen'), {
    address,
    port,
  });
}
