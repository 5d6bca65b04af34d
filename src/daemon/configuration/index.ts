export * from './configuration.ts';
export * from './load.ts';
export * from './problems.ts';
export * from './schema.ts';
export * from './template.ts';
