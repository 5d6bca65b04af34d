// An ordinary program: node:http on one port, Fastify on the next, a half-open echo on the third.
import { createHash } from 'node:crypto';
import http from 'node:http';
import net from 'node:net';
import Fastify from 'fastify';

const port = Number(process.argv[2]);
const big = Buffer.alloc(64 * 1024 * 1024);
for (let i = 0; i < big.length; i += 4) big.writeUInt32LE((i * 2654435761) >>> 0, i);

http
  .createServer((request, response) => {
    if (request.url === '/big') {
      response.setHeader('content-length', big.length);
      response.setHeader('x-sha256', createHash('sha256').update(big).digest('hex'));
      response.end(big);
    } else if (request.url?.startsWith('/bytes/')) {
      response.end(big.subarray(0, Number(request.url.slice(7))));
    } else if (request.method === 'PUT') {
      const hash = createHash('sha256');
      request.on('data', (chunk) => hash.update(chunk));
      request.on('end', () => response.end(hash.digest('hex')));
    } else if (request.url?.startsWith('/fetch/')) {
      // A client of a server on the kernel's side.
      http.get(`http://${request.url.slice(7)}/`, (upstream) => upstream.pipe(response)).on('error', (error) => response.end(error.message));
    } else {
      response.end('hello\n');
    }
  })
  .listen(port);

const fastify = Fastify();
fastify.get('/', () => ({ server: 'fastify' }));
await fastify.listen({ port: port + 1, host: '0.0.0.0' });

net
  .createServer({ allowHalfOpen: true }, (socket) => {
    let text = '';
    socket.on('error', () => {}); // a peer that resets is the peer's affair
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.on('end', () => socket.end(`you said ${text}`));
  })
  .listen(port + 2, () => console.log('ready'));
