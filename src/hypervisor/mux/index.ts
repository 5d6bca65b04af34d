export * from './commands.ts';
export * from './drops.ts';
export * from './flow-table.ts';
export * from './mux.ts';
export * from './mux-error.ts';
export * from './packet-observer.ts';
export type { PortKind, PortOptions, PortRole } from './state.ts';
