export * from './errors.ts';
export * from './file-handle.ts';
export * from './file-system.ts';
export * from './image.ts';
export { loadLibrary } from './library.ts';
export * from './stats.ts';
export * from './superblock.ts';
export { MAX_FILE_SIZE, type MountOptions } from './volume.ts';
