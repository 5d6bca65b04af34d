export * from './coalesced.ts';
export * from './failed-mark.ts';
export * from './file-lock.ts';
export * from './file-store.ts';
export * from './inline-budget.ts';
export * from './memory-store.ts';
