/** `bulk-client.mjs HOST out|in SECONDS`: bytes per second of one TCP connection, after a tenth of the time as warm-up (out). */
import net from 'node:net';

const [host, direction, seconds] = process.argv.slice(2);
const lengthMs = Number(seconds) * 1000;
const BLOCK = Buffer.alloc(256 * 1024, 7);
const socket = net.connect({ host, port: 5201, allowHalfOpen: true });
socket.on('error', (error) => {
  console.error(error.message);
  process.exit(1);
});

function tell(bytes, startedMs) {
  console.log((bytes * 1000) / (performance.now() - startedMs));
  process.exit(0);
}

socket.on('connect', () => {
  if (direction === 'out') {
    let bytes = 0;
    let startedMs = performance.now();
    setTimeout(() => {
      bytes = 0;
      startedMs = performance.now();
    }, lengthMs / 10);
    setTimeout(() => tell(bytes, startedMs), lengthMs * 1.1);
    socket.on('data', (data) => {
      bytes += data.length;
    });
    socket.write('o');
    return;
  }
  const startedMs = performance.now();
  let open = true;
  let answer = '';
  const send = () => {
    while (open && socket.write(BLOCK));
  };
  socket.on('drain', send);
  socket.on('data', (data) => {
    answer += data;
  });
  // It answers when it has everything: what lay in buffers is not counted for nothing.
  socket.on('end', () => tell(Number(answer), startedMs));
  setTimeout(() => {
    open = false;
    socket.end();
  }, lengthMs);
  socket.write('i');
  send();
});
