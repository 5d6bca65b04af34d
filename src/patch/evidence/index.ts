export * from './evidence.ts';
export * from './recorder.ts';
