/**
 * The other end of M4 and of the idle connections of M6, an ordinary node:net server on port 5201. The first byte of a connection
 * says what is wanted: `o` data without end, `i` it takes data and tells at the end how many bytes came, `m` its memory (bytes
 * of the process, after a collection); without a first byte a connection stays idle.
 */
import net from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');
const BLOCK = Buffer.alloc(256 * 1024, 7);

function send(socket) {
  while (!socket.destroyed && socket.write(BLOCK));
}

net
  .createServer({ allowHalfOpen: true }, (socket) => {
    let received = -1;
    let wanted = '';
    socket.on('error', () => {});
    socket.on('data', (data) => {
      if (wanted === '') {
        wanted = String.fromCharCode(data[0]);
        if (wanted === 'o') {
          socket.on('drain', () => send(socket));
          send(socket);
        }
        if (wanted === 'm') {
          collect();
          socket.end(String(process.memoryUsage.rss()));
        }
      }
      received += data.length;
    });
    socket.on('end', () => socket.end(wanted === 'i' ? String(received) : ''));
  })
  .listen(5201, '0.0.0.0', () => console.log('ready'));
