/** `idle-client.mjs HOST COUNT`: opens idle connections and tells how many bytes of memory each costs the server's process. */
import net from 'node:net';

const [host, count] = process.argv.slice(2);
const fail = (error) => {
  console.error(error.message);
  process.exit(1);
};

function memory() {
  return new Promise((done) => {
    let answer = '';
    const socket = net.connect({ host, port: 5201 }, () => socket.write('m'));
    socket.on('error', fail);
    socket.on('data', (data) => {
      answer += data;
    });
    socket.on('end', () => {
      socket.destroy();
      done(Number(answer));
    });
  });
}

function open() {
  return new Promise((done) => {
    const socket = net.connect({ host, port: 5201 }, () => done(socket));
    socket.on('error', fail);
  });
}

await memory();
const before = await memory();
const sockets = [];
while (sockets.length < Number(count)) {
  const batch = Math.min(64, Number(count) - sockets.length);
  sockets.push(...(await Promise.all(Array.from({ length: batch }, open))));
}
const after = await memory();
console.log((after - before) / sockets.length);
for (const socket of sockets) socket.destroy();
process.exit(0);
