export * from './capture/index.ts';
export * from './iface/index.ts';
export * from './link/index.ts';
export * from './send/index.ts';
export * from './stack.ts';
export * from './transport/udp/index.ts';
export * from './wire/index.ts';
