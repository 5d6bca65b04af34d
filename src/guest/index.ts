export * from './configuration.ts';
export * from './errors.ts';
export * from './namespace.ts';
export * from './patch-program.ts';
export * from './start-up.ts';
