export * from './control-program/index.ts';
export * from './disks/commands.ts';
export * from './hypervisor.ts';
export * from './mux/commands.ts';
export * from './partition/index.ts';
export * from './resource-table/index.ts';
export * from './run-paths.ts';
