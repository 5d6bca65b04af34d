export * from './limit.ts';
export * from './live.ts';
export * from './namespace.ts';
export * from './netem-guest.ts';
export * from './scratch.ts';
export * from './seed.ts';
export * from './shortcut-reference.ts';
export * from './soak.ts';
