export * from './description.ts';
export * from './directory.ts';
