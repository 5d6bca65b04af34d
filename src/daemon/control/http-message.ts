/** HTTP/1.1 messages of the probe (RFC 9112), one request per connection. */
import type { HttpAnswer, ProbeRequest } from '../../patch/index.ts';

/** `Connection: close` is added, and Content-Length where there is a body. */
export function emitRequest(request: ProbeRequest): Buffer {
  const body = Buffer.from(request.body ?? '');
  const headers: Record<string, string> = {
    'user-agent': 'changeover',
    ...Object.fromEntries(
      Object.entries(request.headers ?? {}).map(([name, value]) => [name.toLowerCase(), value]),
    ),
    host: request.host,
    connection: 'close',
    ...(request.body === undefined ? {} : { 'content-length': String(body.length) }),
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
  const head = `${request.method} ${request.path} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`;
  return Buffer.concat([Buffer.from(head, 'latin1'), body]);
}

/** Everything that came until the server closed. Undefined: no whole HTTP/1 answer. */
export function parseAnswer(bytes: Buffer): HttpAnswer | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [first = '', ...lines] = bytes.toString('latin1', 0, end).split('\r\n');
  const status = /^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1];
  if (status === undefined) return undefined;
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const colon = line.indexOf(':');
    if (colon <= 0) return undefined;
    const name = line.slice(0, colon).toLowerCase();
    const value = line.slice(colon + 1).trim();
    headers[name] = headers[name] === undefined ? value : `${headers[name]}, ${value}`;
  }
  const rest = bytes.subarray(end + 4);
  // An interim answer (RFC 9110, 15.2) is followed by the real one.
  if (status.startsWith('1')) return parseAnswer(rest);
  const body = bodyOf(rest, headers);
  return body === undefined ? undefined : { status: Number(status), headers, body };
}

function bodyOf(rest: Buffer, headers: Readonly<Record<string, string>>): Buffer | undefined {
  if (headers['transfer-encoding']?.toLowerCase().endsWith('chunked') === true) return dechunk(rest);
  const length = headers['content-length'];
  // Nothing at all: the answer to HEAD, or 204 and 304, whatever length they name.
  if (length === undefined || rest.length === 0) return rest;
  if (!/^\d+$/.test(length) || Number(length) > rest.length) return undefined;
  return rest.subarray(0, Number(length));
}

function dechunk(bytes: Buffer): Buffer | undefined {
  const parts: Buffer[] = [];
  for (let at = 0; ; ) {
    const end = bytes.indexOf('\r\n', at);
    if (end < 0) return undefined;
    const size = /^([0-9a-fA-F]{1,7})\s*(;.*)?$/.exec(bytes.toString('latin1', at, end))?.[1];
    if (size === undefined) return undefined;
    const length = Number.parseInt(size, 16);
    if (length === 0) return Buffer.concat(parts);
    at = end + 2 + length + 2;
    if (at > bytes.length) return undefined;
    parts.push(bytes.subarray(end + 2, end + 2 + length));
  }
}
