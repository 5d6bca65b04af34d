export * from './udp-socket.ts';
export * from './udp-transport.ts';
