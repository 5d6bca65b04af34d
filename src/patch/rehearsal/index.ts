export * from './compare.ts';
export * from './recorded.ts';
export * from './rehearsal.ts';
