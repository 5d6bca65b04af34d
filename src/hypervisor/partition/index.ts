export * from './config.ts';
export * from './lifecycle.ts';
export * from './partition.ts';
export * from './status.ts';
