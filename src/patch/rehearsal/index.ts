export * from './compare.ts';
export * from './rehearsal.ts';
