export * from './bench.ts';
export * from './figures.ts';
export * from './stage.ts';
export * from './text.ts';
