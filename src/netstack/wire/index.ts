export * from './drop-reason.ts';
export * from './ip-address.ts';
