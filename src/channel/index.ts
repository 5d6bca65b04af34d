export * from './client.ts';
export * from './guest-agent.ts';
export * from './patch-table.ts';
export * from './points.ts';
export * from './protocol.ts';
export * from './server.ts';
