export * from './boot-description.ts';
export * from './process-kind.ts';
