/**
 * UDP datagrams in and out, in order. node datagrams.mjs receive '[[family, address, port] …]' prints "ready", then a line for each
 * datagram: which socket, its bytes in base64. node datagrams.mjs send '[[family, address, port, connected] …]' sends what its standard
 * input says, a JSON list of [which socket, bytes in base64], all of it at once, and ends.
 */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';

const [what, text] = process.argv.slice(2);
const ends = JSON.parse(text);
const sockets = ends.map(([family]) =>
  createSocket({ type: family === 6 ? 'udp6' : 'udp4', recvBufferSize: 4 << 20, sendBufferSize: 4 << 20 }),
);

if (what === 'receive') {
  for (const [i, socket] of sockets.entries()) {
    socket.on('message', (message) => process.stdout.write(`${i} ${message.toString('base64')}\n`));
    socket.bind(ends[i][2], ends[i][1]);
    await once(socket, 'listening');
  }
  process.stdout.write('ready\n');
} else {
  for (const [i, socket] of sockets.entries()) {
    const [, address, port, connected] = ends[i];
    if (!connected) continue;
    socket.connect(port, address);
    await once(socket, 'connect');
  }
  await Promise.all(
    JSON.parse(readFileSync(0, 'utf8')).map(([i, base64]) => {
      const [, address, port, connected] = ends[i];
      const bytes = Buffer.from(base64, 'base64');
      return new Promise((sent, failed) => {
        const done = (error) => (error ? failed(error) : sent());
        if (connected) sockets[i].send(bytes, done);
        else sockets[i].send(bytes, port, address, done);
      });
    }),
  );
  for (const socket of sockets) socket.close();
}
