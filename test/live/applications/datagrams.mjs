/** Answers each datagram once, after as long as the request asks for; HTTP beside it for the health check. An ordinary program. */
import dgram from 'node:dgram';
import http from 'node:http';

const socket = dgram.createSocket('udp4');
socket.on('message', (message, peer) => {
  const { id, delayMs } = JSON.parse(message.toString());
  setTimeout(() => {
    socket.send(JSON.stringify({ id, who: process.env.HOSTNAME }), peer.port, peer.address);
  }, delayMs);
});
socket.on('error', (error) => console.error(`datagrams: ${error.message}`));
socket.bind(53, () => http.createServer((_request, response) => response.end('well\n')).listen(80));
