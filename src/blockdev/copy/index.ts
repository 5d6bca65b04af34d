export * from './bulk-copy.ts';
export * from './copy-group.ts';
export * from './disk-stack.ts';
export * from './hash.ts';
export * from './invalid-mark.ts';
export * from './rate.ts';
export * from './written-since.ts';
