export * from './commands.ts';
export { MUX_DROPS, type MuxDrop } from './drops.ts';
export type { FlowTableOptions, FlowTimeouts } from './flow-table.ts';
export * from './mux.ts';
export * from './mux-error.ts';
export * from './mux-server.ts';
export { BARRIER_ETHERTYPE, MUX_MAC } from './own-frames.ts';
export type { PacketObserver } from './packet-observer.ts';
export type { PortKind, PortOptions, PortRole } from './state.ts';
