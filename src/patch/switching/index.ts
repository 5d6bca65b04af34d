export * from './disks.ts';
export * from './hand-over.ts';
export * from './hold.ts';
export * from './move.ts';
export * from './overlap.ts';
export * from './rollback.ts';
export * from './verify.ts';
