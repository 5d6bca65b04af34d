export * from './iface/index.ts';
export * from './link/index.ts';
export * from './wire/index.ts';
