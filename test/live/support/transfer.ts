/** Bulk over HTTP, for both ends of a path. */
import { createHash } from 'node:crypto';
import http from 'node:http';

/** Bytes no piece of which equals a misplaced one. */
export function pattern(bytes: number): Buffer {
  const out = Buffer.alloc(bytes);
  for (let i = 0; i + 4 <= bytes; i += 4) out.writeUInt32LE((i * 2_654_435_761) >>> 0, i);
  return out;
}

export const sha = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

async function whole(stream: AsyncIterable<Buffer>): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** Fetches a URL or, given bytes, stores them there; always over a connection of its own. */
export function request(url: string, body?: Buffer): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const method = body === undefined ? 'GET' : 'PUT';
    const asked = http.request(url, { method, agent: false }, (response) => {
      whole(response).then(resolve, reject);
    });
    asked.on('error', reject);
    asked.end(body);
  });
}

/** GET /send?bytes=N · PUT anything → its sha · GET /pull?url=U → sha of what is there · GET /push?url=U&bytes=N → what U says. */
export function transferServer(counters: () => object = () => ({})): http.Server {
  return http.createServer(async (incoming, response) => {
    const { pathname, searchParams } = new URL(incoming.url ?? '/', 'http://x');
    const bytes = Number(searchParams.get('bytes'));
    const url = searchParams.get('url') ?? '';
    try {
      if (incoming.method === 'PUT') response.end(sha(await whole(incoming)));
      else if (pathname === '/send') response.end(pattern(bytes));
      else if (pathname === '/pull') response.end(sha(await request(url)));
      else if (pathname === '/push') response.end(await request(url, pattern(bytes)));
      else response.end(JSON.stringify(counters()));
    } catch (error) {
      response.destroy(error as Error);
    }
  });
}
