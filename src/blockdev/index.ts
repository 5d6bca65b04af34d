export * from './copy/index.ts';
export * from './device.ts';
export * from './ext4/index.ts';
export * from './filter/index.ts';
export * from './log/index.ts';
export * from './nbd/index.ts';
export * from './range.ts';
export * from './store/index.ts';
