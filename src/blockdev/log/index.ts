export * from './dirty-map.ts';
export * from './dm-log-writes.ts';
export * from './format.ts';
export * from './log-aside.ts';
export * from './log-reader.ts';
export * from './plan.ts';
export * from './replay.ts';
export * from './write-log.ts';
