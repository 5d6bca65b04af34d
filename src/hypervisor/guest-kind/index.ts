export * from './guest-kind.ts';
export * from './process/index.ts';
