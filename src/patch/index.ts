export * from './errors.ts';
export * from './journal.ts';
export * from './manager.ts';
export * from './patch-table.ts';
export * from './policy.ts';
export * from './run/index.ts';
export * from './source/index.ts';
