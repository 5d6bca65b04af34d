export * from './check.ts';
export * from './configuration.ts';
export * from './host.ts';
